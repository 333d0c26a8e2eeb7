# SPDX-License-Identifier: Apache-2.0
"""The report: one file, well formed, nothing fetched, the same for the same results."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from runs import job, played

from vpccni.sim import svg
from vpccni.sim.report import render
from vpccni.sim.svg import Curve


@pytest.fixture(scope="module")
def page() -> str:
    runs = [
        played("churn", policy=policy, nodes=3, duration_s=600.0, label=f"<{policy}>")
        for policy in ("ours", "upstream")
    ]
    return render(runs, "churn")


def test_it_needs_nothing_but_itself(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", page)


def test_it_is_drawn_for_light_and_dark(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "color-scheme: light dark" in page


def test_every_plot_is_well_formed_and_stays_in_its_frame(page: str) -> None:
    plots = re.findall(r"<svg class=\"plot\".*?</svg>", page, re.DOTALL)
    assert len(plots) >= 7
    for plot in plots:
        root = ElementTree.fromstring(plot)
        for path in root.iter("path"):
            for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.attrib["d"]):
                assert 0 <= float(x) <= svg.WIDTH
                assert 0 <= float(y) <= svg.HEIGHT


def test_labels_are_escaped(page: str) -> None:
    assert "&lt;upstream&gt;" in page
    assert "<upstream>" not in page


def test_it_shows_what_was_asked_for(page: str) -> None:
    for text in ("held", "wasted", "throttled", "p99", "worst", "ENIs", "all-cooling", "AssignPrivateIpAddresses"):
        assert text in page


def test_the_same_results_give_the_same_page() -> None:
    first, second = (render([played("churn", nodes=2, duration_s=300.0)], "churn") for _ in range(2))
    assert first == second


def test_gaps_break_a_line_and_lone_points_are_seen() -> None:
    drawn = svg.lines([0.0, 1.0, 2.0, 3.0], [Curve("a", [1.0, 2.0, None, 3.0], 0)], "x")
    path = re.search(r'class="line c0" d="([^"]+)"', drawn)
    assert path is not None
    assert path.group(1).count("M") == 2
    assert "h2.5" in path.group(1)


def test_nothing_to_plot_is_no_error() -> None:
    assert "<svg" in svg.lines([], [], "x")
    assert "<svg" in svg.stacked([0.0], [Curve("a", [0.0], 0)], "x")
    assert job().label == ""
