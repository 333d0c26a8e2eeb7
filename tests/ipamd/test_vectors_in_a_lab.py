# SPDX-License-Identifier: Apache-2.0
"""The warm-pool vectors once more, through everything: the daemon as a process, boto3, the EC2 API, real pods.

Each vector finds a node without a past: its interfaces are made by an EC2 client, its pods by a daemon that may change
nothing, and then a daemon with the vector's settings takes over.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import boto3
import pytest
from labs import Lab, own_lab, wait_until
from vectors import PREFIX, SECONDARY, SHORT, STEADY, env, pd, states

from vpccni.aws import tags
from vpccni.lab import nodes
from vpccni.lab.pods import Pods
from vpccni.lab.state import LabState, PodRecord

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(120)]

QUIET = {"DISABLE_NETWORK_RESOURCE_PROVISIONING": "true"}
ACTIVE = {"DISABLE_NETWORK_RESOURCE_PROVISIONING": "false"}
# Without a cooldown, because pods that only served to fill a block go again, and their addresses must count as free.
DEFAULTS = {"ENABLE_PREFIX_DELEGATION": "false", "WARM_PREFIX_TARGET": "1", "IP_COOLDOWN_PERIOD": "0"}
DEFAULTS["AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"] = "false"
LONG_AGO_S = 3600.0
REST_S = 1.5


class Bench:
    """A lab with one node of each type, and an EC2 client beside it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        lab.up("--topology", str(lab_topology(lab)))
        self.state = LabState.from_environ(lab.environ)
        self._pods = Pods(self.state)
        variables = lab.json("env")
        self.ec2 = boto3.client(
            "ec2", endpoint_url=variables["AWS_ENDPOINT_URL_EC2"], region_name=variables["AWS_REGION"],
            aws_access_key_id="lab", aws_secret_access_key="lab",
        )  # fmt: skip

    def clean(self, node: str) -> None:
        """No pods, no memory, nothing but an empty primary interface."""
        self._pods.remove_many([pod for pod in self._pods.all() if pod.node == node])
        nodes.stop(self.state, node)
        for path in (self.state.node_dir(node) / "run").iterdir():
            if path.is_file():
                path.unlink()
        for eni in self.interfaces(node):
            if eni["Attachment"]["DeviceIndex"]:
                self.ec2.detach_network_interface(AttachmentId=eni["Attachment"]["AttachmentId"])
                waiter = self.ec2.get_waiter("network_interface_available")
                waiter.wait(NetworkInterfaceIds=[eni["NetworkInterfaceId"]], WaiterConfig={"Delay": 1})
                self.ec2.delete_network_interface(NetworkInterfaceId=eni["NetworkInterfaceId"])
                continue
            wanted: dict[str, Any] = {}
            if singles := _singles(eni):
                wanted["PrivateIpAddresses"] = singles
            if prefixes := _prefixes(eni):
                wanted["Ipv4Prefixes"] = prefixes
            for name, values in wanted.items():
                self.ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni["NetworkInterfaceId"], **{name: values})

    def equip(self, node: str, counts: Sequence[int], *, prefixes: bool) -> None:
        """One interface for each count, with so many addresses or prefixes, older than a minute."""
        primary = self.interfaces(node)[0]
        instance = primary["Attachment"]["InstanceId"]
        made = tags.creation(instance, time.time() - LONG_AGO_S, "", {})
        for device, count in enumerate(counts):
            eni_id = primary["NetworkInterfaceId"]
            if device:
                eni_id = self.ec2.create_network_interface(
                    SubnetId=primary["SubnetId"],
                    Groups=[group["GroupId"] for group in primary["Groups"]],
                    Description=f"aws-K8S-{instance}",
                    TagSpecifications=[
                        {
                            "ResourceType": "network-interface",
                            "Tags": [{"Key": key, "Value": value} for key, value in made.items()],
                        }
                    ],
                )["NetworkInterface"]["NetworkInterfaceId"]
                attached = self.ec2.attach_network_interface(
                    NetworkInterfaceId=eni_id, InstanceId=instance, DeviceIndex=device
                )
                deletion = {"AttachmentId": attached["AttachmentId"], "DeleteOnTermination": True}
                self.ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Attachment=deletion)
            if count:
                kind = "Ipv4PrefixCount" if prefixes else "SecondaryPrivateIpAddressCount"
                self.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, **{kind: count})

    def populate(self, node: str, used: Sequence[Sequence[int]], blocks: Sequence[Sequence[str]]) -> None:
        """So many pods on each block: the daemon packs them, and those that are too many go again."""
        wanted = {
            block: pods
            for eni_blocks, eni_used in zip(blocks, used, strict=True)
            for block, pods in zip(eni_blocks, [*eni_used, *[0] * len(eni_blocks)], strict=False)
        }
        room = {block: ip_network(block).num_addresses for block in wanted}
        order = [block for block in wanted if wanted[block]]
        need = sum(room[block] for block in order[:-1]) + wanted[order[-1]] if order else 0
        outcomes = self._pods.add_many([f"{node}-{number}" for number in range(need)], node=node)
        living = [outcome for outcome in outcomes if isinstance(outcome, PodRecord)]
        assert len(living) == need, outcomes
        surplus: list[PodRecord] = []
        for block, most in wanted.items():
            there = [pod for pod in living if ip_address(pod.addresses[0]) in ip_network(block)]
            assert len(there) >= most, (block, most, [pod.addresses for pod in living])
            surplus += there[most:]
        assert self._pods.remove_many(surplus) == []

    def arrive(self, node: str, name: str) -> None:
        """One pod, which asks again until the pool has grown."""
        (outcome,) = self._pods.add_many([name], node=node, retry_s=15)
        assert isinstance(outcome, PodRecord), outcome

    def interfaces(self, node: str) -> list[dict[str, Any]]:
        """The node's interfaces as EC2 lists them, by device index."""
        instance = self._lab.node(node)["instance_id"]
        found = self.ec2.describe_network_interfaces(
            Filters=[{"Name": "attachment.instance-id", "Values": [instance]}]
        )["NetworkInterfaces"]
        return sorted(found, key=lambda eni: eni["Attachment"]["DeviceIndex"])

    def blocks(self, node: str) -> list[list[str]]:
        """Prefixes and single addresses of each interface, lowest first."""
        return [
            sorted((f"{each}/32" for each in _singles(eni)), key=ip_network) + sorted(_prefixes(eni), key=ip_network)
            for eni in self.interfaces(node)
        ]

    def held(self, node: str) -> list[int]:
        """Blocks by interface."""
        return [len(blocks) for blocks in self.blocks(node)]

    def made(self, node: str) -> Counter[str]:
        """Changes of addresses and interfaces that the node has asked for so far."""
        totals = self._lab.json("calls", "--node", node, "--last", "0")["totals"]
        return Counter({SHORT[row["action"]]: row["succeeded"] for row in totals if row["action"] in SHORT})

    def start(self, node: str, environ: dict[str, str]) -> None:
        """Start the node's daemon."""
        nodes.start(self.state, node, {**DEFAULTS, **environ})


def lab_topology(lab: Lab) -> Any:
    """A node of each type that a vector names, in one subnet."""
    path = lab.root.with_name(f"{lab.name}.toml")
    path.write_text(
        '[vpc]\ncidrs = ["10.20.0.0/16"]\n[[subnet]]\nname = "a"\ncidr = "10.20.0.0/20"\n'
        '[[node]]\nname = "large"\nsubnet = "a"\ntype = "m5.large"\n'
        '[[node]]\nname = "small"\nsubnet = "a"\ntype = "t3.small"\n'
        '[[node]]\nname = "xlarge"\nsubnet = "a"\ntype = "m5.xlarge"\n'
        '[[node]]\nname = "p3dn"\nsubnet = "a"\ntype = "p3dn.24xlarge"\n'
    )
    return path


def _singles(eni: dict[str, Any]) -> list[str]:
    return [row["PrivateIpAddress"] for row in eni["PrivateIpAddresses"] if not row["Primary"]]


def _prefixes(eni: dict[str, Any]) -> list[str]:
    return [row["Ipv4Prefix"] for row in eni.get("Ipv4Prefixes", ())]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with own_lab() as lab:
        yield Bench(lab)


def judge(
    bench: Bench, node: str, environ: dict[str, str], used: Sequence[Sequence[int]], counts: Sequence[int],
    held: list[int], calls: list[str], *, prefixes: bool
) -> None:  # fmt: skip
    """Make the state, let the vector's daemon take over, and compare what it held and did when it came to rest."""
    bench.clean(node)
    bench.equip(node, counts, prefixes=prefixes)
    mode = {"ENABLE_PREFIX_DELEGATION": str(prefixes).lower()}
    if any(map(any, used)):
        bench.start(node, {**mode, **QUIET})
        nodes.wait_ready(bench.state, node, 20)
        bench.populate(node, used, bench.blocks(node))
        nodes.stop(bench.state, node)
    before = bench.made(node)
    bench.start(node, {**environ, **ACTIVE})
    wait_until(lambda: bench.held(node) == held, 20, f"held {bench.held(node)}, expected {held}")
    time.sleep(REST_S)  # and stays so
    assert (bench.held(node), sorted((bench.made(node) - before).elements())) == (held, calls)


@pytest.mark.parametrize(
    ("environ", "state", "held", "calls"), [row[1:5] for row in SECONDARY], ids=[row[0] for row in SECONDARY]
)
def test_secondary_vectors_through_the_daemon_and_ec2(
    bench: Bench, environ: dict[str, str], state: str, held: list[int], calls: list[str]
) -> None:
    enis = states(state)
    judge(bench, "large", environ, [used for _, used in enis], [n for n, _ in enis], held, calls, prefixes=False)


@pytest.mark.parametrize(
    ("name", "environ", "state", "held", "calls"), [row[:5] for row in PREFIX], ids=[row[0] for row in PREFIX]
)
def test_prefix_vectors_through_the_daemon_and_ec2(
    bench: Bench, name: str, environ: dict[str, str], state: list[list[int]], held: list[int], calls: list[str]
) -> None:
    node = "small" if name == "P17" else "large"
    judge(bench, node, environ, state, [len(blocks) for blocks in state], held, calls, prefixes=True)


@pytest.mark.parametrize(("environ", "held"), [(env(), [0, 9]), (env(1, 2, 3), [0, 3]), (pd(wp=1), [0, 1])],
                         ids=["A25", "A26", "P22"])  # fmt: skip
def test_custom_networking_vectors_through_the_daemon_and_ec2(
    bench: Bench, environ: dict[str, str], held: list[int], tmp_path: Path
) -> None:
    subnet = bench.interfaces("large")[0]["SubnetId"]
    manifest = "apiVersion: crd.k8s.amazonaws.com/v1alpha1\nkind: ENIConfig\nmetadata: {name: default}\n"
    (tmp_path / "c.yaml").write_text(f"{manifest}spec: {{subnet: {subnet}}}\n")
    on = {"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCCNI_ENI_CONFIG_DIR": str(tmp_path)}
    prefixes = environ.get("ENABLE_PREFIX_DELEGATION") == "true"
    judge(bench, "large", {**environ, **on}, [], [0], held, ["attach"], prefixes=prefixes)


NODES = {"m5.large": "large", "t3.small": "small", "m5.xlarge": "xlarge", "p3dn.24xlarge": "p3dn"}


@pytest.mark.parametrize(("kind", "environ", "expected"), [row[1:] for row in STEADY], ids=[row[0] for row in STEADY])
def test_steady_states_through_the_daemon_and_ec2(
    bench: Bench, kind: str, environ: dict[str, str], expected: dict[int, list[int]]
) -> None:
    node = NODES[kind]
    bench.clean(node)
    bench.start(node, {**environ, **ACTIVE})
    nodes.wait_ready(bench.state, node, 20)
    seen = {}
    for pods in range(max(expected) + 1):
        if pods:
            bench.arrive(node, f"{node}-{pods}")
        if pods in expected:
            with suppress(AssertionError):  # the comparison at the end says what is wrong
                wait_until(lambda: bench.held(node) == expected[pods], 15, "")  # noqa: B023
            seen[pods] = bench.held(node)
    assert seen == expected
