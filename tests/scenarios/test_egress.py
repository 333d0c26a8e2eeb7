# SPDX-License-Identifier: Apache-2.0
"""Pods leave in the address family that is not theirs: through the plugin, the daemon, the box and a server outside."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from labs import Lab, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(150)]

IPV6_CLUSTER = {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"}
SERVERS = {4: "203.0.113.169", 6: "2001:db8:cafe::169"}  # the site: no internet gateway translates on the way


def up(lab: Lab, *options: str, **environ: str) -> dict[str, Any]:
    pairs = [word for name, value in environ.items() for word in ("--env", f"{name}={value}")]
    lab.up("--nodes", "1", *options, *pairs)
    return lab.node("1")


def answer(lab: Lab, source: str, address: str) -> dict[str, Any] | None:
    """What the server at `address` says to `source`; None when nobody answers."""
    host = f"[{address}]" if ":" in address else address
    done = lab.run("exec", source, "--", "curl", "-g", "-s", "-m", "1", f"http://{host}/", ok=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def locals_of(lab: Lab) -> dict[str, str]:
    """Pod name -> its local address, as the daemon says."""
    return {
        name.split("_")[0]: pod["EgressIP"]
        for name, pod in lab.introspect("1", "/v1/pods").items()
        if "EgressIP" in pod
    }


def ip(lab: Lab, *words: str) -> str:
    space = lab.node("1")["namespace"]
    return subprocess.run(["ip", "-n", space, *words], capture_output=True, text=True, check=True).stdout


NATIVE = {"VPCCNI_FIREWALL": "nftables"}


@pytest.mark.parametrize(
    ("version", "environ"),
    [
        pytest.param(4, IPV6_CLUSTER, id="v4if0"),
        pytest.param(6, {"ENABLE_V6_EGRESS": "true"}, id="v6if0"),
        pytest.param(4, {**IPV6_CLUSTER, **NATIVE}, id="v4if0 nftables", marks=pytest.mark.long),
        pytest.param(6, {"ENABLE_V6_EGRESS": "true", **NATIVE}, id="v6if0 nftables", marks=pytest.mark.long),
    ],
)
def test_pods_reach_the_other_family_as_the_node(lab: Lab, version: int, environ: dict[str, str]) -> None:
    node = up(lab, "--ipv6", **environ)
    own = lab.add("a", "b")
    local = locals_of(lab)
    assert set(local) == {"a", "b"} and len(set(local.values())) == 2
    as_node = {4: node["private_address"], 6: node["ipv6_address"]}[version]
    for pod in own:
        heard = answer(lab, pod, SERVERS[version])
        assert heard is not None and heard["client"] == as_node
        assert answer(lab, pod, SERVERS[10 - version]) is not None, "their own family as ever"
    assert answer(lab, "a", local["b"]) is None, "no way from pod to pod"
    # A restart keeps the addresses, repairs the rules that were lost, and gives nobody a second one.
    flush = f"{'iptables' if version == 4 else 'ip6tables'} -t nat -F POSTROUTING"
    if "VPCCNI_FIREWALL" in environ:
        flush = f"nft flush chain {'ip' if version == 4 else 'ip6'} vpccni translation"
    lab.run("exec", "node/1", "--", *flush.split())
    lab.run("restart", "ipamd", "--node", "1", "--kill")
    wait_until(lambda: answer(lab, "a", SERVERS[version]) is not None, 10, "the rules are back")
    assert locals_of(lab) == local
    lab.run("pod", "rm", "a")
    lab.add("c")
    after = locals_of(lab)
    assert set(after) == {"b", "c"} and after["b"] == local["b"] and after["c"] not in local.values()
    assert local["a"] not in ip(lab, f"-{version}", "route"), "nothing is left of it"


@pytest.mark.parametrize(
    ("options", "environ", "version"),
    [
        ((), {"ENABLE_V6_EGRESS": "true"}, 6),
        pytest.param(("--ipv6",), {}, 6, marks=pytest.mark.long),
        pytest.param(("--ipv6",), {**IPV6_CLUSTER, "ENABLE_V4_EGRESS": "false"}, 4, marks=pytest.mark.long),
    ],
    ids=["a node without IPv6", "off by default", "switched off"],
)
def test_without_it_pods_have_one_interface_and_reach_nobody(
    lab: Lab, options: tuple[str, ...], environ: dict[str, str], version: int
) -> None:
    up(lab, *options, **environ)
    lab.add("a")
    links = json.loads(lab.run("exec", "a", "--", "ip", "-j", "link").stdout)
    assert [link["ifname"] for link in links] == ["lo", "eth0"]
    assert locals_of(lab) == {} and answer(lab, "a", SERVERS[version]) is None
    log = lab.run("exec", "node/1", "--", "sh", "-c", "cat /var/log/aws-routed-eni/ipamd.log").stdout
    assert ("ENABLE_V6_EGRESS has no effect" in log) == (options == ())
