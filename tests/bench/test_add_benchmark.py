# SPDX-License-Identifier: Apache-2.0
"""The benchmark's arithmetic on samples with known answers, and its C programs once over on the real kernel.

Knows the output format of the C programs. Must never assert a speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from bench.add import Sample, Scenario, figures, flatness, percentile, run_all, summarise
from bench.peers import BUILD, HERE, BenchmarkError, compile_programs, parse
from bench.variants import VARIANTS, named

from bench import forward
from vpccni.settings import parse as parse_settings

ONE = Scenario("one at a time", callers=1, present=0, pods=2)
MS = 1_000_000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


def test_percentiles_are_values_that_occurred():
    values = list(range(100, 0, -1))
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7], 0.99)) == (51, 100, 7)


def test_ratios_and_shares_follow_from_medians_over_repetitions():
    samples = {
        "floor": [Sample([1 * MS, 1 * MS], 2 * MS, start_ns=[MS // 4, MS // 4])],
        "relay": [Sample([MS // 2, MS // 2], MS)],
        "node": [Sample([3 * MS, 3 * MS], 6 * MS), Sample([9 * MS, 9 * MS], 18 * MS), Sample([3 * MS] * 2, 6 * MS)],
    }
    row = summarise(ONE, samples)
    assert row["p50_to_floor"] == pytest.approx(3.0)  # the slow repetition is not the median
    assert row["throughput_to_floor"] == pytest.approx(3.0)
    shares = row["shares"]
    assert {part: share["ms"] for part, share in shares.items()} == pytest.approx(
        {"relay": 0.5, "kernel": 0.75, "daemon": 1.75}
    )
    assert sum(share["of_p50"] for share in shares.values()) == pytest.approx(1.0)


def test_without_a_node_there_is_no_ratio():
    row = summarise(ONE, {"floor": [Sample([MS], MS, start_ns=[1])], "relay": [Sample([MS], MS)]})
    assert "p50_to_floor" not in row
    assert json.dumps(row)


def test_two_pods_with_one_address_are_an_error_and_not_a_figure():
    doubled = "present 0 0 10.0.0.1\nadd 1 5 10.0.0.1\nwall 9\n"
    with pytest.raises(BenchmarkError, match=r"two pods got one address: 10\.0\.0\.1"):
        parse(doubled, unique=True)
    assert parse(doubled.replace("10.0.0.1\nw", "10.0.0.2\nw"), unique=True) == Sample([5], 9)


def test_cpu_time_is_per_pod_and_has_a_ratio():
    samples = {
        "floor": [Sample([MS, MS], 2 * MS, start_ns=[1, 1], cpu_ns=2 * MS)],
        "relay": [Sample([MS, MS], MS)],
        "node": [Sample([MS, MS], MS, del_ns=[MS, MS], cpu_ns=6 * MS, del_cpu_ns=4 * MS)],
    }
    row = summarise(ONE, samples)
    assert (row["floor"]["cpu_ms"], row["node"]["cpu_ms"], row["node"]["del_cpu_ms"]) == (1.0, 3.0, 2.0)
    assert row["cpu_to_floor"] == pytest.approx(3.0)


def test_flatness_compares_the_fullest_node_with_the_emptiest():
    rows = [
        {"present": present, "callers": callers, "node": {"p50_ms": ms}}
        for present, callers, ms in [(0, 1, 9.0), (10, 1, 2.0), (700, 1, 3.0), (10, 16, 8.0), (700, 16, 8.0)]
    ]
    assert flatness(rows) == {"one at a time": 1.5, "16 at once": 1.0}
    assert flatness(rows[:2]) == {}
    assert flatness([{**row, "floor": {"p50_ms": row["present"] / 10}} for row in rows], "floor")["one at a time"] == 70


def test_a_node_is_compared_with_the_floor_of_its_family():
    def runs(ms):
        return [Sample([ms * MS, ms * MS], 2 * ms * MS, start_ns=[1, 1])]

    both = {"floor of IPv4": runs(1), "floor of IPv6": runs(2), "relay": runs(1), "ipv6": runs(6)}
    roles = {"floor": "floor of IPv6", "relay": "relay", "node": "ipv6"}
    (row,) = figures({ONE: both}, roles)["rows"]
    assert row["p50_to_floor"] == pytest.approx(3.0)
    del both["ipv6"]  # --without-node
    assert figures({ONE: both}, roles).keys() == {"rows"}


def test_the_cost_of_packets_is_the_ratio_of_medians():
    rates = [("rr", "pod", 10, rate) for rate in (100.0, 110.0, 5.0)] + [("rr", "pod", 700, 50.0)]
    assert forward.summarise(rates) == [
        {
            "kind": "rr",
            "to": "pod",
            "few": 10,
            "many": 700,
            "few_per_s": 100.0,
            "many_per_s": 50.0,
            "cost_ratio": 2.0,
        }
    ]


def test_the_settings_of_every_variant_are_accepted_by_the_daemon():
    for variant in VARIANTS:
        assert parse_settings(variant.settings).warnings == (), "a setting is misspelt"
    with pytest.raises(ValueError, match="no variant 'ipv5'; there are ipv4"):
        named("ipv4,ipv5")
    assert [variant.name for variant in named("prefix,ipv4,prefix")] == ["prefix", "ipv4"]


def test_peers_take_turns():
    order = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def run(self, scenario):
            order.append(self.name)
            return Sample([1], 1)

        def forward(self, few, many, slices):
            order.append(f"packets of {self.name}")
            return [("rr", "pod", few, 1.0)]

    run_all([ONE], [Recorder("floor"), Recorder("node")], repetitions=2)
    forward.run([Recorder("ipv4"), Recorder("ipv6")], rounds=2)
    assert order[:4] == ["floor", "node", "floor", "node"]
    assert order[4:] == ["packets of ipv4", "packets of ipv6"] * 2


@needs_root
@pytest.mark.netns
def test_floor_and_relay_run_on_this_kernel():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--without-node", "--quick", "-o", "json"],
        cwd=HERE.parent, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [row for result in json.loads(done.stdout) for row in result["rows"]]
    assert [row["callers"] for row in rows] == [1, 16]
    assert all(row["floor"]["p50_ms"] > row["floor"]["start_p50_ms"] > 0 for row in rows)
    assert all(row["floor"]["cpu_ms"] > 0 for row in rows)


@needs_root
@pytest.mark.netns
def test_the_floor_wires_pods_of_either_family():
    compile_programs()
    for family in ("4", "6"):
        done = subprocess.run(
            [BUILD / "floor", BUILD / "empty", "3", "4", "2", family], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr  # it looks for the address in every pod itself
        assert len(parse(done.stdout, start=True).add_ns) == 4


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["floor", "/nonexistent", "0", "1", "1", "4"], "cannot start /nonexistent"),
        (["floor", "x", "0", "many", "1", "4"], "PODS is a number"),
        (["floor", "x", "0", "1", "1", "5"], "FAMILY is 4 or 6"),
        (["spawn", "/bin/false", "/dev/null", "-", "p", "0", "1", "1", "0"], "ADD of pod 0 failed"),
        (["spawn", "/bin/true", "/dev/null", "-", "p", "0", "1", "1", "0"], "has no address"),
        (["spawn", "/bin/true", "/dev/null", "-", "p", "0", "1", "1", "me"], "me is no process"),
        (["forward", "/bin/false", "/dev/null", "p", "2", "2", "1", "/dev/null", "10.0.0.1"], "ADD of pod 0 failed"),
        (["forward", "/bin/true", "/dev/null", "p", "2", "1", "1", "/dev/null", "10.0.0.1"], "MANY is a number"),
    ],
)
def test_a_pod_that_fails_fails_the_benchmark(words, named):
    compile_programs()
    done = subprocess.run([BUILD / words[0], *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert named in done.stderr
