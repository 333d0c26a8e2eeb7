# SPDX-License-Identifier: Apache-2.0
"""Generates src/vpccni/core/instance_types.json from EC2's own DescribeInstanceTypes answers.

Knows the shape of those answers as the moto project collects them, and the few types that EC2 no longer lists. Must
never be imported by the product. A maintainer calls it: see tools/README.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

MEMBER = "moto/ec2/resources/instance_types.json.gz"
OUTPUT = Path(__file__).parent.parent / "src/vpccni/core/instance_types.json"
COLUMNS = ["enis_by_card", "ipv4_per_eni", "ipv6_per_eni", "hypervisor", "bare_metal", "vcpus"]

# Types that instances still run on, or that the Amazon VPC CNI 1.23 knows, although DescribeInstanceTypes does not
# list them any more. Limits as the CNI's own table has them; vCPUs and IPv6 limits are from memory and unverified,
# 0 when unknown.
EXTRAS: dict[str, list[Any]] = {
    "bmn-sf1.metal": [[15], 50, 50, "unknown", True, 0],
    "c5a.metal": [[15], 50, 50, "unknown", True, 96],
    "c5ad.metal": [[15], 50, 50, "unknown", True, 96],
    "c7i.32xlarge": [[15], 50, 50, "nitro", False, 128],
    "cr1.8xlarge": [[8], 30, 0, "unknown", False, 32],
    "dl1.24xlarge": [[15] * 4, 50, 50, "nitro", False, 96],
    "f1.2xlarge": [[4], 15, 15, "xen", False, 8],
    "f1.4xlarge": [[8], 30, 30, "xen", False, 16],
    "f1.16xlarge": [[8], 50, 50, "xen", False, 64],
    "g4ad.16xlarge": [[8], 30, 30, "nitro", False, 64],
    "g4ad.2xlarge": [[2], 4, 4, "nitro", False, 8],
    "g4ad.4xlarge": [[3], 10, 10, "nitro", False, 16],
    "g4ad.8xlarge": [[4], 15, 15, "nitro", False, 32],
    "g4ad.xlarge": [[2], 4, 4, "nitro", False, 4],
    "hs1.8xlarge": [[8], 30, 0, "unknown", False, 16],
    "p3.2xlarge": [[4], 15, 15, "xen", False, 8],
    "p3.8xlarge": [[8], 30, 30, "xen", False, 32],
    "p3.16xlarge": [[8], 30, 30, "xen", False, 64],
    "u-6tb1.metal": [[5], 30, 30, "unknown", True, 448],
    "u-9tb1.metal": [[5], 30, 30, "unknown", True, 448],
    "u-12tb1.metal": [[5], 30, 30, "unknown", True, 448],
    "u-18tb1.metal": [[15], 50, 50, "unknown", True, 448],
    "u-24tb1.metal": [[15], 50, 50, "unknown", True, 448],
}
# EC2 reports no hypervisor for bare metal; the CNI's table has nitro for this one.
HYPERVISORS = {"c7g.metal": "nitro"}


def read(path: Path) -> dict[str, Any]:
    """The raw answers, from a moto wheel or from its instance_types.json, plain or gzipped."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            raw = wheel.read(MEMBER)
    else:
        raw = path.read_bytes()
    answers: dict[str, Any] = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    return answers


def row(answer: dict[str, Any]) -> list[Any]:
    """One line of the table. It has no column for the default card, which must therefore be card 0."""
    network = answer["NetworkInfo"]
    cards = {card["NetworkCardIndex"]: card["MaximumNetworkInterfaces"] for card in network["NetworkCards"]}
    if sorted(cards) != list(range(len(cards))) or network["DefaultNetworkCardIndex"] != 0:
        sys.exit(f"{answer['InstanceType']}: network cards are not numbered as the table expects")
    if network["MaximumNetworkInterfaces"] not in (cards[0], sum(cards.values())):
        sys.exit(f"{answer['InstanceType']}: the limits of the cards and of the type disagree")
    return [
        [cards[index] for index in sorted(cards)],
        network["Ipv4AddressesPerInterface"],
        network["Ipv6AddressesPerInterface"] if network["Ipv6Supported"] else 0,
        answer.get("Hypervisor", "unknown"),
        answer["BareMetal"],
        answer["VCpuInfo"]["DefaultVCpus"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="moto wheel or its instance_types.json[.gz]")
    parser.add_argument("--version", required=True, help="version of moto, noted in the output")
    options = parser.parse_args()
    table = {name: row(answer) for name, answer in read(options.source).items()}
    listed = len(table)
    table = EXTRAS | table
    for name, hypervisor in HYPERVISORS.items():
        table[name][COLUMNS.index("hypervisor")] = hypervisor
    source = (
        f"DescribeInstanceTypes as collected by moto {options.version} (Apache-2.0, github.com/getmoto/moto):"
        f" {listed} types; {len(table) - listed} more from tools/make_instance_types.py, which generated this file"
    )
    lines = ",\n".join(
        f"{json.dumps(name)}:{json.dumps(values, separators=(',', ':'))}" for name, values in sorted(table.items())
    )
    text = f'{{"source":{json.dumps(source)},\n"columns":{json.dumps(COLUMNS)},\n"types":{{\n{lines}\n}}}}\n'
    OUTPUT.write_text(text)
    print(f"{OUTPUT}: {len(table)} types, {len(text)} bytes")


if __name__ == "__main__":
    main()
