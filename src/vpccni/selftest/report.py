# SPDX-License-Identifier: Apache-2.0
"""Results as plain values for JSON and as JUnit XML for build servers.

Knows the results of a run. Must never judge them. The command line prints what this returns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree

from vpccni.selftest.run import Result

# XML 1.0 has no notation for these at all.
_UNUSABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def plain(result: Result) -> dict[str, object]:
    """One result as JSON has it."""
    return {
        "node": result.node,
        "row": result.row.number,
        "name": result.row.name,
        "version": result.version,
        "protocol": result.protocol,
        "negative": result.negative or None,
        "from": result.source,
        "to": result.target,
        "expected": result.expected,
        "observed": result.observed,
        "verdict": result.verdict,
        "why": result.why,
        "ms": result.took_ms,
    }


def junit(results: Sequence[Result]) -> str:
    """A JUnit document with a suite for each node and a case for each result."""
    root = ElementTree.Element("testsuites", {"name": "vpccni selftest", **_counts(results)})
    for node, group in groupby(results, key=lambda result: result.node):
        members = list(group)
        suite = ElementTree.SubElement(root, "testsuite", {"name": f"node {node}", **_counts(members)})
        for result in members:
            _case(suite, result)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, result: Result) -> None:
    names = {"classname": f"flows.row{result.row.number}", "name": _text(result.name)}
    case = ElementTree.SubElement(suite, "testcase", {**names, "time": f"{result.took_ms / 1000:.6f}"})
    if result.verdict == "skipped":
        ElementTree.SubElement(case, "skipped", {"message": _text(result.why)})
    elif result.verdict == "failed":
        failure = ElementTree.SubElement(case, "failure", {"message": _text(result.why), "type": "flow"})
        failure.text = _text(f"from {result.source} to {result.target}: expected {result.expected}; {result.observed}")


def _counts(results: Sequence[Result]) -> dict[str, str]:
    verdicts = Counter(result.verdict for result in results)
    took_s = sum(result.took_ms for result in results) / 1000
    return {
        "tests": str(len(results)),
        "failures": str(verdicts["failed"]),
        "errors": "0",
        "skipped": str(verdicts["skipped"]),
        "time": f"{took_s:.6f}",
    }


def _text(text: str) -> str:
    return _UNUSABLE.sub("?", text)
