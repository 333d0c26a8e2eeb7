# SPDX-License-Identifier: Apache-2.0
"""Random small rulesets of nftables that the kernel accepts, as text for `nft -f`.

Knows the grammar of nft(8) as far as `core.walk.nft` models it, and the addresses of `nft_worlds`. Must never know what
a rule does.
"""

from __future__ import annotations

import re

from hypothesis import strategies as st
from nft_worlds import GROUP, NODE, NODE_FAR, OTHER, SERVER, SERVICE

MARKS = ("0x1", "0x2", "0x81", "0x4000")
REGULAR = ("one", "two")
TRANSPORT = re.compile(r"tcp|udp|th [sd]port")


def conditions(version: int, hook: str) -> st.SearchStrategy[str]:
    """One condition of a rule."""
    ip, near, far = ("ip", "10.1.0.0/24", "10.2.0.0/24") if version == 4 else ("ip6", "fd00:1::/64", "fd00:2::/64")
    server, other, service = SERVER[version], OTHER[version], SERVICE[version]
    found = [
        f"{ip} daddr {server}", f"{ip} daddr != {server}", f"{ip} daddr {service}", f"{ip} saddr {near}",
        f"{ip} daddr != {far}", f"{ip} daddr {{ {other}, {service} }}", f"{ip} daddr {server}-{other}",
        f"{ip} saddr != {{ {near}, {service} }}", f"{ip} daddr @nets", f"{ip} daddr != @nets",
        "udp dport 53", "udp dport { 50-60, 8080 }", "tcp dport 80", "th dport < 100", "th dport != 53",
        "th sport > 1000", "meta l4proto udp", "meta l4proto { tcp, udp }", "meta l4proto tcp",
        f"{ip} daddr . udp dport {{ {server} . 53, {service} . 80 }}", f"{ip} daddr . th dport @pairs",
        "meta mark 0x1", "meta mark != 0x1", "meta mark & 0x3 == 0x1", "meta mark & 0x4000 != 0", "meta mark 0x1-0x80",
        "meta mark { 0x0, 0x2 }", "ct mark 0x2", "ct mark & 0x80 == 0x80",
        "ct state new", "ct state established,related", "ct state != new", "ct state { new, invalid }",
        "ct status dnat", "ct status & dnat == 0", "ct direction original", f"ct original {ip} daddr {service}",
        "meta l4proto udp ct original proto-dst 80", "fib daddr type local", "fib daddr type != local",
    ]  # fmt: skip
    if hook != "output":
        found += ['iifname "enia"', 'iifname "eni*"', 'iifname != "eth*"', f"iifgroup {GROUP}", "iif enia"]
        found += ["fib saddr . iif oif exists", "fib saddr . iif oif missing"] if hook != "postrouting" else []
    if hook in ("forward", "postrouting"):
        found += ['oifname "enib"', 'oifname "en*"', 'oifname { "enib", "eth0" }', "oif enib"]
    return st.sampled_from(found)


def actions(version: int, kind: str, hook: str, jumps: bool) -> st.SearchStrategy[str]:
    """What a rule does: marks and counters, then at most one verdict or translation."""
    mark = st.sampled_from(MARKS)
    ip = "ip" if version == 4 else "ip6"
    changes = st.one_of(
        mark.map(lambda each: f"meta mark set {each}"), mark.map(lambda each: f"meta mark set meta mark | {each}"),
        mark.map(lambda each: f"meta mark set meta mark & {each} | 0x10"), mark.map(lambda each: f"ct mark set {each}"),
        mark.map(lambda each: f"meta mark set meta mark ^ {each}"), st.just("ct mark set meta mark"),
        st.just("meta mark set ct mark"), st.just("counter"), st.just("meta mark set meta mark << 1"),
        st.just(f"meta mark set {ip} daddr map {{ {SERVER[version]} : 0x5, {SERVICE[version]} : 0x6 }}"),
    )  # fmt: skip
    verdicts = ["accept", "drop", "return", "continue", ""] + (["reject"] if hook in ("input", "forward") else [])
    verdicts += [f"{verb} {name}" for verb in ("jump", "goto") for name in REGULAR if jumps]
    verdicts += [f"{ip} daddr vmap @services", "udp dport vmap { 53 : accept, 80 : return, 50-52 : drop }"]
    if kind == "nat":
        verdicts += 3 * _translations(version, hook)
    return st.tuples(st.lists(changes, max_size=2), st.sampled_from(verdicts)).map(
        lambda each: " ".join([*each[0], each[1]])
    )


def _translations(version: int, hook: str) -> list[str]:
    def full(address: str) -> str:
        return address if version == 4 else f"[{address}]"

    ip = "ip" if version == 4 else "ip6"
    server, other, far = SERVER[version], OTHER[version], NODE_FAR[version]
    if hook == "postrouting":
        return [f"snat {ip} to {far}", "masquerade", f"snat {ip} to {ip} saddr"]
    chosen = f"udp dport map {{ 80 : {server} . 53, 53 : {other} . 80 }}"
    return [
        f"dnat {ip} to {server}",
        f"meta l4proto udp dnat {ip} to {full(other)}:53",
        "meta l4proto udp redirect to :8080",
        f"dnat {ip} to {ip} daddr map {{ {SERVICE[version]} : {other} }}",
        "redirect",
        f"meta l4proto udp dnat {ip} addr . port to {chosen}",
    ]


@st.composite
def rules(draw: st.DrawFn, version: int, kind: str, hook: str, jumps: bool) -> str:
    """The rules of a chain."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        what = draw(actions(version, kind, hook, jumps))
        when = draw(st.lists(conditions(version, hook), max_size=2))
        # nft refuses two transport protocols in one rule.
        when = when if sum(TRANSPORT.search(each) is not None for each in (*when, what)) < 2 else []
        if when or what.strip():
            found.append(" ".join([*when, what]))
    return "".join(f"    {rule}\n" for rule in found)


# No filter chain has a priority of nf_nat's own: which of them is older would depend on the ruleset before.
KINDS = [("filter", "prerouting", (-310, -150, -101, -99, -50)), ("filter", "forward", (-10, 0, 1)),
         ("filter", "postrouting", (-150, 99, 101)), ("nat", "prerouting", (-110, -100, -90)),
         ("nat", "postrouting", (90, 100)), ("filter", "input", (-10, 0))]  # fmt: skip


@st.composite
def rulesets(draw: st.DrawFn, version: int) -> str:
    """One or two tables with base chains of any hook, chains to jump to, a set, and maps."""
    text = ""
    for number in range(draw(st.integers(1, 2))):
        family = draw(st.sampled_from(["inet", "ip" if version == 4 else "ip6"]))
        text += f"table {family} t{number} {{\n{_sets(version)}"
        bases = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
        # A chain to jump to may be reached from any hook: what it says must be allowed in all of them.
        plain = [f"  chain {name} {{\n{draw(rules(version, 'filter', 'output', False))}  }}\n" for name in REGULAR]
        text += "".join(plain)
        for at, (kind, hook, priorities) in enumerate(bases):
            policy = draw(st.sampled_from(["accept", "accept", "accept", "drop"]))
            priority = draw(st.sampled_from(priorities))
            text += f"  chain base{at} {{\n    type {kind} hook {hook} priority {priority}; policy {policy};\n"
            text += draw(rules(version, kind, hook, True)) + "  }\n"
        text += "}\n"
    return text


def _sets(version: int) -> str:
    address = "ipv4_addr" if version == 4 else "ipv6_addr"
    server, service = SERVER[version], SERVICE[version]
    near = "10.1.0.0/24" if version == 4 else "fd00:1::/64"
    return f"""  chain marked {{
    meta mark set 0x33
  }}
  set nets {{
    type {address}; flags interval; elements = {{ {near}, {OTHER[version]}, {service} }}
  }}
  set pairs {{
    type {address} . inet_service; flags interval; elements = {{ {server} . 50-60, {service} . 80 }}
  }}
  map services {{
    type {address} : verdict
    elements = {{ {service} : goto marked, {OTHER[version]} : drop, {NODE[version]} : accept }}
  }}
"""
