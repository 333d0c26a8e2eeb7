# SPDX-License-Identifier: Apache-2.0
"""Generates src/vpccni/core/branch_limits.json: how many branch interfaces a trunk of each instance type takes.

Knows the one public place of these numbers, the limits table of the amazon-vpc-resource-controller-k8s project; EC2's
API does not tell them. Must never be imported by the product. A maintainer calls it: see tools/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "src/vpccni/core/branch_limits.json"
_TYPE = re.compile(r'^\t"(?P<type>[a-z0-9-]+\.[a-z0-9-]+)": \{$')
_FIELD = re.compile(r"^\t\t(?P<name>IsTrunkingCompatible|BranchInterface):\s+(?P<value>\w+),$")


def read(path: Path) -> dict[str, int]:
    """Type -> branch interfaces; 0 for a type that takes no trunk."""
    found: dict[str, int] = {}
    trunk: dict[str, bool] = {}
    current = ""
    for line in path.read_text().splitlines():
        if match := _TYPE.match(line):
            current = match["type"]
        elif match := _FIELD.match(line):
            if match["name"] == "BranchInterface":
                found[current] = int(match["value"])
            else:
                trunk[current] = match["value"] == "true"
    if not found or found.keys() != trunk.keys() or any(trunk[name] != bool(found[name]) for name in found):
        sys.exit(f"{path}: not the table that this program expects")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="pkg/aws/vpc/limits.go of the resource controller")
    parser.add_argument("--commit", required=True, help="commit of that file, noted in the output")
    options = parser.parse_args()
    found = read(options.source)
    source = (
        f"amazon-vpc-resource-controller-k8s {options.commit} (Apache-2.0, github.com/aws), pkg/aws/vpc/limits.go:"
        f" {len(found)} types; tools/make_branch_limits.py generated this file"
    )
    by_count: dict[int, list[str]] = {}
    for name, count in sorted(found.items()):
        by_count.setdefault(count, []).append(name)
    lines = ",\n".join(f'"{count}":{json.dumps(" ".join(names))}' for count, names in sorted(by_count.items()))
    OUTPUT.write_text(f'{{"source":{json.dumps(source)},\n"types_by_branches":{{\n{lines}\n}}}}\n')
    print(f"{OUTPUT}: {len(found)} types")


if __name__ == "__main__":
    main()
