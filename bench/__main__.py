# SPDX-License-Identifier: Apache-2.0
"""Command line of the benchmarks: reads the options, runs, prints.

Knows options and output formats. Must never measure anything by itself; `bench.add` does. People call
it by `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack

from bench.add import SCENARIOS, Peer, run_all, summarise
from bench.peers import BenchmarkError, Echo, Floor, Node, compile_programs
from bench.report import print_table


def options() -> argparse.Namespace:
    """The parsed command line; argparse ends with exit code 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="ADD from exec to result, against its floor.")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="medians are taken over these (5)")
    parser.add_argument("--quick", action="store_true", help="one repetition of two scenarios, to see that it works")
    parser.add_argument("--without-node", action="store_true", help="floor and relay only: no lab is started")
    parser.add_argument("--instance-type", default="c5.18xlarge", help="of the measured node (c5.18xlarge)")
    parser.add_argument("-o", dest="output", choices=["table", "json"], default="table", help="output format (table)")
    chosen = parser.parse_args()
    if chosen.repetitions < 1:
        parser.error("--repetitions must be 1 or more")
    return chosen


def main() -> int:
    """Run the benchmark; 0, or 1 with a message when something did not work."""
    chosen = options()
    if os.geteuid() != 0:
        print("bench: cannot make network namespaces: run it as root", file=sys.stderr)
        return 1
    scenarios = SCENARIOS[:2] if chosen.quick else SCENARIOS
    try:
        with ExitStack() as stack:
            compile_programs()
            peers: list[Peer] = [Floor(), stack.enter_context(Echo())]
            if not chosen.without_node:
                peers.append(stack.enter_context(Node(chosen.instance_type)))
            samples = run_all(scenarios, peers, 1 if chosen.quick else chosen.repetitions)
    except BenchmarkError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    rows = [summarise(scenario, samples[scenario.name]) for scenario in scenarios]
    if chosen.output == "json":
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
