# SPDX-License-Identifier: Apache-2.0
"""`vpccni max-pods`: the value for kubelet's `maxPods`, with the flags of Amazon's classic calculator.

Knows flags and how the answer is printed. Must never compute it: `core.maxpods` does, from tables of the package, so
that no account and no network is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any

import typer

from vpccni.aws.values import InstanceLimits
from vpccni.cli.output import emit, say, session, table
from vpccni.core import limits as types
from vpccni.core import maxpods as formulas
from vpccni.core.maxpods import MaxPods, NodeadmPods
from vpccni.errors import InputError


class Form(str, Enum):  # noqa: UP042  # typer reads the members' values
    """What `-o` accepts here."""

    NUMBER = "number"
    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, so that the answer can be explained."""

    limits: InstanceLimits
    cni_version: str
    custom_networking: bool
    prefix_delegation: bool
    max_eni: int | None
    show_max_allowed: bool
    trunk: bool
    bare_metal_prefixes: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The computation and what to hand to kubelet."""

    pods: MaxPods
    value: int
    rule: str
    notes: tuple[str, ...]
    nodeadm: NodeadmPods


def max_pods(
    ctx: typer.Context,
    instance_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="EC2 instance type, such as m5.large", show_default=False)
    ] = None,
    from_imds: Annotated[
        bool, typer.Option("--instance-type-from-imds", help="ask the metadata service of this instance")
    ] = False,
    cni_version: Annotated[
        str, typer.Option(metavar="X.Y.Z", help="version of the CNI; prefixes count from 1.9.0 on")
    ] = "1.23.1",
    custom_networking: Annotated[
        bool, typer.Option("--cni-custom-networking-enabled", help="the primary ENI carries no pods")
    ] = False,
    prefix_delegation: Annotated[
        bool, typer.Option("--cni-prefix-delegation-enabled", help="/28 prefixes, on Nitro")
    ] = False,
    max_eni: Annotated[
        int | None, typer.Option("--cni-max-eni", min=0, help="MAX_ENI of the CNI", show_default=False)
    ] = None,
    show_max_allowed: Annotated[
        bool, typer.Option("--show-max-allowed", help="without the caps of 110 and 250")
    ] = False,
    trunk: Annotated[
        bool, typer.Option("--security-groups-for-pods", help="a trunk takes one ENI's place (ENABLE_POD_ENI)")
    ] = False,
    bare_metal_prefixes: Annotated[
        bool, typer.Option("--bare-metal-prefixes", help="count prefixes on bare metal, as the CNI itself does")
    ] = False,
    nodeadm: Annotated[
        bool, typer.Option("--nodeadm", help="what nodeadm (AL2023) hands to kubelet: no caps, no prefixes")
    ] = False,
    expression: Annotated[
        str, typer.Option("--max-pods-expression", metavar="CEL", help="nodeadm's maxPodsExpression; means --nodeadm")
    ] = "",
    output: Annotated[
        Form, typer.Option("-o", "--output", help="the bare number, a table or JSON with all parts")
    ] = Form.NUMBER,
) -> None:
    """Print how many pods a node of an instance type should take.

    Flags of the classic calculator: --instance-type or --instance-type-from-imds, --cni-version,
    --cni-custom-networking-enabled, --cni-prefix-delegation-enabled, --cni-max-eni, --show-max-allowed. Further ones:
    --security-groups-for-pods, --bare-metal-prefixes, --nodeadm, --max-pods-expression.
    """
    found = _limits(ctx, instance_type, from_imds)
    question = Question(
        found, cni_version, custom_networking, prefix_delegation, max_eni, show_max_allowed, trunk, bare_metal_prefixes
    )
    given = answer(question, expression, by_nodeadm=nodeadm or bool(expression))
    if output is Form.JSON:
        emit(_document(question, given))
        return
    if output is Form.TABLE:
        table(["part", "value"], _parts(_document(question, given)))
    else:
        sys.stdout.write(f"{given.value}\n")
    for note in given.notes:
        say(f"note: {note}")


def answer(question: Question, expression: str = "", *, by_nodeadm: bool = False) -> Answer:
    """What `core.maxpods` says to a question. Raises InputError for a CNI version that is none."""
    found, notes = question.limits, []
    prefixes = question.prefix_delegation
    if not formulas.has_prefixes(question.cni_version) and prefixes:
        prefixes = False
        notes.append(f"no prefixes: CNI {question.cni_version} has none, 1.9.0 is the first that does")
    branches = types.branches(found.instance_type) if question.trunk else 0
    if question.trunk and not branches:
        why = "takes no trunk" if branches == 0 else "is not in the table of branch interfaces"
        notes.append(f"no security groups for pods: {found.instance_type} {why}")
    bounded = found
    if question.max_eni == 0:
        notes.append("--cni-max-eni 0 leaves no ENI for pods; the CNI itself reads MAX_ENI=0 as no limit")
        bounded = replace(found, max_enis=0)
    elif question.max_eni is not None and question.max_eni > found.max_enis:
        notes.append(f"--cni-max-eni {question.max_eni} changes nothing: the type takes {found.max_enis} interfaces")
    pods = formulas.max_pods(
        bounded,
        prefix_delegation=prefixes,
        custom_networking=question.custom_networking,
        max_eni=question.max_eni or 0,
        bare_metal_prefixes=question.bare_metal_prefixes,
        branches=branches or 0,
    )
    asked = formulas.nodeadm(found, expression)
    if by_nodeadm:
        notes = [asked.warning] if asked.warning else []
        return Answer(pods, asked.value, "nodeadm", tuple(notes), asked)
    value, rule = (pods.uncapped, "uncapped") if question.show_max_allowed else (pods.recommended, "recommended")
    return Answer(pods, value, rule, (*notes, *pods.notes), asked)


def _limits(ctx: typer.Context, instance_type: str | None, from_imds: bool) -> InstanceLimits:
    if (instance_type is None) != from_imds:
        raise InputError(
            "compute max pods",
            "give either --instance-type or --instance-type-from-imds",
            hint="vpccni max-pods --instance-type m5.large",
        )
    return known_type(instance_type or _from_imds(session(ctx).environ))


def known_type(instance_type: str) -> InstanceLimits:
    """The limits of a type; InputError with types of similar names when the table lacks it."""
    found = types.find(instance_type)
    if found is not None:
        return found
    close = types.close_to(instance_type)
    raise InputError(
        f"use instance type {instance_type!r}",
        "the table has no such type",
        code="unknown-instance-type",
        hint=f"did you mean {', '.join(close)}?" if close else "vpccni instance-types '*' lists all",
        evidence={"table": types.source()},
    )


def _from_imds(environ: Mapping[str, str]) -> str:
    from vpccni.aws.imds import Imds
    from vpccni.settings import parse

    names = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_DISABLED")
    settings = parse({name: environ[name] for name in names if name in environ})
    imds = Imds(settings.imds_endpoint, disabled=settings.imds_disabled)
    try:
        return imds.identity().instance_type
    finally:
        imds.close()


def _document(question: Question, given: Answer) -> dict[str, Any]:
    found, pods = question.limits, given.pods
    return {
        "instance_type": found.instance_type,
        "max_pods": given.value,
        "rule": given.rule,
        "formula": pods.formula,
        "recommended": pods.recommended,
        "uncapped": pods.uncapped,
        "cap": pods.cap,
        "enis": pods.enis,
        "slots_per_eni": pods.slots_per_eni,
        "prefixes": pods.prefixes,
        "addresses": pods.addresses,
        "host_network_pods": formulas.HOST_NETWORK_PODS,
        "branch_pods": pods.branches,
        "nodeadm": given.nodeadm.value,
        "reserved_memory_mib": formulas.reserved_memory_mib(given.value),
        "reserved_cpu_millicores": formulas.reserved_cpu_millicores(found.vcpus),
        "type": {
            "max_enis": found.max_enis,
            "ipv4_per_eni": found.ipv4_per_eni,
            "hypervisor": found.hypervisor,
            "bare_metal": found.bare_metal,
            "vcpus": found.vcpus or None,
            "network_cards": [card.max_enis for card in found.cards],
            "pods_on_every_card": formulas.pods_on_every_card(found, prefix_delegation=pods.prefixes),
        },
        "asked": {
            "cni_version": question.cni_version,
            "custom_networking": question.custom_networking,
            "prefix_delegation": question.prefix_delegation,
            "max_eni": question.max_eni,
            "security_groups_for_pods": question.trunk,
        },
        "notes": list(given.notes),
    }


def _parts(document: dict[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in document.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{inner}", each) for inner, each in value.items()]
        elif name != "notes":
            rows.append((name, value))
    return [(name, ", ".join(map(str, value)) if isinstance(value, list) else value) for name, value in rows]
