# SPDX-License-Identifier: Apache-2.0
"""Results: the Amazon VPC CNI's shape to the byte below 1.0.0, true values from there on, and both can be read back."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from vpccni.cni.prevresult import parse_prev_result
from vpccni.cni.result import NicResult, render_add, render_error, render_version
from vpccni.errors import DaemonNotReady, NetconfError, NoAddress

NETNS = "/var/run/netns/cni-1234"
ETH0 = NicResult(
    host_name="eni0761ccbeace",
    ifname="eth0",
    addresses=(ip_address("192.168.0.201"),),
    table=2,
    device=1,
    host_mac="02:00:00:00:00:01",
    pod_mac="02:00:00:00:00:02",
    mtu=9001,
)
SECOND = NicResult("enib813f772d20", "mNicIf1", (ip_address("192.168.64.7"),), table=10101, device=1)
ON_PRIMARY = NicResult("eni0d7763386da", "eth0", (ip_address("192.168.0.9"),), table=254, device=0)
BRANCH = NicResult("vlan0761ccbeace", "eth0", (ip_address("192.168.9.9"),), 0, 0, gateway=ip_address("192.168.8.1"))

GOLDEN_0_4_0 = """{
    "cniVersion": "0.4.0",
    "interfaces": [
        {
            "name": "eni0761ccbeace"
        },
        {
            "name": "eth0",
            "mac": "2",
            "sandbox": "/var/run/netns/cni-1234"
        },
        {
            "name": "dummy0761ccbeace",
            "mac": "0",
            "sandbox": "1"
        }
    ],
    "ips": [
        {
            "version": "4",
            "interface": 1,
            "address": "192.168.0.201/32"
        }
    ],
    "dns": {}
}"""

GOLDEN_1_1_0 = """{
    "cniVersion": "1.1.0",
    "interfaces": [
        {
            "name": "eni0761ccbeace",
            "mac": "02:00:00:00:00:01",
            "mtu": 9001
        },
        {
            "name": "eth0",
            "mac": "02:00:00:00:00:02",
            "sandbox": "/var/run/netns/cni-1234",
            "mtu": 9001
        }
    ],
    "ips": [
        {
            "interface": 1,
            "address": "192.168.0.201/32"
        }
    ],
    "dns": {}
}"""


def loaded(version: str, *nics: NicResult, **more: Any) -> dict[str, Any]:
    return json.loads(render_add(version, nics, NETNS, **more))


def test_a_normal_pod_in_0_4_0_is_the_amazon_vpc_cnis_to_the_byte() -> None:
    assert render_add("0.4.0", [ETH0], NETNS).decode() == GOLDEN_0_4_0


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1"])
def test_older_versions_differ_in_the_version_only(version: str) -> None:
    assert render_add(version, [ETH0], NETNS).decode() == GOLDEN_0_4_0.replace("0.4.0", version)


def test_1_1_0_has_true_macs_and_mtus_and_1_0_0_no_mtu() -> None:
    assert render_add("1.1.0", [ETH0], NETNS).decode() == GOLDEN_1_1_0
    without = GOLDEN_1_1_0.replace("1.1.0", "1.0.0").replace(',\n            "mtu": 9001', "")
    assert render_add("1.0.0", [ETH0], NETNS).decode() == without


def test_a_pod_on_the_primary_eni_has_table_254_and_device_0() -> None:
    interfaces = loaded("0.4.0", ON_PRIMARY)["interfaces"]
    assert interfaces[1]["mac"] == "254" and interfaces[2] == {"name": "dummy0d7763386da", "mac": "0", "sandbox": "0"}


def test_a_pod_with_two_interfaces_lists_host_and_pod_ends_in_turn_and_the_dummy_last() -> None:
    result = loaded("0.4.0", ETH0, SECOND)
    assert [entry["name"] for entry in result["interfaces"]] == [
        "eni0761ccbeace", "eth0", "enib813f772d20", "mNicIf1", "dummy0761ccbeace",
    ]  # fmt: skip
    assert [entry["interface"] for entry in result["ips"]] == [1, 3] and result["interfaces"][3]["mac"] == "10101"
    assert [entry["interface"] for entry in loaded("1.0.0", ETH0, SECOND)["ips"]] == [1, 3]


def test_a_pod_on_a_branch_eni_carries_the_vlan_in_the_dummy() -> None:
    result = loaded("0.4.0", BRANCH, vlan_id=7)
    assert result["interfaces"][1]["mac"] == "0"
    assert result["interfaces"][2] == {"name": "dummy0761ccbeace", "mac": "7"}
    assert result["ips"][0]["gateway"] == "192.168.8.1"


def test_ipv6_addresses_are_whole_addresses() -> None:
    nic = NicResult("enia", "eth0", (ip_address("2001:db8::5"),), 254, 0)
    assert loaded("0.4.0", nic)["ips"] == [{"version": "6", "interface": 1, "address": "2001:db8::5/128"}]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_both_addresses_of_a_dual_stack_pod_are_on_its_one_interface(version: str) -> None:
    nic = NicResult("eni0761ccbeace", "eth0", (ip_address("192.168.0.201"), ip_address("2001:db8::")), 2, 1)
    result = loaded(version, nic)
    old = version.startswith("0.")
    assert result["ips"] == [
        {**({"version": "4"} if old else {}), "interface": 1, "address": "192.168.0.201/32"},
        {**({"version": "6"} if old else {}), "interface": 1, "address": "2001:db8::/128"},
    ]
    assert [entry["name"] for entry in result["interfaces"]] == ["eni0761ccbeace", "eth0"] + ["dummy0761ccbeace"] * old
    (back,) = parse_prev_result(result).nics
    assert [str(address) for address in back.addresses] == ["192.168.0.201/32", "2001:db8::/128"]


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_results_of_earlier_plugins_are_passed_on_with_ours_behind(version: str) -> None:
    prev = {
        "cniVersion": version,
        "interfaces": [{"name": "br0"}],
        "ips": [{"address": "10.9.9.9/24", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.0.0.2"]},
    }
    result = loaded(version, ETH0, prev_result=prev)
    assert [entry["name"] for entry in result["interfaces"]][:3] == ["br0", "eni0761ccbeace", "eth0"]
    assert [entry["interface"] for entry in result["ips"]] == [0, 2]
    assert (result["routes"], result["dns"]) == (prev["routes"], prev["dns"])
    assert "dns" in prev, "the caller's value is not changed"


def test_an_error_has_code_message_and_next_step() -> None:
    error = NoAddress("assign an address", "the pool is empty", hint="wait", evidence={"enis": 3}, code="pool-empty")
    assert json.loads(render_error("0.4.0", error)) == {
        "cniVersion": "0.4.0",
        "code": 11,
        "msg": "cannot assign an address: the pool is empty",
        "details": "[pool-empty] enis=3 Next: wait",
    }
    assert json.loads(render_error("1.1.0", DaemonNotReady("serve STATUS", "starting", cni_code=50)))["code"] == 50


def test_an_error_is_json_whatever_bytes_a_variable_had() -> None:
    error = NetconfError("use CNI_NETNS", b'/a\xff"\n\xc3\xa9'.decode(errors="surrogateescape"))
    assert json.loads(render_error("1.1.0", error))["msg"] == 'cannot use CNI_NETNS: /a\\xff"\né'


def test_the_version_answer_lists_what_we_speak() -> None:
    answer = json.loads(render_version())
    assert answer == {"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


def test_what_we_print_below_1_0_0_tells_table_device_and_vlan_when_it_comes_back() -> None:
    prev = parse_prev_result(loaded("0.4.0", ETH0, SECOND))
    assert (prev.device, prev.vlan_id, prev.cni_version) == (1, 0, "0.4.0")
    assert [(nic.ifname, nic.host_name, nic.table, nic.sandbox) for nic in prev.nics] == [
        ("eth0", "eni0761ccbeace", 2, NETNS),
        ("mNicIf1", "enib813f772d20", 10101, NETNS),
    ]
    assert prev.nics[0].addresses == (ip_interface("192.168.0.201/32"),)
    assert parse_prev_result(loaded("0.4.0", BRANCH, vlan_id=7)).vlan_id == 7


def test_true_results_say_nothing_about_tables() -> None:
    prev = parse_prev_result(loaded("1.1.0", ETH0))
    assert (prev.dummy, prev.device, prev.vlan_id, prev.nics[0].table) == (None, None, 0, None)
    assert prev.interfaces[1].mtu == 9001 and prev.nics[0].addresses == (ip_interface("192.168.0.201/32"),)


@pytest.mark.parametrize(("device", "table"), [("0", 254), ("1", 2), ("3", 4)])
def test_results_of_amazon_vpc_cni_before_1_20_give_the_table_by_the_device(device: str, table: int) -> None:
    raw = json.loads(GOLDEN_0_4_0)
    del raw["interfaces"][1]["mac"]
    raw["interfaces"][2]["sandbox"] = device
    assert parse_prev_result(raw).nics[0].table == table


def test_interfaces_that_chained_plugins_added_are_no_nics_of_ours() -> None:
    raw = json.loads(GOLDEN_0_4_0)
    raw["interfaces"] += [
        {"name": "veth9", "mac": "aa:bb:cc:dd:ee:ff"},
        {"name": "v4if0", "mac": "aa:bb:cc:dd:ee:fe", "sandbox": NETNS},
    ]
    assert [nic.ifname for nic in parse_prev_result(raw).nics] == ["eth0"]


@pytest.mark.parametrize(
    "raw", [[], 3, {"interfaces": [1]}, {"ips": [{"address": "x"}]}, {"interfaces": [{"name": 1}]}]
)
def test_a_malformed_result_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match="prevResult"):
        parse_prev_result(raw)
