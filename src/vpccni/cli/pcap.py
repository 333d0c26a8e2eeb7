# SPDX-License-Identifier: Apache-2.0
"""`vpccni pcap`: packets of a pod, with names, as a table or as a pcapng file.

Knows arguments, which packets are wanted and whose addresses are whose. Must never know pcapng's blocks (`core.pcapng`)
or packet sockets (`host.tap`).
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import BinaryIO

import typer

from vpccni.cli.output import Format, OutputOption, emit, say, session, table
from vpccni.core import pcapng
from vpccni.core.dissect import Ends, dissect
from vpccni.errors import InputError
from vpccni.host.tap import Frame, Tap
from vpccni.lab.probe import choose
from vpccni.lab.sockets import namespace_handle

_FLUSH_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which packets, and how many of them for how long. 0 and empty mean any."""

    count: int
    seconds: float
    port: int
    host: str

    def takes(self, ends: Ends | None) -> bool:
        """Whether a packet is wanted. One without ports has none to ask for."""
        if ends is None:
            return not self.port and not self.host
        ports, hosts = (ends.source_port, ends.target_port), (str(ends.source), str(ends.target))
        return (not self.port or self.port in ports) and (not self.host or self.host in hosts)


def pcap(
    ctx: typer.Context,
    name: str = typer.Argument(metavar="POD", help="a pod, a node or a host outside"),
    interface: str = typer.Option("", "--interface", "-i", metavar="NAME", help="one device [default: all]"),
    count: int = typer.Option(0, "--count", "-c", min=0, help="end after so many packets"),
    seconds: float = typer.Option(0.0, "--seconds", min=0, help="end after so long [default: 10 without --count]"),
    write: str = typer.Option("", "--write", "-w", metavar="FILE", help="a pcapng file; - is standard output"),
    port: int = typer.Option(0, min=0, max=65535, help="packets from or to this port only"),
    host: str = typer.Option("", metavar="ADDRESS|NAME", help="packets from or to this address only"),
    output: OutputOption = Format.TABLE,
) -> None:
    """Capture the packets of a pod, a node or a host; every address gets its name."""
    from vpccni.lab.scene import scene

    here = scene(session(ctx).state)
    known, names = here.known, here.names
    place = choose(known, name, ("pod", "node", "host"))
    if write == "-" and output is Format.JSON:
        raise InputError("capture", "standard output cannot be JSON and a pcapng file", hint="-w FILE")
    address = choose(known, host, ("pod", "node", "host")).address if host and not _is_address(host) else host
    wanted = Wanted(count, seconds or (0.0 if count else 10.0), port, address)
    with namespace_handle(place.netns) as handle, Tap(handle, interface) as tap:
        say(f"capturing in {place.label}, {_until(wanted)}")
        frames = _captured(tap, wanted)
        if write == "-":
            with suppress(BrokenPipeError):  # whoever read it has seen enough
                _save(sys.stdout.buffer, frames, names)
            return
        if not write:
            kept = list(frames)
        else:
            with _opened(write) as file:
                kept = _save(file, frames, names)
            say(f"{len(kept)} packets in {write}")
    _show(kept, names, output)


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise InputError(f"write {path}", error.strerror or str(error)) from error


def _is_address(text: str) -> bool:
    return text.replace(".", "").isdigit() or ":" in text


def _until(wanted: Wanted) -> str:
    parts = [f"{wanted.count} packets" if wanted.count else "", f"{wanted.seconds:g} s" if wanted.seconds else ""]
    return "at most " + " or ".join(filter(None, parts))


def _captured(tap: Tap, wanted: Wanted) -> Iterator[Frame]:
    """The wanted frames as they come. An interruption from the keyboard ends the capture, not the program."""
    deadline = time.monotonic() + wanted.seconds if wanted.seconds else None
    left = wanted.count or -1
    try:
        while left and (deadline is None or time.monotonic() < deadline):
            select.select([tap], [], [], _FLUSH_EVERY_S)
            for frame in tap.frames():
                if left and wanted.takes(dissect(frame.packet)):
                    left -= 1
                    yield frame
    except KeyboardInterrupt:
        return


def _save(file: BinaryIO, frames: Iterator[Frame], names: Mapping[str, str]) -> list[Frame]:
    """Write a capture as it comes; an interface's block stands before its first packet."""
    file.write(pcapng.section() + pcapng.names(names))
    numbers: dict[str, int] = {}
    kept = []
    for frame in frames:
        if frame.device not in numbers:
            numbers[frame.device] = len(numbers)
            file.write(pcapng.interface(frame.device))
        comment = _comment(dissect(frame.packet), names)
        file.write(
            pcapng.packet(
                numbers[frame.device], frame.time_ns, frame.octets,
                outgoing=frame.outgoing, comment=comment,
            )
        )  # fmt: skip
        file.flush()
        kept.append(frame)
    return kept


def _comment(ends: Ends | None, names: Mapping[str, str]) -> str:
    if ends is None:
        return ""
    source, target = (names.get(str(each), _unknown(each)) for each in (ends.source, ends.target))
    return f"{source} > {target}" if source or target else ""


def _unknown(address: object) -> str:
    link_local = isinstance(address, IPv6Address) and address.is_link_local
    return "link-local" if link_local else "unknown"


def _show(frames: list[Frame], names: Mapping[str, str], output: Format) -> None:
    rows = [(frame, dissect(frame.packet)) for frame in frames]
    if output is Format.JSON:
        emit([_document(frame, ends, names) for frame, ends in rows])
        return
    start = frames[0].time_ns if frames else 0
    lines = []
    for frame, ends in rows:
        way = f"{frame.device} {'out' if frame.outgoing else 'in'}"
        what = ("no IP packet", "", "")
        if ends is not None:
            what = (ends.protocol, f"{ends.source} {ends.source_port or ''}", f"{ends.target} {ends.target_port or ''}")
        lines.append((f"{(frame.time_ns - start) / 1e6:.3f}", way, *what, len(frame.octets), _comment(ends, names)))
    table(["ms", "device", "protocol", "from", "to", "bytes", "who"], lines)


def _document(frame: Frame, ends: Ends | None, names: Mapping[str, str]) -> dict[str, object]:
    return {
        "time_ns": frame.time_ns,
        "device": frame.device,
        "way": "out" if frame.outgoing else "in",
        "bytes": len(frame.octets),
        "protocol": ends.protocol if ends else None,
        "source": str(ends.source) if ends else None,
        "source_port": ends.source_port if ends else None,
        "target": str(ends.target) if ends else None,
        "target_port": ends.target_port if ends else None,
        "who": _comment(ends, names),
    }
