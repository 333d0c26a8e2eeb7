# SPDX-License-Identifier: Apache-2.0
"""`vpccni why`: the causal chain of the last refusal or wait of a pod or node.

Knows whom to ask and how a chain is printed. Must never decide what was the cause: the daemon's journal of decisions
says so, over the introspection API. In a lab the daemons of its nodes are asked, elsewhere the one of this machine.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from vpccni.cli.output import Format, OutputOption, emit, session
from vpccni.cli.why_sources import Source, asked, is_pod, sources
from vpccni.errors import HostError, InputError

SYMPTOMS = ("refusal", "wait", "start", "failure", "ec2")
IDLE_WAITS = ("shrink-interval", "eni-young", "needed-lately")  # nothing waits for an address there
FORGOTTEN_S = 600.0  # a refused pod that nobody has tried to start for so long says little about its node


@dataclass(frozen=True, slots=True)
class Told:
    """What one node's daemon told: `entries` by number, and the chain from the symptom to the root."""

    node: str
    chain: list[dict[str, Any]]
    open: bool


def why(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="POD|NODE", help="NAME, NAMESPACE/NAME, or a node; node/NAME if both")
    ],
    node: Annotated[str | None, typer.Option("--node", help="ask this node only", show_default=False)] = None,
    introspection: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="where the daemon answers, outside a lab", show_default=False)
    ] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Say why a pod got no address, or what a node waits for: each cause with its evidence, then the next step."""
    found = sources(session(ctx), target, node, introspection)
    pod = is_pod(session(ctx), target, found)
    told, silent = [], []
    for source in found:
        try:
            document = asked(source, pod)
        except HostError as error:
            silent.append(f"{source.node}: {error.why}")
            continue
        told += _told(source, document, pod)
    if not told:
        _nothing(target, pod, found, silent, output)
        return
    latest = max(told, key=lambda each: (each.open, each.chain[0]["last_at"]))
    if output is Format.JSON:
        emit(_document(target, latest))
    else:
        sys.stdout.write(_text(target, latest))


def _told(source: Source, document: dict[str, Any], pod: str) -> list[Told]:
    entries = {entry["seq"]: entry for entry in document["decisions"]}
    head = _symptom(list(entries.values()), pod, float(document["now"]))
    if head is None:
        return []
    chain, seen = [head], {head["seq"]}
    while (cause := entries.get(chain[-1]["because"])) is not None and cause["seq"] not in seen:
        chain.append(cause)
        seen.add(cause["seq"])
    still_open = head["ended_at"] is None and head["kind"] in ("refusal", "wait")
    return [Told(source.node, chain, still_open)]


def _symptom(entries: list[dict[str, Any]], pod: str, now: float) -> dict[str, Any] | None:
    """The last refusal of the pod; of a node what is open before what is over: refusals, waits, then failures."""
    if pod:
        return max((entry for entry in entries if entry["pod"] == pod), key=_moment, default=None)
    by_kind = {kind: [each for each in entries if each["kind"] == kind] for kind in SYMPTOMS}
    fresh = [each for each in by_kind["refusal"] if each["last_at"] > now - FORGOTTEN_S]
    waits = [each for each in by_kind["wait"] if each["code"] not in IDLE_WAITS]
    for candidates in (fresh, waits):
        told = [each for each in candidates if each["ended_at"] is None]
        if told:
            return max(told, key=_moment)
    past = [*by_kind["refusal"], *waits, *by_kind["start"], *by_kind["failure"], *by_kind["ec2"]]
    return max(past, key=_moment, default=None)


def _moment(entry: dict[str, Any]) -> tuple[float, int]:
    return entry["last_at"], entry["seq"]


def _next_step(chain: list[dict[str, Any]]) -> str:
    return next((str(entry["hint"]) for entry in chain if entry["hint"]), "")


def _document(target: str, told: Told) -> dict[str, Any]:
    head = told.chain[0]
    return {
        "target": target,
        "node": told.node,
        "pod": head["pod"] or None,
        "code": head["code"],
        "open": told.open,
        "chain": told.chain,
        "next": _next_step(told.chain),
    }


def _text(target: str, told: Told) -> str:
    head = told.chain[0]
    times = "once" if head["times"] == 1 else f"{head['times']} times"
    lines = [f"{head['pod'] or target} on node {told.node}: {_title(head)}, {times}, {_state(told)}"]
    for depth, entry in enumerate(told.chain):
        lines += _entry(depth, entry)
    step = _next_step(told.chain)
    if step:
        lines.append(f"Next: {step}")
    return "\n".join(lines) + "\n"


def _state(told: Told) -> str:
    head = told.chain[0]
    if told.open:
        return "and has no address since" if head["kind"] == "refusal" else "still"
    if head["ended_at"] is None:
        return f"last at {_clock(head['last_at'])}"
    return f"until {_clock(head['ended_at'])}: {head['outcome'] or 'it ended'}"


def _title(entry: dict[str, Any]) -> str:
    names = {"refusal": "refused", "wait": "waits", "ec2": "EC2 refused", "failure": "failed", "start": "starting"}
    return f"{names.get(entry['kind'], entry['kind'])} ({entry['code']})"


def _entry(depth: int, entry: dict[str, Any]) -> list[str]:
    indent = "  " * depth
    because = "because " if depth else ""
    repeated = f" ({entry['times']} times since {_clock(entry['at'])})" if entry["times"] > 1 else ""
    lines = [
        f"{_clock(entry['last_at'])}  {indent}{because}{entry['kind']} [{entry['code']}] {entry['what']}{repeated}"
    ]
    margin = " " * 14 + indent
    if entry["evidence"]:
        lines.append(margin + " ".join(f"{name}={value}" for name, value in entry["evidence"].items()))
    if entry["kind"] == "step":
        lines.append(f"{margin}{_outcome(entry)}")
    if entry["kind"] == "wait" and entry["until"] and entry["ended_at"] is None:
        lines.append(f"{margin}until {_clock(entry['until'])}")
    return lines


def _outcome(entry: dict[str, Any]) -> str:
    if entry["ended_at"] is None:
        return f"running since {_clock(entry['at'])}"
    return f"{entry['outcome']} after {entry['ended_at'] - entry['at']:.2f} s"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:12]


def _nothing(target: str, pod: str, found: list[Source], silent: list[str], output: Format) -> None:
    """Nobody refused or waits: good news for a pod that runs and for a node; unknown names and silence are refused."""
    running = [(source.node, address) for source in found for address in source.running(pod)] if pod else []
    if silent and len(silent) == len(found):
        raise HostError(
            f"explain {target!r}",
            "; ".join(silent),
            hint="the daemon must run to be asked; its log has what it did: /var/log/aws-routed-eni/ipamd.log",
            code="daemon-silent",
        )
    if pod and not running:
        raise _unknown(target, pod, found, silent)
    said = f"{pod} runs on node {running[0][0]} with {running[0][1]}" if running else f"node {found[0].node}"
    if output is Format.JSON:
        node = running[0][0] if running else found[0].node
        emit({"target": target, "node": node, "pod": pod or None, "code": None, "open": False, "chain": [], "next": ""})
    else:
        sys.stdout.write(f"{said}: nothing was refused, nothing waits\n")


def _unknown(target: str, pod: str, found: list[Source], silent: list[str]) -> InputError:
    evidence: dict[str, object] = {"nodes": ", ".join(source.node for source in found)}
    refused = sorted({name for source in found for name in source.refused()} - {""})
    pods = sorted({name for source in found for name in source.pods()})
    evidence["pods with an address"] = _listed(pods)
    evidence["pods refused"] = _listed(refused)
    if silent:
        evidence["no answer"] = "; ".join(silent)
    return InputError(
        f"explain {target!r}",
        f"no daemon has refused or wired a pod {pod}, and no node has that name",
        code="unknown-pod",
        hint="check name and namespace; a pod that no node has seen is not the network's: kubectl describe pod",
        evidence=evidence,
    )


def _listed(names: list[str], most: int = 10) -> str:
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "none"
