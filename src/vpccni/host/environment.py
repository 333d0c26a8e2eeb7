# SPDX-License-Identifier: Apache-2.0
"""Looks at what is around us on this machine, for `core.environment` to remark on.

Knows files and programs of other people's software. Must never change any of it nor judge it. What cannot be read
counts as not there: a doctor must not fail where there is little to see. `vpccni doctor` calls it on the node.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from vpccni import paths
from vpccni.core import conventions as c
from vpccni.core.environment import Machine
from vpccni.core.firewall.variant import KUBE_PROXY_TABLE
from vpccni.errors import HostError
from vpccni.host import sysctl
from vpccni.host.programs import run_program
from vpccni.netlink.socket import RouteSocket

NETWORKD_STATE = Path("run/systemd/netif")
NETWORKD_CONFIGURATION = ("etc/systemd", "run/systemd", "usr/lib/systemd")
UDEV_SOCKET, DEFAULT_LINK = Path("run/udev/control"), Path("usr/lib/systemd/network/99-default.link")
LEGACY_TABLES = Path("proc/net/ip_tables_names")


def look(root: Path = Path("/"), *, strict_branch_pods: bool = False) -> Machine:
    """The machine as it is now; files are looked for below `root`, the kernel is the one that the thread is in."""
    with RouteSocket() as route:
        default = [each for each in route.routes(4, c.TABLE_MAIN) if not each.dst.prefixlen and each.index]
        primary = min(default, key=lambda each: each.metric).dev if default else ""
        links = frozenset(link.name for link in route.links())
        tables = frozenset(rule.table for rule in route.rules(4))
    variant = _printed("iptables", "--version")
    settings = _networkd_settings(root)
    nftables = _printed("nft", "list", "tables", "ip").splitlines()
    return Machine(
        forward_policy=next(iter(re.findall(r"^-P FORWARD (\w+)", _printed("iptables", "-S", "FORWARD"), re.M)), ""),
        primary=primary,
        rp_filter=max(_number("net/ipv4/conf/all/rp_filter"), _number(f"net/ipv4/conf/{primary}/rp_filter")),
        tcp_early_demux=_number("net/ipv4/tcp_early_demux") == 1,
        strict_branch_pods=strict_branch_pods,
        rule_tables=tables,
        networkd=(root / NETWORKD_STATE).is_dir(),
        networkd_spares_rules=_is_off(settings, "ManageForeignRoutingPolicyRules"),
        networkd_spares_routes=_is_off(settings, "ManageForeignRoutes"),
        conflists=_conflists_before_ours(root),
        links=links,
        iptables="legacy" if "legacy" in variant else "nf_tables" if "nf_tables" in variant else "",
        legacy_tables=tuple(_text(root / LEGACY_TABLES).split()),
        nf_tables_in_use="table ip nat" in nftables,
        udev_persistent_macs=(root / UDEV_SOCKET).exists()
        and "MACAddressPolicy=persistent" in _text(root / DEFAULT_LINK),
        kube_proxy_nftables=f"table ip {KUBE_PROXY_TABLE}" in nftables,
        rules_in_iptables=bool(_printed("iptables", "-t", "nat", "-S", c.SNAT_CHAIN)),
    )


def _printed(*argv: str) -> str:
    with suppress(HostError):
        return run_program("look at the machine", *argv)
    return ""


def _number(path: str) -> int:
    with suppress(HostError, ValueError):
        return int(sysctl.read(path) or 0)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _networkd_settings(root: Path) -> str:
    """networkd.conf and its drop-ins, in the order in which later ones win."""
    files = [root / folder / "networkd.conf" for folder in reversed(NETWORKD_CONFIGURATION)]
    drop_ins = [path for folder in NETWORKD_CONFIGURATION for path in (root / folder).glob("networkd.conf.d/*.conf")]
    return "\n".join(map(_text, [*files, *sorted(drop_ins, key=lambda path: path.name)]))


def _is_off(settings: str, name: str) -> bool:
    values = re.findall(rf"^\s*{name}\s*=\s*(\w+)", settings, re.M)
    return bool(values) and values[-1].lower() in ("no", "false", "off", "0")


def _conflists_before_ours(root: Path) -> tuple[str, ...]:
    folder = root / paths.CNI_CONF_DIR.relative_to("/")
    with suppress(OSError):
        names = sorted(path.name for path in folder.iterdir() if path.suffix in (".conf", ".conflist", ".json"))
        return tuple(name for name in names if name < paths.CONFLIST_NAME)
    return ()
