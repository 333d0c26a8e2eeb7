# SPDX-License-Identifier: Apache-2.0
"""Custom networking: pods live on ENIs in the subnet and groups of the node's ENIConfig, never on the primary."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import virtual
from rig import Rig

from vpccni.errors import NoAddress, SettingsError, VpcCniError
from vpccni.ipamd.eniconfigs import EniConfig, EniConfigs, parse
from vpccni.ipamd.explain import explained
from vpccni.settings import parse as parse_settings

MANIFEST = """\
# two documents, and one of another kind
apiVersion: v1
kind: ConfigMap
metadata: {{name: other}}
---
apiVersion: crd.k8s.amazonaws.com/v1alpha1
kind: ENIConfig
metadata:
  name: {name}
spec:
  subnet: {subnet}
  securityGroups: [{groups}]
"""


def custom(directory: Path, **environ: str) -> dict[str, str]:
    on = {"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCCNI_ENI_CONFIG_DIR": str(directory)}
    return {**on, "WARM_IP_TARGET": "3", **environ}


def pod_subnet(rig: Rig) -> str:
    return rig.cloud.create_subnet(rig.vpc.vpc_id, IPv4Network("10.0.8.0/24")).subnet_id


def test_pods_get_addresses_of_the_eniconfigs_subnet_and_groups(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(**custom(tmp_path))
        group = rig.cloud.create_security_group(rig.vpc.vpc_id, "pods").group_id
        subnet = pod_subnet(rig)
        (tmp_path / "configs.yaml").write_text(MANIFEST.format(name="default", subnet=subnet, groups=group))
        node = await rig.started()
        primary, secondary = rig.interfaces()
        assert not primary.addresses, "the primary ENI carries no pods"
        assert (secondary.subnet_id, secondary.security_groups) == (subnet, (group,))
        (grant,) = await node.add(1)
        assert grant.addresses[0].address in IPv4Network("10.0.8.0/24")
        await asyncio.sleep(30)
        assert rig.held() == [0, 4]
        rig.check()

    virtual.run(story())


def test_without_groups_those_of_the_primary_count_and_the_name_is_a_setting(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(**custom(tmp_path, VPCCNI_ENI_CONFIG_NAME="us-west-2a"))
        subnet = pod_subnet(rig)
        (tmp_path / "a.yml").write_text(MANIFEST.format(name="us-west-2a", subnet=subnet, groups=""))
        (tmp_path / "b.yaml").write_text(MANIFEST.format(name="default", subnet="subnet-0", groups=""))
        await rig.started()
        primary, secondary = rig.interfaces()
        assert secondary.subnet_id == subnet and secondary.security_groups == primary.security_groups

    virtual.run(story())


def test_a_missing_eniconfig_is_named_to_the_pod_and_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(**custom(tmp_path))
        node = await rig.started()
        assert rig.held() == [0]
        with pytest.raises(NoAddress) as refused:
            await node.add(1)
        told = explained(refused.value, node.engine.waits, node.holds.last_error)
        assert told.error_code == "eniconfig-missing"
        assert "default" in told.details and str(tmp_path) in told.details
        (tmp_path / "x.yaml").write_text(MANIFEST.format(name="default", subnet=pod_subnet(rig), groups=""))
        await node.arrive(1, patience_s=30)
        await asyncio.sleep(40)  # the pod that was refused does not ask again and is forgotten
        assert rig.held() == [0, 4]

    virtual.run(story())


def test_an_eniconfig_in_another_zone_is_refused_before_an_eni_is_made(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(**custom(tmp_path))
        other = rig.cloud.create_subnet(rig.vpc.vpc_id, IPv4Network("10.0.9.0/24"), "us-west-2b").subnet_id
        (tmp_path / "x.yaml").write_text(MANIFEST.format(name="default", subnet=other, groups=""))
        node = await rig.started()
        assert node.holds.last_error is not None and node.holds.last_error.error_code == "eniconfig-subnet"
        assert rig.mutations() == []

    virtual.run(story())


def test_a_node_switched_to_custom_networking_leaves_the_primary_as_its_pods_go(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="3")
        node = await rig.started()
        old = await node.arrive(2)
        await asyncio.sleep(20)
        await node.kill()
        (tmp_path / "x.yaml").write_text(MANIFEST.format(name="default", subnet=pod_subnet(rig), groups=""))
        node = await rig.started(**custom(tmp_path))
        assert rig.held() == [2, 3], "free ones of the primary went back, those in use linger"
        await node.arrive(1)
        assert rig.used() == [2, 1]
        rig.check()
        await node.drop([grant.key for grant in old])
        await asyncio.sleep(120)
        assert rig.held() == [0, 4]

    virtual.run(story())


def test_ipv6_and_custom_networking_exclude_each_other() -> None:
    both = {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"}
    with pytest.raises(SettingsError, match="excludes"):
        parse_settings({**both, "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true"})
    assert parse_settings(both).enable_ipv6


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind: ENIConfig\nfoo: [", "flow"),
        ("kind: ENIConfig\napiVersion: v1\n", "apiVersion"),
        (MANIFEST.format(name="''", subnet="s", groups=""), "metadata.name"),
        (MANIFEST.format(name="a", subnet="", groups=""), "spec.subnet"),
        (MANIFEST.format(name="a", subnet="s", groups="1"), "securityGroups"),
        ("apiVersion: crd.k8s.amazonaws.com/v1alpha1\nkind: ENIConfig\n", "metadata.name"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named_with_file_and_reason(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(VpcCniError) as caught:
        EniConfigs(tmp_path, "a").mine()
    assert caught.value.error_code == "eniconfig-invalid"
    assert why in str(caught.value) and "bad.yaml" in str(caught.value)


def test_a_manifest_is_read_as_kubernetes_does(tmp_path: Path) -> None:
    text = MANIFEST.format(name="a", subnet="subnet-1", groups="sg-1, sg-2")
    assert parse(text, tmp_path) == [EniConfig("a", "subnet-1", ("sg-1", "sg-2"))]
    no_groups = text.replace("  securityGroups: [sg-1, sg-2]\n", "")
    assert parse(no_groups, tmp_path) == [EniConfig("a", "subnet-1")]
    assert parse("", tmp_path) == []
