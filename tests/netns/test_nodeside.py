# SPDX-License-Identifier: Apache-2.0
"""What the daemon makes of EC2's interfaces in the kernel, in an IPv4, an IPv6 and a dual-stack node."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

import pytest
from test_attachments import Memory, Standing

from vpccni.aws.values import Attachment, Interface
from vpccni.host.firewall import Firewall
from vpccni.host.kernel import NodeKernel
from vpccni.host.node import Pods
from vpccni.host.programs import DIRECTORIES
from vpccni.ipamd.nodefirewall import NodeFirewall
from vpccni.ipamd.nodeside import NodeSide
from vpccni.ipamd.repair import Repairs
from vpccni.ipamd.worker import Worker
from vpccni.netlink.namespace import inside
from vpccni.settings import parse

pytestmark = pytest.mark.netns

MACS = ("02:00:00:00:00:10", "02:00:00:00:00:20")
ENVIRONS = {
    "IPv4": {},
    "IPv6": {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"},
    "dual stack": {"VPCCNI_DUAL_STACK": "true"},
}
TABLES = {
    "IPv4": {"-4": ["default via 10.0.0.1 dev eth1", "10.0.0.1 dev eth1 scope link"], "-6": []},
    "IPv6": {"-4": [], "-6": ["fe80:ec2::1 dev eth1 metric 1024", "default via fe80:ec2::1 dev eth1 metric 1024"]},
}
TABLES["dual stack"] = {"-4": TABLES["IPv4"]["-4"], "-6": TABLES["IPv6"]["-6"]}


class NoPods:
    """A node without pods, or with such as are under way: they have these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.spared = frozenset(map(ip_address, addresses))

    def pods(self) -> Pods:
        return Pods([], spared=self.spared)

    def sources(self) -> dict[object, int]:
        return {}


def interfaces(*, own_ipv6: bool) -> list[Interface]:
    """A primary ENI and a second one, each with a /80, the second perhaps without an IPv6 address of its own."""
    made = []
    for device, mac in enumerate(MACS):
        own = [ip_address(f"2001:db8::{device + 1}0")] if own_ipv6 or not device else []
        secondary = [ip_address(f"10.0.0.{device + 1}1")]
        made.append(
            Interface(
                f"eni-{device}", mac, "subnet-1", ip_address(f"10.0.0.{device + 1}0"), (*secondary, *own),
                (ip_network(f"2001:db8:0:0:{device + 1}::/80"),), attachment=Attachment("a", "i", device),
            )
        )  # fmt: skip
    return made


async def keep(space, kernel: NodeKernel, environ: dict[str, str], tenants: NoPods, *, own_ipv6: bool = True) -> None:
    """The daemon learns twice which ENIs there are; the second time must change nothing."""
    worker = Worker(asyncio.get_running_loop(), Memory(), lambda error: None)
    with inside(space.fd):
        worker.start()
    repairs = Repairs(lambda: 1000.0, lambda kind: None)
    settings = parse({**environ, "AWS_VPC_ENI_MTU": "1500"})
    firewall = NodeFirewall(settings, Firewall(), repairs)
    side = NodeSide(settings, MACS[0], worker, kernel, firewall, Standing(), tenants, repairs)
    side.subnets = {"subnet-1": (ip_network("10.0.0.0/24"), ip_network("2001:db8::/64"))}
    try:
        await side.keep(interfaces(own_ipv6=own_ipv6))
        await side.keep(interfaces(own_ipv6=own_ipv6))
        assert not repairs.by_kind
    finally:
        worker.stop()


@pytest.mark.parametrize("own_ipv6", [True, False])
@pytest.mark.parametrize("family", ENVIRONS)
def test_each_family_of_the_settings_gets_its_objects_and_no_other(spaces, family, own_ipv6):
    space = spaces("node")
    for number, mac in enumerate(MACS):
        space.dummy(f"eth{number}", mac=mac)
    space.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")

    with NodeKernel(space.fd) as kernel:
        asyncio.run(keep(space, kernel, ENVIRONS[family], NoPods(), own_ipv6=own_ipv6))
    for flag, table in TABLES[family].items():
        shown = space.ip(f"{flag} route show table 2") if table else []
        assert [line.replace(" proto 91", "").removesuffix(" pref medium") for line in shown] == table
        rules = [line.removesuffix(" proto 91") for line in space.ip(f"{flag} rule")]
        assert ("1024: from all fwmark 0x80/0x80 lookup main" in rules) == bool(table)
        address = {"-4": "10.0.0.20", "-6": "2001:db8::20"}[flag]
        expected = bool(table) and (flag == "-4" or own_ipv6)
        assert (f"32765: from {address} lookup 2" in rules) == expected
        assert any(f" {address}/" in line for line in space.ip(f"{flag} addr show dev eth1")) == expected
    everything = "".join(space.ip("addr"))
    assert "10.0.0.21" not in everything and "2001:db8:0:0:2:" not in everything, "pods' addresses are not the node's"
    read = lambda key: space.run("sysctl", "-n", key).strip()  # noqa: E731
    assert read("net.ipv4.ip_forward") == str(int(family != "IPv6"))
    forwards = [read("net.ipv6.conf.all.forwarding"), read("net.ipv6.conf.eth0.accept_ra")]
    assert (forwards == ["1", "2"]) == (family != "IPv4")


def test_pods_that_have_both_families_keep_them_when_dual_stack_is_switched_off(spaces):
    space = spaces("node")
    for number, mac in enumerate(MACS):
        space.dummy(f"eth{number}", mac=mac)

    def table() -> list[str]:
        shown = space.ip("-6 route show table 2")
        return [line.replace(" proto 91", "").removesuffix(" pref medium") for line in shown]

    with NodeKernel(space.fd) as kernel:
        asyncio.run(keep(space, kernel, ENVIRONS["dual stack"], NoPods()))
        asyncio.run(keep(space, kernel, ENVIRONS["IPv4"], NoPods("10.0.0.21", "2001:db8:0:0:2::")))
        assert table() == TABLES["IPv6"]["-6"]
        asyncio.run(keep(space, kernel, ENVIRONS["IPv4"], NoPods("10.0.0.21", "fd00::ac:2")))
        assert table() == [], "the last such pod is gone"


def test_without_nft_the_iptables_rules_are_kept_up_and_it_is_said_once(spaces, tmp_path, caplog):
    for name in ("iptables", "iptables-save", "iptables-restore"):
        (tmp_path / name).symlink_to(f"/usr/sbin/{name}")
    space = spaces("node")
    space.dummy("eth0", mac=MACS[0])

    async def story(directories: tuple[str, ...]) -> None:
        repairs = Repairs(lambda: 1000.0, lambda kind: None)
        firewall = NodeFirewall(parse(ENVIRONS["IPv4"]), Firewall(directories), repairs)
        own = ip_address("10.0.0.10")
        await firewall.translate("eth0", [ip_network("10.0.0.0/16")], own)
        await firewall.translate("eth0", [ip_network("10.0.0.0/16"), ip_network("10.7.0.0/16")], own)
        await firewall.restore()

    def shown() -> tuple[bool, bool, int]:
        warned = [record for record in caplog.records if "no nftables table" in record.message]
        tables = space.run("nft", "list", "tables")
        return "10.7.0.0/16" in space.run("iptables", "-t", "nat", "-S"), "vpccni" in tables, len(warned)

    with inside(space.fd):
        asyncio.run(story((str(tmp_path),)))
        assert shown() == (True, False, 1)
        asyncio.run(story(DIRECTORIES))
        assert shown() == (True, True, 1)
