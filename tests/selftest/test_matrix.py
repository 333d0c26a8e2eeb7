# SPDX-License-Identifier: Apache-2.0
"""The matrix itself: whole, unambiguous, and the same as in the document."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from vpccni.cli.selftest import choose, narrowed
from vpccni.errors import InputError
from vpccni.selftest.describe import markdown
from vpccni.selftest.matrix import Conditions, Row, Seen
from vpccni.selftest.rows import matrix

FLOWS = Path(__file__).parents[2] / "docs" / "flows.md"
SWITCHES = (True, False)


def every(version: int) -> list[Conditions]:
    return [Conditions(version, *switches) for switches in product(SWITCHES, repeat=4)]


def test_names_are_unique_and_every_number_up_to_19_has_a_row() -> None:
    names = [row.name for row in matrix()]
    assert len(names) == len(set(names))
    # With external SNAT rows 9 and 10 are what upstream counts as 11 and 12.
    assert {row.number for row in matrix()} == set(range(1, 20))


@pytest.mark.parametrize("row", matrix(), ids=lambda row: row.name)
def test_every_row_says_what_holds_under_every_combination_of_settings(row: Row) -> None:
    for version in row.versions:
        assert all(row.case(conditions) is not None for conditions in every(version))


@pytest.mark.parametrize("row", matrix(), ids=lambda row: row.name)
def test_a_case_that_holds_names_what_it_needs_and_one_that_fails_says_why(row: Row) -> None:
    for case in row.cases:
        if case.seen is Seen.NOBODY:
            assert case.why and not case.breaks
        else:
            assert case.breaks or case.why


def test_every_case_of_a_row_is_the_first_one_to_match_somewhere() -> None:
    for row in matrix():
        met = {row.cases.index(row.case(each)) for version in row.versions for each in every(version)}
        assert met == set(range(len(row.cases))), row.name


def test_the_document_shows_the_matrix() -> None:
    assert markdown(matrix()) in FLOWS.read_text(), "put the output of vpccni.selftest.describe.markdown into it"


def test_rows_are_chosen_by_number_range_and_name() -> None:
    assert {row.number for row in choose("1,9-10")} == {1, 9, 10}
    assert [row.name for row in choose("site-to-sec*")] == ["site-to-secondary"]
    assert choose("") == matrix()
    for wrong in ("20", "0", "nothing-like-it", "5-4"):
        with pytest.raises(InputError, match="the matrix has none"):
            choose(wrong)


def test_rows_are_narrowed_to_a_protocol_and_a_family() -> None:
    rows = narrowed(matrix(), "udp", 6)
    assert {(row.protocols, row.versions) for row in rows} == {(("udp",), (6,))}
    assert "secondary-to-service-far" in {row.name for row in rows} and "secondary-to-site" not in {
        row.name for row in rows
    }
    assert narrowed(matrix(), "", 0) == matrix()
    for protocol, version in (("sctp", 0), ("", 5)):
        with pytest.raises(InputError, match="no row that was asked for"):
            narrowed(matrix(), protocol, version)


def test_node_ports_reach_pods_on_secondary_interfaces_in_either_family_where_they_are_supported() -> None:
    rows = [row for row in matrix() if "node-port" in row.name and row.name.endswith("secondary")]
    assert len(rows) == 6
    for row in rows:
        for version in (4, 6):
            assert row.case(Conditions(version)).seen is not Seen.NOBODY
            assert row.case(Conditions(version, node_port_support=False)).seen is Seen.NOBODY
