# SPDX-License-Identifier: Apache-2.0
"""Requests of a runtime: what is accepted, what is refused with which code, and that all problems come at once."""

from __future__ import annotations

import itertools
import json
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.cni.netconf import POD_ANNOTATIONS, AttachmentId, stated_version
from vpccni.cni.request import (
    AddRequest,
    CheckRequest,
    DelRequest,
    GcRequest,
    PodArgs,
    StatusRequest,
    VersionRequest,
    parse,
    parse_args,
)
from vpccni.cni.wire import RelayRequest
from vpccni.errors import NetconfError

CONF: dict[str, Any] = {"cniVersion": "1.1.0", "name": "aws-cni", "type": "aws-cni"}
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
PREV = {"cniVersion": "1.1.0", "interfaces": [], "ips": []}


def relayed(command: str, conf: Any = None, **variables: str | None) -> RelayRequest:
    env = {"CNI_CONTAINERID": "abc", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_ARGS": ARGS, **variables}
    stdin = conf if isinstance(conf, bytes) else json.dumps(CONF | (conf or {})).encode()
    return RelayRequest(
        {"CNI_COMMAND": command} | {name: value for name, value in env.items() if value is not None}, stdin
    )


def refusal(request: RelayRequest) -> NetconfError:
    with pytest.raises(NetconfError) as raised:
        parse(request)
    return raised.value


def test_an_add_has_everything_typed() -> None:
    conf = {
        "cniVersion": "0.4.0",
        "mtu": "1500",
        "vethPrefix": "veth",
        "podSGEnforcingMode": "standard",
        "pluginLogFile": "/var/log/x",
        "pluginLogLevel": "Debug",
        "runtimeConfig": {POD_ANNOTATIONS: {"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}},
        "unknownField": [1],
    }
    add = parse(relayed("ADD", conf))
    assert isinstance(add, AddRequest)
    assert (add.container_id, add.ifname, add.netns) == ("abc", "eth0", "/run/netns/x")
    assert add.pod == PodArgs("default", "web-0", "u-1", "abc")
    config = add.config
    assert (config.name, config.cni_version, config.mtu, config.veth_prefix) == ("aws-cni", "0.4.0", 1500, "veth")
    assert (config.pod_sg_enforcing_mode, config.plugin_log_file) == ("standard", "/var/log/x")
    assert config.annotations == {"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"} and config.notes == ()


def test_the_defaults_are_the_amazon_vpc_cnis() -> None:
    config = parse(relayed("ADD")).config  # type: ignore[union-attr]
    assert (config.mtu, config.veth_prefix, config.pod_sg_enforcing_mode) == (9001, "eni", "strict")
    assert (config.plugin_log_file, config.annotations, config.prev_result) == ("", {}, None)


@pytest.mark.parametrize(
    ("mtu", "used"),
    [
        ("576", 576),
        ("9001", 9001),
        (1500, 1500),
        ("", 9001),
        ("575", 9001),
        ("9002", 9001),
        ("abc", 9001),
        (True, 9001),
        ([], 9001),
    ],
)
def test_an_unusable_mtu_means_9001_and_leaves_a_note(mtu: object, used: int) -> None:
    config = parse(relayed("ADD", {"mtu": mtu})).config  # type: ignore[union-attr]
    assert config.mtu == used
    assert bool(config.notes) == (mtu not in ("", str(used), used) or mtu is True)


def test_all_problems_of_a_configuration_come_in_one_message() -> None:
    conf = {
        "name": "a b",
        "vethPrefix": "toolong",
        "pluginLogFile": 7,
        "runtimeConfig": {POD_ANNOTATIONS: {"a": 1}},
        "prevResult": {
            "interfaces": 3,
            "ips": [{"address": "10.0.0.0/99"}, {}, {"address": "10.0.0.1/32", "interface": 5}],
        },
    }
    error = refusal(relayed("ADD", conf))
    assert error.cni_error_code == 7
    for problem in (
        "name 'a b'",
        "vethPrefix 'toolong'",
        "pluginLogFile 7",
        "annotation 'a'",
        "prevResult.interfaces is not",
        "prevResult.ips[0]",
        "prevResult.ips[1].address is missing",
        "prevResult.ips[2].interface 5",
    ):
        assert problem in error.message, problem


@pytest.mark.parametrize("prefix", ["eth", "lo", "vlan", "a/b", "veths", "-a"])
def test_a_veth_prefix_that_would_confuse_the_host_is_refused(prefix: str) -> None:
    assert refusal(relayed("ADD", {"vethPrefix": prefix})).cni_error_code == 7


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b'"x"', b"null", b'{"name": "\xff"}'])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_what_is_no_json_object_is_a_decode_failure(stdin: bytes, command: str) -> None:
    assert refusal(relayed(command, stdin)).cni_error_code == 6


@pytest.mark.parametrize("version", ["0.2.0", "2.0.0", "", None, 1, "1.1"])
def test_an_unknown_version_is_code_1_and_names_the_known_ones(version: object) -> None:
    error = refusal(relayed("ADD", {"cniVersion": version}))
    assert error.cni_error_code == 1 and "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in error.hint


@pytest.mark.parametrize(("command", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_a_command_that_the_version_does_not_know_is_code_1(command: str, since: str) -> None:
    extra = {"prevResult": PREV, "cni.dev/valid-attachments": []}
    for version in ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"):
        request = relayed(command, {"cniVersion": version, **extra})
        if version < since:
            assert refusal(request).cni_error_code == 1
        else:
            assert parse(request).config.cni_version == version  # type: ignore[union-attr]


def test_missing_and_invalid_variables_are_named_all_at_once() -> None:
    error = refusal(relayed("ADD", CNI_CONTAINERID="", CNI_NETNS=None, CNI_IFNAME="a b", CNI_ARGS="x"))
    assert error.cni_error_code == 4
    for name in ("CNI_CONTAINERID is missing", "CNI_NETNS is missing", "CNI_IFNAME 'a b'", "CNI_ARGS has 'x'"):
        assert name in error.message
    assert "CNI_NETNS" not in refusal(relayed("DEL", CNI_CONTAINERID=None, CNI_NETNS=None)).message


@pytest.mark.parametrize("container_id", ["-a", ".a", "_a", "a/b", "a b", "../x", "ä", "a\n"])
def test_a_container_id_follows_the_specification(container_id: str) -> None:
    assert "CNI_CONTAINERID" in refusal(relayed("ADD", CNI_CONTAINERID=container_id)).message
    assert parse(relayed("ADD", CNI_CONTAINERID="0" + "aZ_.-" * 12))


@pytest.mark.parametrize("ifname", [".", "..", "a/b", "a:b", "a b", "a\tb", "a\n", "x" * 16])
def test_an_interface_name_follows_the_kernels_rules(ifname: str) -> None:
    assert "CNI_IFNAME" in refusal(relayed("ADD", CNI_IFNAME=ifname)).message
    assert parse(relayed("ADD", CNI_IFNAME="x" * 15))


def test_an_unknown_command_is_code_4_and_version_needs_nothing() -> None:
    for command in ("", "add", "UPDATE"):
        error = refusal(relayed(command))
        assert error.cni_error_code == 4 and "CNI_COMMAND" in error.message
    assert parse(RelayRequest({"CNI_COMMAND": "VERSION"}, b"")) == VersionRequest()


def test_args_come_in_any_order() -> None:
    expected = (PodArgs("default", "web-0", "u-1", "abc"), [])
    for order in itertools.permutations(ARGS.split(";")):
        assert parse_args(";".join(order)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("K8S_POD_NAME", "'K8S_POD_NAME', which is not NAME=value"),
        ("A=b=c;IgnoreUnknown=1", "'A=b=c', which is not NAME=value"),
        ("K8S_POD_NAME=a;", "'', which is not NAME=value"),
        ("FOO=1;BAR=2", "unknown names BAR, FOO without"),
        ("FOO=1;IgnoreUnknown=0", "unknown names FOO"),
        ("IgnoreUnknown=maybe", "IgnoreUnknown='maybe'"),
        ("K8S_POD_NAME=a b", "K8S_POD_NAME='a b'"),
        ("K8S_POD_NAMESPACE=../x", "K8S_POD_NAMESPACE='../x'"),
    ],
)
def test_malformed_args_refuse_an_add_but_not_a_del(text: str, problem: str) -> None:
    error = refusal(relayed("ADD", CNI_ARGS=text))
    assert error.cni_error_code == 4 and problem in error.message
    gone = parse(relayed("DEL", CNI_ARGS=text))
    assert isinstance(gone, DelRequest) and " " not in gone.pod.name


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "True"])
def test_unknown_args_are_fine_when_the_runtime_says_so(value: str) -> None:
    assert parse_args(f"FOO=1;IgnoreUnknown={value};K8S_POD_NAME=p") == (PodArgs("", "p"), [])


def test_without_a_pod_name_the_container_id_stands_in() -> None:
    for command in ("ADD", "DEL"):
        assert parse(relayed(command, CNI_ARGS=None)).pod == PodArgs("", "abc")  # type: ignore[union-attr]


@given(st.text(max_size=60))
def test_no_args_break_the_parser(text: str) -> None:
    pod, problems = parse_args(text)
    assert problems or all(part.count("=") == 1 for part in text.split(";") if text)
    assert not {" ", "/", ";"} & set(pod.name + pod.namespace)


def test_a_del_needs_little_and_notes_the_rest() -> None:
    bare = parse(relayed("DEL", CNI_NETNS=None, CNI_ARGS=None))
    assert isinstance(bare, DelRequest)
    assert (bare.netns, bare.config.prev_result) == ("", None)
    broken = parse(relayed("DEL", {"vethPrefix": "toolong", "prevResult": {"ips": 1}, "runtimeConfig": 3}))
    assert isinstance(broken, DelRequest) and broken.config.prev_result is None and len(broken.config.notes) == 3
    assert refusal(relayed("DEL", {"name": None})).cni_error_code == 7, "without the name the key is not known"


def test_check_needs_the_previous_result() -> None:
    assert "prevResult is missing" in refusal(relayed("CHECK")).message
    conf = {"prevResult": PREV | {"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/32", "interface": 0}]}}
    check = parse(relayed("CHECK", conf))
    assert isinstance(check, CheckRequest) and check.config.prev_result
    assert check.config.prev_result.addresses[0].address == ip_interface("10.0.0.1/32")


def test_gc_takes_the_list_of_what_is_valid_and_never_guesses_it() -> None:
    listed = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        request = RelayRequest({"CNI_COMMAND": "GC"}, json.dumps(CONF | {key: listed}).encode())
        collect = parse(request)
        assert isinstance(collect, GcRequest)
        assert collect.config.valid_attachments == {AttachmentId("a", "eth0"), AttachmentId("b", "net1")}
    assert parse(relayed("GC", {"cni.dev/valid-attachments": []})).config.valid_attachments == frozenset()  # type: ignore[union-attr]
    assert "would drop every pod" in refusal(relayed("GC")).message
    assert "containerID" in refusal(relayed("GC", {"cni.dev/valid-attachments": [{"ifname": "eth0"}]})).message


def test_status_needs_no_variables() -> None:
    assert isinstance(parse(RelayRequest({"CNI_COMMAND": "STATUS"}, json.dumps(CONF).encode())), StatusRequest)


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion":"9.0.0"}', "1.1.0"),
        (b"{", "1.1.0"),
        (b'{"cniVersion":1}', "1.1.0"),
    ],
)
def test_errors_are_answered_in_the_callers_version_when_we_speak_it(stdin: bytes, version: str) -> None:
    assert stated_version(stdin) == version
