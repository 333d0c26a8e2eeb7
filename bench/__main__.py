# SPDX-License-Identifier: Apache-2.0
"""Command line of the benchmarks: reads the options, runs, prints.

Knows options and output formats. Must never measure anything by itself; `bench.add` and `bench.forward` do. People call
it by `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from typing import Any

from bench import forward
from bench.add import SCENARIOS, figures, run_all
from bench.peers import BenchmarkError, Echo, Floor, Node, compile_programs
from bench.report import print_all
from bench.variants import VARIANTS, named


def options() -> argparse.Namespace:
    """The parsed command line; argparse ends with exit code 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="What a pod and a packet cost, against a floor."
    )
    known = ", ".join(variant.name for variant in VARIANTS)
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="medians are taken over these (3)")
    parser.add_argument("--variants", default="all", metavar="LIST", help=f"all, or some of {known}, comma-separated")
    parser.add_argument("--only", choices=["add", "forward"], help="ADD and DEL, or the cost of packets; else both")
    parser.add_argument("--quick", action="store_true", help="one repetition of two scenarios, to see that it works")
    parser.add_argument("--without-node", action="store_true", help="floor and relay only: no lab is started")
    parser.add_argument("--instance-type", default="c5.18xlarge", help="of the measured node (c5.18xlarge)")
    parser.add_argument("-o", dest="output", choices=["table", "json"], default="table", help="output format (table)")
    chosen = parser.parse_args()
    if chosen.repetitions < 1:
        parser.error("--repetitions must be 1 or more")
    try:
        chosen.variants = named("ipv4" if chosen.variants == "all" and chosen.quick else chosen.variants)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def main() -> int:
    """Run the benchmark; 0, or 1 with a message when something did not work."""
    chosen = options()
    if os.geteuid() != 0:
        print("bench: cannot make network namespaces: run it as root", file=sys.stderr)
        return 1
    try:
        compile_programs()
        results = measure(chosen)
    except BenchmarkError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if chosen.output == "json":
        print(json.dumps(results, indent=2))
    else:
        print_all(results)
    return 0


def measure(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """All figures of every chosen kind of node. They stand side by side and take turns, so they can be compared."""
    scenarios = SCENARIOS[:2] if chosen.quick else SCENARIOS
    repetitions = 1 if chosen.quick else chosen.repetitions
    results: dict[str, dict[str, Any]] = {variant.name: {"variant": variant.name} for variant in chosen.variants}
    with ExitStack() as stack:
        floors = {family: Floor(family) for family in sorted({variant.family for variant in chosen.variants})}
        relay = stack.enter_context(Echo())
        kinds = () if chosen.without_node else chosen.variants
        nodes = [stack.enter_context(Node(chosen.instance_type, variant)) for variant in kinds]
        if chosen.only != "forward":
            samples = run_all(scenarios, [*floors.values(), relay, *nodes], repetitions)
            for variant in chosen.variants:
                roles = {"floor": floors[variant.family].name, "relay": relay.name, "node": variant.name}
                results[variant.name].update(figures(samples, roles))
        if chosen.only != "add" and nodes:
            slices, many = (1, 20) if chosen.quick else (forward.SLICES, forward.MANY)
            for name, rates in forward.run(nodes, repetitions, slices, many).items():
                results[name]["forwarding"] = forward.summarise(rates)
    return list(results.values())


if __name__ == "__main__":
    sys.exit(main())
