# SPDX-License-Identifier: Apache-2.0
"""Whether a rule of iptables concerns a packet, from its text.

Knows the matches that the Amazon VPC CNI, kube-proxy and hand-written rules commonly use. Must never guess: what it
does not know is neither a match nor none. `walk.iptables` goes through the rules and acts. Source:
iptables-extensions(8).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from vpccni.core.walk.meeting import ANY_PORT, DNAT, FULL, SEEN_REPLY, SNAT, Draws, Meeting


@dataclass(frozen=True, slots=True)
class Parsed:
    """A rule in parts. `matches` are (option, value, negated); `leaves` when it goes to its target for good (-g)."""

    matches: tuple[tuple[str, str, bool], ...]
    target: str
    options: Mapping[str, str]
    leaves: bool = False


# Modules whose options decide; their mere mention does not. A limit is taken as not reached.
_MODULES = {"comment", "addrtype", "tcp", "udp", "icmp", "icmp6", "mark", "connmark", "conntrack", "state", "statistic",
            "multiport", "limit"}  # fmt: skip
# Options that say nothing by themselves.
_NOTHING = {"--comment", "--limit-iface-in", "--limit-iface-out", "--mode", "--probability", "--every", "--packet",
            "--limit", "--limit-burst"}  # fmt: skip
_ICMP_TYPES = {"echo-request": "8", "echo-reply": "0", "8": "8", "0": "0"}
_ICMP6_TYPES = {"echo-request": "128", "echo-reply": "129", "128": "128", "129": "129"}
_PROTOCOL_NAMES = {"ipv6-icmp": "icmp6", "icmpv6": "icmp6", "1": "icmp", "6": "tcp", "17": "udp", "58": "icmp6"}


@lru_cache(maxsize=65536)
def parse(line: str) -> Parsed:
    """`-A CHAIN matches -j TARGET options` as words."""
    try:
        words = shlex.split(line)[2:]
    except ValueError:  # a stray quote in somebody's comment
        words = line.split()[2:]
    cut = next((at for at, word in enumerate(words) if word in ("-j", "-g")), len(words))
    matches = tuple(_qualified(_options(words[:cut])))
    target = words[cut + 1] if cut + 1 < len(words) else ""
    options = {option: value for option, value, _ in _options(words[cut + 2 :])}
    return Parsed(matches, target, options, cut < len(words) and words[cut] == "-g")


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


def _qualified(options: Iterator[tuple[str, str, bool]]) -> Iterator[tuple[str, str, bool]]:
    """`--mark` belongs to the module before it: the packet's, or the connection's."""
    module = ""
    for option, value, negated in options:
        module = value if option == "-m" else module
        yield "--connmark" if (module, option) == ("connmark", "--mark") else option, value, negated


def fits(rule: Parsed, line: str, meeting: Meeting, draws: Draws) -> bool | None:
    """Whether the rule matches. None: cannot be said. Chance is asked last, when all else fits."""
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
    if unknown:
        return None
    if any(option in ("--probability", "--every") for option, _, _ in rule.matches):
        return draws.among(line, (rule.target, "the rules after it")) == 0
    return True


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
            return _PROTOCOL_NAMES.get(value, value) in (header.protocol, "all", "0")
        case "--dport" | "--sport":
            port = header.target_port if option == "--dport" else header.source_port
            return None if port == ANY_PORT else _in_ports(value, port)
        case "--dports" | "--sports":
            port = header.target_port if option == "--dports" else header.source_port
            return None if port == ANY_PORT else any(_in_ports(each, port) for each in value.split(","))
        case "--dst-type" | "--src-type":
            address = header.target if option == "--dst-type" else header.source
            return meeting.machine.address_type(address, device).upper() in value.split(",")
    return _match_state(option, value, meeting)


def _match_state(option: str, value: str, meeting: Meeting) -> bool | None:
    match option:
        case "--mark":
            return _marked(meeting.mark, value)
        case "--connmark":
            return _marked(meeting.ct_mark, value)
        case "--ctstate" | "--state":
            translated = {"SNAT": meeting.status & SNAT, "DNAT": meeting.status & DNAT}
            asked = value.split(",")
            return meeting.state.upper() in asked or any(translated.get(each) for each in asked)
        case "--ctstatus":
            bits = {"NONE": 0, "SEEN_REPLY": SEEN_REPLY, "CONFIRMED": 8}
            known = [bits[each] for each in value.split(",") if each in bits]
            return any(meeting.status & bit for bit in known) if len(known) == len(value.split(",")) else None
        case "--ctdir":
            return value == ("REPLY" if meeting.reply else "ORIGINAL")
        case "--icmp-type" | "--icmpv6-type":
            types = _ICMP_TYPES if option == "--icmp-type" else _ICMP6_TYPES
            if value not in types or meeting.header.protocol not in ("icmp", "icmp6"):
                return False if value in types else None
            own = ("0" if meeting.reply else "8") if option == "--icmp-type" else ("129" if meeting.reply else "128")
            return types[value] == own
        case "--syn":
            return not meeting.reply
    return None


def _in_ports(text: str, port: int) -> bool:
    low, _, high = text.partition(":")
    return int(low) <= port <= int(high or low)


def _marked(mark: int, text: str) -> bool:
    wanted, _, mask = text.partition("/")
    return mark & int(mask or hex(FULL), 0) == int(wanted, 0)
