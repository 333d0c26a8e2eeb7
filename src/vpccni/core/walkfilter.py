# SPDX-License-Identifier: Apache-2.0
"""What the iptables rules of one hook do to a packet, from the text of `iptables-save`.

Knows the matches and targets that the Amazon VPC CNI, kube-proxy and hand-written rules commonly use. Must never guess:
a rule with a match that it does not know counts as not matching and is named in `unread`. `walk` calls it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network

from vpccni.netlink.values import IPAddress

DEPTH = 20  # of jumps; the kernel refuses loops, observed text is not trusted to have none
ANY_PORT = 0  # a port that the kernel will draw, or has drawn
FULL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Header:
    """A packet's addresses and ports at one place."""

    source: IPAddress
    source_port: int
    target: IPAddress
    target_port: int
    protocol: str = "tcp"

    @property
    def reversed(self) -> Header:
        """The same of an answer."""
        return Header(self.target, self.target_port, self.source, self.source_port, self.protocol)

    def __str__(self) -> str:
        return f"{_end(self.source, self.source_port)} > {_end(self.target, self.target_port)}"


@dataclass(frozen=True, slots=True)
class Meeting:
    """A packet at a hook. `local`: whether the machine has an address, as `-m addrtype` asks."""

    header: Header
    mark: int = 0
    ct_mark: int = 0
    iif: str = ""
    oif: str = ""
    new: bool = True
    translated: bool = False
    local: Callable[[IPAddress, str], bool] = lambda _address, _device: False
    address_of_oif: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What a hook made of it: the packet, the rules that did something (no jumps), the one that dropped it."""

    meeting: Meeting
    rules: tuple[str, ...] = ()
    dropped_by: str = ""
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Parsed:
    matches: tuple[tuple[str, str, bool], ...]  # option, value, negated
    target: str
    options: Mapping[str, str]


def run(chains: Mapping[str, Sequence[str]], hook: str, meeting: Meeting, policy: str = "ACCEPT") -> Effect:
    """The rules of a built-in chain and of those that it jumps to."""
    run_ = _Run(chains, meeting)
    verdict = run_.chain(hook, 0)
    dropped = run_.dropped_by or (f"-P {hook} {policy}" if verdict != "ACCEPT" and policy != "ACCEPT" else "")
    return Effect(run_.meeting, tuple(run_.rules), dropped, tuple(run_.unread))


class _Run:
    """One traversal."""

    def __init__(self, chains: Mapping[str, Sequence[str]], meeting: Meeting) -> None:
        self._chains, self.meeting = chains, meeting
        self.rules: list[str] = []
        self.unread: list[str] = []
        self.dropped_by = ""

    def chain(self, name: str, depth: int) -> str:
        """ACCEPT when a rule ended the hook, empty when the caller goes on."""
        for line in self._chains.get(name, ()) if depth < DEPTH else ():
            rule = parse(line)
            fits = _fits(rule, self.meeting)
            if fits is None:
                self.unread.append(line)
            if fits:
                verdict = self._act(rule, line, depth)
                if verdict:
                    return "ACCEPT" if verdict == "ACCEPT" else ""
        return ""

    def _act(self, rule: _Parsed, line: str, depth: int) -> str:
        meeting, options, target = self.meeting, rule.options, rule.target
        if target in self._chains:
            return self.chain(target, depth + 1)
        if target in ("DROP", "REJECT"):
            self.dropped_by = line
        elif target in ("DNAT", "SNAT", "MASQUERADE"):
            self.meeting = replace(meeting, header=_translated(meeting, target, options), translated=True)
        elif target == "MARK":
            self.meeting = replace(meeting, mark=_marked(meeting.mark, options))
        elif target == "CONNMARK":
            self._connmark(options)
        if target in ("DROP", "REJECT", "ACCEPT", "DNAT", "SNAT", "MASQUERADE"):
            self.rules += [line] if target != "ACCEPT" else []
            return "ACCEPT"
        if target == "RETURN":
            self.rules.append(line)
            return "RETURN"
        if self.meeting != meeting:
            self.rules.append(line)
        return ""

    def _connmark(self, options: Mapping[str, str]) -> None:
        meeting = self.meeting
        if "--restore-mark" in options:
            from_ct = meeting.ct_mark & _number(options.get("--ctmask", hex(FULL)))
            kept = meeting.mark & ~_number(options.get("--nfmask", hex(FULL)))
            self.meeting = replace(meeting, mark=kept ^ from_ct)
        elif "--save-mark" in options:
            self.meeting = replace(meeting, ct_mark=meeting.mark)
        else:
            self.meeting = replace(meeting, ct_mark=_marked(meeting.ct_mark, options))


@lru_cache(maxsize=65536)
def parse(line: str) -> _Parsed:
    """`-A CHAIN matches -j TARGET options` as words."""
    try:
        words = shlex.split(line)[2:]
    except ValueError:  # a stray quote in somebody's comment
        words = line.split()[2:]
    cut = next((at for at, word in enumerate(words) if word in ("-j", "-g")), len(words))
    matches = tuple((option, value, negated) for option, value, negated in _options(words[:cut]))
    target = words[cut + 1] if cut + 1 < len(words) else ""
    return _Parsed(matches, target, {option: value for option, value, _ in _options(words[cut + 2 :])})


def _options(words: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    at, negated = 0, False
    while at < len(words):
        word = words[at]
        at += 1
        if word == "!":
            negated = True
            continue
        takes = at < len(words) and not words[at].startswith("-") and words[at] != "!"
        yield word, words[at] if takes else "", negated
        at, negated = at + takes, False


def _fits(rule: _Parsed, meeting: Meeting) -> bool | None:
    """None: cannot be said."""
    limits = {option: meeting.iif if option.endswith("in") else meeting.oif for option, _, _ in rule.matches
              if option.startswith("--limit-iface")}  # fmt: skip
    device = next(iter(limits.values()), "")
    unknown = False
    for option, value, negated in rule.matches:
        if option in _NOTHING:
            continue
        answer = _match(option, value, meeting, device)
        if answer is None:
            unknown = True
        elif answer == negated:
            return False
    return None if unknown else True


# Options that say nothing by themselves. Of several endpoints any may be drawn: the first one stands for all.
_NOTHING = {"--comment", "--limit-iface-in", "--limit-iface-out", "--mode", "--probability", "--every", "--packet"}


def _match(option: str, value: str, meeting: Meeting, device: str) -> bool | None:
    header = meeting.header
    match option:
        case "-m":
            return True if value in _MODULES else None
        case "-s" | "-d":
            network = ip_network(value, strict=False)
            address = header.source if option == "-s" else header.target
            return address.version == network.version and address in network
        case "-i" | "-o":
            name = meeting.iif if option == "-i" else meeting.oif
            return name.startswith(value[:-1]) if value.endswith("+") else name == value
        case "-p":
            return value in (header.protocol, "all")
        case "--dport" | "--sport":
            low, _, high = value.partition(":")
            port = header.target_port if option == "--dport" else header.source_port
            return int(low) <= port <= int(high or low)
        case "--dst-type" | "--src-type":
            address = header.target if option == "--dst-type" else header.source
            return meeting.local(address, device) if value == "LOCAL" else None
        case "--mark":
            wanted, _, mask = value.partition("/")
            return meeting.mark & _number(mask or hex(FULL)) == _number(wanted)
        case "--ctstate":
            return ("NEW" if meeting.new else "ESTABLISHED") in value.split(",")
    return None


# Modules whose options decide; their mere mention does not.
_MODULES = {"comment", "addrtype", "tcp", "udp", "mark", "conntrack", "statistic"}


def _translated(meeting: Meeting, target: str, options: Mapping[str, str]) -> Header:
    header = meeting.header
    if target == "MASQUERADE":
        return replace(header, source=meeting.address_of_oif or header.source, source_port=ANY_PORT)
    address, port = _address_port(options["--to-destination" if target == "DNAT" else "--to-source"])
    if target == "DNAT":
        return replace(header, target=address, target_port=port or header.target_port)
    drawn = "--random-fully" in options or "--random" in options
    return replace(header, source=address, source_port=port or (ANY_PORT if drawn else header.source_port))


def _address_port(text: str) -> tuple[IPAddress, int]:
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return ip_address(address), int(port.removeprefix(":") or 0)
    if text.count(":") > 1:
        return ip_address(text), 0
    address, _, port = text.partition(":")
    return ip_address(address.partition("-")[0]), int(port.partition("-")[0] or 0)


def _marked(mark: int, options: Mapping[str, str]) -> int:
    value, _, mask = options.get("--set-xmark", "0/0").partition("/")
    return (mark & ~_number(mask or hex(FULL))) ^ _number(value)


def _number(text: str) -> int:
    return int(text, 0)


def _end(address: IPAddress, port: int) -> str:
    name = f"[{address}]" if address.version == 6 else str(address)
    return f"{name}:{port or '?'}"
