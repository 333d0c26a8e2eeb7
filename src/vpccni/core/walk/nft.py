# SPDX-License-Identifier: Apache-2.0
"""What the rules of a base chain of nftables do to a packet.

Knows jumps, verdicts, maps of verdicts, marks and translations. Must never pass over what it does not know: such a rule
counts as not matching, and says why in `unread`. No table has a meaning here, ours as little as kube-proxy's.
`walk.hooks` calls it, chain by chain in the kernel's order. Source: nft(8), libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vpccni.core.walk.meeting import ANY_PORT, FULL, Draws, Effect, Ending, Header, Meeting
from vpccni.core.walk.nftmatch import elements, lookup, matches
from vpccni.core.walk.nftread import NftChain, NftRule, NftTable
from vpccni.core.walk.nftvalue import Absent, Field, NotModelled, Value, address, drawn, evaluate, number
from vpccni.netlink.values import IPAddress

DEPTH = 16  # of jumps, as the kernel allows
_CHOICES = ("numgen", "jhash", "symhash")
# Statements after which a packet goes where it went before. A limit is taken as not reached.
_HARMLESS = ("counter", "log", "limit", "set", "last", "comment", "flow", "xt-comment", "ct helper", "ct timeout")
# What a `mangle` may write without a change of the way.
_INDIFFERENT = {"ttl", "hoplimit", "dscp", "ecn", "priority", "nftrace", "label", "event", "helper", "pkttype"}
_DRAWN_PORTS = ("random", "fully-random")


def run(table: NftTable, chain: NftChain, meeting: Meeting, draws: Draws) -> Effect:
    """The rules of a base chain and of those that it jumps to, then its policy."""
    run_ = _Run(table, meeting, draws)
    verdict = run_.chain(chain, 0)
    if not verdict and chain.policy == "drop":
        run_.end("drop", f"chain {chain.name} has policy drop")
    ended_by = f"{table.title}: {run_.ended_by}" if run_.ended_by else ""
    rules = tuple(f"{table.title}: {rule}" for rule in run_.rules)
    return Effect(run_.meeting, rules, run_.ending, ended_by, run_.bound, tuple(run_.unread))


class _Run:
    """One traversal."""

    def __init__(self, table: NftTable, meeting: Meeting, draws: Draws) -> None:
        self._table, self.meeting, self._draws = table, meeting, draws
        self.rules: list[str] = []
        self.unread: list[str] = []
        self.ending: Ending = ""
        self.ended_by = ""
        self.bound = False
        self._name = ""  # of the chain and rule that is being evaluated

    def end(self, ending: Ending, by: str) -> None:
        """The packet goes no further."""
        self.ending, self.ended_by = ending, by
        self.rules.append(by)

    def chain(self, chain: NftChain, depth: int) -> str:
        """A verdict that ends the base chain, or nothing when the caller goes on."""
        for rule in chain.rules:
            self._name = f"chain {chain.name}: {rule.text}"
            verdict, target = self._rule(rule)
            if verdict in ("jump", "goto"):
                following = self._table.chains.get(target)
                if following is None or depth >= DEPTH:
                    self._not_modelled(f"{verdict} to {target}")
                    continue
                below = self.chain(following, depth + 1)
                if below or verdict == "goto":
                    return below
            elif verdict == "return":
                self.rules.append(self._name)
                return ""
            elif verdict:
                return verdict
        return ""

    def _rule(self, rule: NftRule) -> tuple[str, str]:
        """(Verdict, chain it names), both empty when the rule has none or does not match."""
        before = self.meeting
        try:
            for statement in rule.expressions:
                verdict = self._statement(statement)
                if verdict is None:
                    break
                if verdict[0]:
                    return verdict
        except Absent:
            pass
        except NotModelled as why:
            self._not_modelled(str(why))
        if self.meeting != before:
            self.rules.append(self._name)
        return "", ""

    def _not_modelled(self, what: str) -> None:
        self.unread.append(f"{self._table.title}: {self._name} (not modelled: {what})")

    def _statement(self, statement: Any) -> tuple[str, str] | None:
        """A verdict, ("", "") to go on with the rule, None when it does not match."""
        if not isinstance(statement, Mapping) or len(statement) != 1:
            raise NotModelled(str(statement)[:60])
        name, body = next(iter(statement.items()))
        match name:
            case "match":
                left = self._field(body["left"])
                return ("", "") if matches(body["op"], left, body["right"], self._table.sets, self.meeting) else None
            case "vmap":
                verdict = self._map(body)
                return None if verdict is None else self._statement(verdict)
            case "accept" | "drop" | "return" | "continue" | "jump" | "goto" | "queue" | "reject":
                return self._verdict(name, body)
            case "mangle":
                self._mangle(body)
            case "snat" | "dnat" | "masquerade" | "redirect":
                self._translate(name, body or {})
                return "accept", ""
            case "notrack":
                self.meeting = replace(self.meeting, untracked=True)
            case _ if name not in _HARMLESS:
                raise NotModelled(name)
        return "", ""

    def _verdict(self, name: str, body: Any) -> tuple[str, str]:
        if name in ("drop", "reject", "queue"):
            ending: Ending = "drop" if name == "drop" else "queue" if name == "queue" else "reject"
            if name == "reject" and body and body.get("type") == "tcp reset":
                if self.meeting.header.protocol != "tcp":
                    raise Absent
                ending = "reset"
            self.end(ending, self._name)
            return "drop", ""
        if name in ("jump", "goto"):
            return name, body["target"]
        if name == "accept":
            self.rules.append(self._name)
        return ("" if name == "continue" else name), ""

    def _field(self, expression: Any) -> Field:
        return evaluate(expression, self.meeting, self._draws, f"{self._table.title}: {self._name}")

    def _map(self, body: Mapping[str, Any]) -> Any:
        """What a map has for the packet. A drawn key shows what there is to choose from."""
        key, pairs = body["key"], body["data"]
        name = next(iter(key)) if isinstance(key, Mapping) and len(key) == 1 else ""
        if name not in _CHOICES:
            return lookup(self._field(key), pairs, self._table.sets, self.meeting)
        options = tuple(_option(row[1]) for row in elements(pairs, self._table.sets))
        chosen = drawn(key[name], self._draws, f"{self._table.title}: {self._name}", options)
        return lookup(("number", chosen), pairs, self._table.sets, self.meeting)

    def _mangle(self, body: Mapping[str, Any]) -> None:
        key = body["key"]
        kind, what = next(iter(key.items()))
        what = what.get("key") or what.get("field", "") if isinstance(what, Mapping) else str(what)
        if kind == "tcp option" or (kind in ("payload", "meta", "ct") and what in _INDIFFERENT):
            return
        if what != "mark" or kind not in ("meta", "ct"):
            raise NotModelled(f"{kind} {what} set")
        value = self._number(body["value"])
        if kind == "ct" and (self.meeting.original is None or self.meeting.untracked):
            return  # unlike reading it, this does not end the rule (nft_ct_set_eval)
        self.meeting = replace(self.meeting, mark=value) if kind == "meta" else replace(self.meeting, ct_mark=value)

    def _number(self, expression: Any) -> int:
        if isinstance(expression, Mapping) and "map" in expression:
            found = self._map(expression["map"])
            if found is None:
                raise Absent
            return number("number", found) & FULL
        if not isinstance(expression, Mapping):
            return number("number", expression) & FULL
        _, value = self._field(expression)
        if not isinstance(value, int):
            raise NotModelled("a mark that is no number")
        return value & FULL

    # -- translations ------------------------------------------------------------------------------------------------
    def _translate(self, name: str, body: Mapping[str, Any]) -> None:
        header = self.meeting.header
        if {"netmap", "prefix"} & set(_list(body.get("flags")) + _list(body.get("type_flags"))):
            raise NotModelled(f"{name} of a whole prefix")
        to, port = self._whereto(name, body)
        if name == "redirect" and to is None:
            return self.end("drop", self._name)
        if name in ("dnat", "redirect"):
            after = replace(header, target=to or header.target, target_port=port or header.target_port)
        else:
            drawn_port = set(_DRAWN_PORTS) & set(_list(body.get("flags"))) or "port" in body
            kept = ANY_PORT if drawn_port else header.source_port
            after = replace(header, source=to or header.source, source_port=port or kept)
        self.meeting, self.bound = replace(self.meeting, header=after), True
        self.rules.append(self._name)
        return None

    def _whereto(self, name: str, body: Mapping[str, Any]) -> tuple[IPAddress | None, int]:
        """(Address, port), None and 0 for what stays."""
        header, version = self.meeting.header, self.meeting.header.target.version
        port = self._port(body["port"], header) if "port" in body else 0
        if name == "masquerade":
            return self.meeting.machine.address_of(self.meeting.oif, version), port
        if name == "redirect":
            return self.meeting.redirected_to, port
        if "addr" not in body:
            return None, port
        if body.get("family", "ip" if version == 4 else "ip6") != ("ip" if version == 4 else "ip6"):
            raise Absent
        found = body["addr"]
        if isinstance(found, Mapping) and "map" in found:
            found = self._map(found["map"])
            if found is None:
                raise Absent
        if isinstance(found, Mapping) and "concat" in found:
            found, own_port = found["concat"][0], number("port", found["concat"][1])
            port = own_port
        return self._address(found, version), port

    def _address(self, found: Any, version: int) -> IPAddress:
        if isinstance(found, Mapping) and "range" in found:
            first, last = (address(version, each) for each in found["range"])
            names = [str(first + step) for step in range(min(int(last) - int(first) + 1, 64))]
            return address(version, names[self._draws.among(f"{self._table.title}: {self._name}", names)])
        value: Value = found if isinstance(found, str) else self._field(found)[1]
        return address(version, value)

    def _port(self, text: Any, header: Header) -> int:
        if isinstance(text, Mapping) and "range" in text:
            return ANY_PORT
        if isinstance(text, Mapping):
            return self._number(text)
        return number("port", text)


def _option(found: Any) -> str:
    """What a map's value says, in a word."""
    if isinstance(found, Mapping) and len(found) == 1:
        name, body = next(iter(found.items()))
        if name == "concat":
            return ":".join(map(str, body))
        return f"{name} {body['target']}" if isinstance(body, Mapping) and "target" in body else str(name)
    return str(found)


def _list(flags: Any) -> list[str]:
    return [flags] if isinstance(flags, str) else list(flags or ())
