# SPDX-License-Identifier: Apache-2.0
"""Trace files and generated loads: what is accepted, what is refused with its line, what a seed fixes."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from vpccni.sim import profiles
from vpccni.sim.trace import PodEvent, TraceError, parse


def lines(*events: dict[str, object]) -> list[str]:
    return [json.dumps(event) + "\n" for event in events]


def test_pods_that_name_no_node_go_where_the_fewest_are() -> None:
    events, left_out = parse(
        lines(*({"t": number, "op": "add", "pod": f"p{number}"} for number in range(6))), nodes=3, capacity=10
    )
    assert Counter(event.node for event in events) == {0: 2, 1: 2, 2: 2}
    assert left_out == 0


def test_a_pod_that_finds_every_node_full_is_left_out_with_its_departure() -> None:
    text = lines(
        {"t": 0, "op": "add", "pod": "a"},
        {"t": 1, "op": "add", "pod": "b"},
        {"t": 2, "op": "del", "pod": "b"},
        {"t": 3, "op": "del", "pod": "a"},
        {"t": 4, "op": "add", "pod": "c"},
    )
    events, left_out = parse(text, nodes=1, capacity=1)
    assert [(event.pod, event.add) for event in events] == [("a", True), ("a", False), ("c", True)]
    assert left_out == 1


def test_nodes_may_have_names_or_numbers_and_blank_lines_are_skipped() -> None:
    events, _ = parse(
        [
            *lines({"t": 0, "op": "add", "pod": "a", "node": "ip-10-0-0-7"}),
            "\n",
            *lines({"t": 1.5, "op": "add", "pod": "b", "node": 1}),
        ],
        nodes=2,
        capacity=5,
    )
    assert events == [PodEvent(0.0, True, "a", 0), PodEvent(1.5, True, "b", 1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (['{"t": 0, "op": "add", "pod": "a"}\n', "nonsense\n"], "line 2: JSON is malformed"),
        (['{"t": 0, "op": "move", "pod": "a"}\n'], "line 1: op 'move'"),
        (['{"t": 0, "pod": "a"}\n'], "line 1: Object missing required field `op`"),
        (['{"t": "now", "op": "add", "pod": "a"}\n'], "line 1: Expected `float`"),
        (['{"t": -1, "op": "add", "pod": "a"}\n'], "line 1: t -1"),
        (['{"t": 0, "op": "add", "pod": ""}\n'], "line 1: pod is empty"),
        (['{"t": 0, "op": "add", "pod": "a", "size": 3}\n'], "line 1: Object contains unknown field `size`"),
        (['{"t": 5, "op": "add", "pod": "a"}\n', '{"t": 4, "op": "del", "pod": "a"}\n'], "line 2: t 4 is before"),
        (['{"t": 5, "op": "add", "pod": "a"}\n', '{"t": 6, "op": "add", "pod": "a"}\n'], "line 2: pod 'a' is there"),
        (['{"t": 5, "op": "del", "pod": "a"}\n'], "line 1: pod 'a' is not there"),
        (['{"t": 5, "op": "add", "pod": "a", "node": 2}\n'], "line 1: node 2 does not exist"),
        (['{"t": 5, "op": "add", "pod": "a", "node": -1}\n'], "line 1: node -1 does not exist"),
        ([], "it holds no event"),
    ],
)
def test_wrong_lines_are_refused_with_their_numbers(text: list[str], said: str) -> None:
    with pytest.raises(TraceError) as refused:
        parse(text, nodes=2, capacity=5)
    assert said in refused.value.message


def test_every_wrong_line_is_named_up_to_a_few() -> None:
    with pytest.raises(TraceError) as refused:
        parse(["x\n"] * 9, nodes=1, capacity=1)
    assert "line 5" in refused.value.message
    assert "and 4 more" in refused.value.message
    assert refused.value.evidence == {"wrong_lines": 9}


def test_too_many_node_names_are_refused() -> None:
    text = lines(*({"t": 0, "op": "add", "pod": f"p{n}", "node": f"node-{n}"} for n in range(3)))
    with pytest.raises(TraceError, match="3th name, there are 2 nodes"):
        parse(text, nodes=2, capacity=5)


@pytest.mark.parametrize("kind", [*profiles.PROFILES, *profiles.SCENARIOS])
def test_generated_pods_fit_their_node_and_depend_on_the_seed_only(kind: str) -> None:
    def made(seed: int) -> list[PodEvent]:
        return profiles.events(kind, seed, nodes=4, capacity=20, slots=9, duration_s=7200.0, warm_up_s=600.0)

    events = made(7)
    assert events == made(7)
    assert [event.t for event in events] == sorted(event.t for event in events)
    there: Counter[int] = Counter()
    known: set[str] = set()
    for event in events:
        there[event.node] += 1 if event.add else -1
        assert 0 <= there[event.node] <= 20
        assert (event.pod in known) is not event.add
        known ^= {event.pod}
    if kind != "cold-start":
        assert events != made(8)


def test_more_nodes_do_not_change_the_pods_of_the_first_ones() -> None:
    few = profiles.events("web", 1, 2, 20, 9, 7200.0)
    many = [event for event in profiles.events("web", 1, 5, 20, 9, 7200.0) if event.node < 2]
    assert few == many
