# SPDX-License-Identifier: Apache-2.0
"""What the iptables rules of one hook do to a packet, from the text of `iptables-save`.

Knows chains, verdicts, marks and translations. Must never guess: a rule with a match or a target that it does not know
counts as not matching and is named in `unread`. `walk.hooks` calls it, `walk.iptablesmatch` knows the matches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address

from vpccni.core.walk.iptablesmatch import Parsed, fits, parse
from vpccni.core.walk.meeting import ANY_PORT, FULL, Draws, Effect, Ending, Header, Meeting
from vpccni.netlink.values import IPAddress

DEPTH = 20  # of jumps; the kernel refuses loops, observed text is not trusted to have none
_TRANSLATING = ("DNAT", "SNAT", "MASQUERADE", "REDIRECT")
_ENDINGS: Mapping[str, Ending] = {"DROP": "drop", "REJECT": "reject", "NFQUEUE": "queue", "QUEUE": "queue"}
# Targets after which a packet goes where it went before.
_HARMLESS = {"", "LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "TCPMSS", "CLASSIFY", "DSCP", "TOS", "ECN", "TTL", "HL",
             "CHECKSUM", "SET", "SECMARK", "CONNSECMARK", "LED", "RATEEST", "IDLETIMER"}  # fmt: skip


def run(
    chains: Mapping[str, Sequence[str]], hook: str, meeting: Meeting, policy: str = "ACCEPT", draws: Draws | None = None
) -> Effect:
    """The rules of a built-in chain and of those that it jumps to."""
    run_ = _Run(chains, meeting, draws or Draws())
    verdict = run_.chain(hook, 0)
    if verdict != "ACCEPT" and policy != "ACCEPT":
        run_.end("drop", f"-P {hook} {policy}")
    return Effect(run_.meeting, tuple(run_.rules), run_.ending, run_.ended_by, run_.bound, tuple(run_.unread))


class _Run:
    """One traversal."""

    def __init__(self, chains: Mapping[str, Sequence[str]], meeting: Meeting, draws: Draws) -> None:
        self._chains, self.meeting, self._draws = chains, meeting, draws
        self.rules: list[str] = []
        self.unread: list[str] = []
        self.ending: Ending = ""
        self.ended_by = ""
        self.bound = False

    def end(self, ending: Ending, by: str) -> None:
        """The packet goes no further."""
        self.ending, self.ended_by = ending, by
        self.rules.append(by)

    def chain(self, name: str, depth: int) -> str:
        """ACCEPT when a rule ended the hook, empty when the caller goes on."""
        for line in self._chains.get(name, ()) if depth < DEPTH else ():
            rule = parse(line)
            matching = fits(rule, line, self.meeting, self._draws)
            if matching is None:
                self.unread.append(line)
            if matching:
                verdict = self._act(rule, line, depth)
                if verdict:
                    return "ACCEPT" if verdict == "ACCEPT" else ""
        return ""

    def _act(self, rule: Parsed, line: str, depth: int) -> str:
        meeting, options, target = self.meeting, rule.options, rule.target
        if target in self._chains:
            return self.chain(target, depth + 1) or ("RETURN" if rule.leaves else "")
        if target in _ENDINGS:
            reset = options.get("--reject-with", "").endswith("reset")
            self.end("reset" if reset else _ENDINGS[target], line)
            return "ACCEPT"
        if target in _TRANSLATING:
            self._translate(target, options, line)
        elif target == "MARK":
            self.meeting = replace(meeting, mark=_marked(meeting.mark, options))
        elif target == "CONNMARK":
            self._connmark(options)
        elif target in ("NOTRACK", "CT") and (target == "NOTRACK" or "--notrack" in options):
            self.meeting = replace(meeting, untracked=True)
        elif target not in (*_HARMLESS, "ACCEPT", "RETURN"):
            self.unread.append(line)
        if target in ("ACCEPT", *_TRANSLATING):
            self.rules += [line] if target != "ACCEPT" and not self.ending else []
            return "ACCEPT"
        if target == "RETURN":
            self.rules.append(line)
            return "RETURN"
        if self.meeting != meeting:
            self.rules.append(line)
        return ""

    def _translate(self, target: str, options: Mapping[str, str], line: str) -> None:
        meeting = self.meeting
        if target == "REDIRECT" and meeting.redirected_to is None:
            return self.end("drop", line)
        self.meeting, self.bound = replace(meeting, header=_translated(meeting, target, options)), True
        return None

    def _connmark(self, options: Mapping[str, str]) -> None:
        meeting = self.meeting
        nfmask, ctmask = (_number(options.get(name, hex(FULL))) for name in ("--nfmask", "--ctmask"))
        if "--restore-mark" in options:
            self.meeting = replace(meeting, mark=(meeting.mark & ~nfmask) ^ (meeting.ct_mark & ctmask))
        elif "--save-mark" in options:
            self.meeting = replace(meeting, ct_mark=(meeting.ct_mark & ~ctmask) ^ (meeting.mark & nfmask))
        else:
            self.meeting = replace(meeting, ct_mark=_marked(meeting.ct_mark, options))


def _translated(meeting: Meeting, target: str, options: Mapping[str, str]) -> Header:
    header = meeting.header
    drawn = "--random-fully" in options or "--random" in options
    kept = ANY_PORT if drawn or "--to-ports" in options else header.source_port
    if target == "MASQUERADE":
        address = meeting.machine.address_of(meeting.oif, header.target.version)
        return replace(header, source=address or header.source, source_port=kept)
    if target == "REDIRECT":
        port = int(options.get("--to-ports", "0").partition("-")[0])
        return replace(header, target=meeting.redirected_to or header.target, target_port=port or header.target_port)
    to, port = _address_port(options["--to-destination" if target == "DNAT" else "--to-source"])
    if target == "DNAT":
        return replace(header, target=to, target_port=port or header.target_port)
    return replace(header, source=to, source_port=port or kept)


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
