# SPDX-License-Identifier: Apache-2.0
"""Random small rulesets of iptables, as text for `iptables-restore`.

Knows the options that `core.walk.iptablesmatch` models, and the addresses of `nft_worlds`. Must never know what a rule
does.
"""

from __future__ import annotations

from hypothesis import strategies as st
from nft_worlds import NODE, NODE_FAR, OTHER, SERVER, SERVICE

HOOKS = {
    "raw": ("PREROUTING",), "mangle": ("PREROUTING", "INPUT", "FORWARD", "POSTROUTING"),
    "nat": ("PREROUTING", "POSTROUTING"), "filter": ("INPUT", "FORWARD"),
}  # fmt: skip
MARKS = ("0x1", "0x2/0x3", "0x81/0xff", "0x4000/0x4000")
UDP = "-p udp -m udp "


def conditions(version: int, table: str, hook: str) -> st.SearchStrategy[str]:
    """One condition of a rule; those about ports say which protocol they mean."""
    near, far = ("10.1.0.0/24", "10.2.0.0/24") if version == 4 else ("fd00:1::/64", "fd00:2::/64")
    found = [
        f"-d {SERVER[version]}", f"! -d {SERVER[version]}", f"-s {near}", f"! -d {far}", f"-d {SERVICE[version]}",
        "-p udp", "-p tcp", "! -p udp", f"{UDP}--dport 53", f"{UDP}! --dport 50:60",
        "-p udp -m multiport --dports 53,81",
        "-m mark --mark 0x1", "-m mark ! --mark 0x1/0x3", "-m mark --mark 0x4000/0x4000",
        "-m addrtype --dst-type LOCAL", "-m addrtype ! --dst-type LOCAL",
    ]  # fmt: skip
    if table != "raw":
        found += ["-m conntrack --ctstate NEW", "-m conntrack ! --ctstate NEW", "-m conntrack --ctstate DNAT",
                  "-m connmark --mark 0x2", "-m connmark ! --mark 0x80/0x80", "-m conntrack --ctdir ORIGINAL",
                  "-m conntrack --ctstate INVALID,ESTABLISHED"]  # fmt: skip
    if hook != "POSTROUTING":
        found += ["-i enia", "-i eni+", "! -i eth+"]
    if hook in ("FORWARD", "POSTROUTING"):
        found += ["-o enib", "! -o en+"]
    return st.sampled_from(found)


def actions(version: int, table: str, hook: str) -> st.SearchStrategy[str]:
    """A target."""
    found = ["ACCEPT", "RETURN", "ONE", "", *(f"MARK --set-xmark {mark}" for mark in MARKS)]
    found += ["DROP"] if table != "nat" else []
    if table == "filter":
        found += ["REJECT"]
    if table == "mangle":
        found += ["CONNMARK --set-xmark 0x2/0x2", "CONNMARK --restore-mark --nfmask 0xff --ctmask 0x83",
                  "CONNMARK --save-mark --nfmask 0x3 --ctmask 0x1"]  # fmt: skip
    if (table, hook) == ("nat", "PREROUTING"):
        full = OTHER[version] if version == 4 else f"[{OTHER[version]}]"
        found += 3 * [f"DNAT --to-destination {SERVER[version]}", f"DNAT --to-destination {full}:53", "REDIRECT"]
    if (table, hook) == ("nat", "POSTROUTING"):
        found += 3 * [f"SNAT --to-source {NODE_FAR[version]}", "MASQUERADE"]
    return st.sampled_from(found)


@st.composite
def tables(draw: st.DrawFn, version: int) -> str:
    """Some tables, each with a chain to jump to or to go to for good."""
    text = ""
    for name in draw(st.lists(st.sampled_from(list(HOOKS)), min_size=1, max_size=3, unique=True)):
        lines = [f"*{name}"]
        hooks = draw(st.lists(st.sampled_from(HOOKS[name]), min_size=1, max_size=2, unique=True))
        for hook in HOOKS[name]:
            policies = ["ACCEPT", "ACCEPT", "ACCEPT", "DROP"] if name != "nat" else ["ACCEPT"]
            lines.append(f":{hook} {draw(st.sampled_from(policies))} [0:0]")
        lines.append(":ONE - [0:0]")
        # What stands in the chain must be allowed in every hook of its table.
        for chain, hook in [("ONE", ""), *((each, each) for each in hooks)]:
            lines += [_rule(draw, version, name, chain, hook) for _ in range(draw(st.integers(1, 3)))]
        text += "\n".join([*lines, "COMMIT\n"])
    return text


def _rule(draw: st.DrawFn, version: int, table: str, chain: str, hook: str) -> str:
    when = draw(conditions(version, table, hook or "POSTROUTING")) if draw(st.booleans()) else ""
    when = when if hook or not {"-o", "-i"} & set(when.split()) else ""
    what = draw(actions(version, table, hook))
    if what.startswith("DNAT") and what.endswith(":53"):
        when = "-p udp"
    what = "" if not hook and what == "ONE" else what
    verb = draw(st.sampled_from(["-j", "-g"])) if what == "ONE" else "-j"
    return " ".join(filter(None, (f"-A {chain}", when, f"{verb} {what}" if what else "")))


assert NODE  # where some of the datagrams go
