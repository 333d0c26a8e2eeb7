# SPDX-License-Identifier: Apache-2.0
"""JUnit XML that build servers read: counts that add up, names that are unique, text that XML can hold."""

from __future__ import annotations

from xml.etree import ElementTree

from vpccni.selftest.report import junit, plain
from vpccni.selftest.rows import matrix
from vpccni.selftest.run import Result

ROW = matrix()[0]
RESULTS = [
    Result("1", ROW, 4, "tcp", "passed", "a", "b", "c", "d", took_ms=1.5),
    Result("1", ROW, 4, "tcp", "failed", "a", "b", "c", "<&\x00>", why='not "that"', negative="rule 512"),
    Result("1", ROW, 4, "udp", "skipped", why="there is none"),
    Result("2", ROW, 4, "tcp", "passed", took_ms=2.5),
]


def test_counts_of_document_and_suites_agree_with_the_cases() -> None:
    root = ElementTree.fromstring(junit(RESULTS))
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["node 1", "node 2"]
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        for name, attribute in (("failure", "failures"), ("skipped", "skipped")):
            assert element.get(attribute) == str(sum(case.find(name) is not None for case in cases))
        assert float(element.get("time", "")) == sum(float(case.get("time", "")) for case in cases)
    names = [(suite.get("name"), case.get("name")) for suite in root for case in suite]
    assert len(names) == len(set(names)) == len(RESULTS)


def test_a_failure_says_what_was_expected_and_seen() -> None:
    failure = ElementTree.fromstring(junit(RESULTS)).find(".//failure")
    assert failure is not None and failure.get("message") == 'not "that"'
    assert failure.text == "from a to b: expected c; <&?>"


def test_json_has_the_same() -> None:
    found = plain(RESULTS[1])
    assert (found["row"], found["negative"], found["verdict"]) == (1, "rule 512", "failed")
