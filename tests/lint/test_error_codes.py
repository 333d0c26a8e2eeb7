# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md has a row for every code that the source can say, and for no other."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import error_codes
import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| (`[^|]*`) \| (.*) \|")


def documented(text: str) -> dict[str, list[str]]:
    """code or pattern -> the other cells of its row."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = ROW.fullmatch(line)
        if match:
            for code in re.findall(r"`([^`]+)`", match[1]):
                assert code not in found, f"{code} has two rows"
                found[code] = [cell.strip() for cell in match[2].split(" | ")]
    return found


TABLE = documented((ROOT / "docs" / "errors.md").read_text())
SAID, UNKNOWN = error_codes.of_package(ROOT / "src" / "vpccni")


def test_every_code_in_the_source_has_a_row() -> None:
    missing = {code: path for code, path in SAID.items() if code not in TABLE}
    assert missing == {}


def test_every_row_has_a_code_in_the_source() -> None:
    stale = [
        code for code in TABLE if code not in SAID and not any(fnmatchcase(code, pattern) for pattern in _patterns())
    ]
    assert stale == []


def test_no_file_hands_a_code_through_in_a_way_that_is_not_known() -> None:
    assert UNKNOWN == []


def test_every_row_says_who_when_whether_to_retry_and_what_next() -> None:
    for code, cells in TABLE.items():
        assert len(cells) == 4 and all(cells), code
        assert cells[2].startswith(("yes", "no")), code


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ('raise HostError("a", "b", code="new-code")', {"new-code"}),
        ('class New(Refused):\n    code: ClassVar[str] = "new-code"', {"new-code"}),
        ('steps.append(Wait("new-code", None, ""))', {"new-code"}),
        ('raise refusal.conflict("a", "b", "new-code")', {"new-code"}),
        ('code, why = "new-code", "x"', {"new-code"}),
        ('code, why = ("new-code", 1) if x else ("other-code", 2)', {"new-code", "other-code"}),
        ('code = "new-code" if x else "other-code"', {"new-code", "other-code"}),
        ('raise HostError("a", "b", code=f"new-{x}")', {"new-*"}),
        ('_HINTS = {"new-code": "do it"}', {"new-code"}),
        ('open("x", code="Not A Code")', set()),
    ],
)
def test_a_new_code_is_found_however_it_is_written(text: str, codes: set[str]) -> None:
    assert error_codes.of_source(text)[0] == codes


def test_a_code_that_comes_from_elsewhere_is_reported() -> None:
    assert error_codes.of_source('raise HostError("a", "b", code=chosen)')[1] == {"chosen"}


def _patterns() -> list[str]:
    return [code for code in SAID if "*" in code]
