# SPDX-License-Identifier: Apache-2.0
"""Trunks, branches and permissions as EC2 behaves, through unmodified boto3. Row 44 of the table."""

from __future__ import annotations

from typing import Any

import pytest
from tests.lab.ec2.ec2_box import Box

from vpccni.lab.cloud.resources import Subnet

evidence = pytest.mark.evidence


def _trunk(box: Box, subnet: Subnet) -> str:
    return box.eni(subnet, InterfaceType="trunk")


def _associate(box: Box, branch: str, trunk: str, **rest: Any) -> dict[str, Any]:
    answer = box.ec2.associate_trunk_interface(BranchInterfaceId=branch, TrunkInterfaceId=trunk, **rest)
    found: dict[str, Any] = answer["InterfaceAssociation"]
    return found


@evidence(row=44, source="D")
def test_a_branch_is_associated_by_vlan_described_and_disassociated(box: Box) -> None:
    subnet = box.subnet()
    trunk, branch = _trunk(box, subnet), box.eni(subnet)
    made = _associate(box, branch, trunk, VlanId=7)
    assert made["AssociationId"].startswith("trunk-assoc-")
    assert (made["BranchInterfaceId"], made["TrunkInterfaceId"]) == (branch, trunk)
    assert (made["InterfaceProtocol"], made["VlanId"]) == ("VLAN", 7) and "GreKey" not in made
    assert box.describe(branch)["InterfaceType"] == "branch" and box.describe(trunk)["InterfaceType"] == "trunk"
    listed = box.ec2.describe_trunk_interface_associations(AssociationIds=[made["AssociationId"]])
    assert listed["InterfaceAssociations"] == [made]
    gone = box.ec2.disassociate_trunk_interface(AssociationId=made["AssociationId"])
    assert gone["Return"] is True
    assert box.describe(branch)["InterfaceType"] == "interface"


@evidence(row=44, source="P")
def test_a_second_disassociation_finds_nothing(box: Box) -> None:
    subnet = box.subnet()
    made = _associate(box, box.eni(subnet), _trunk(box, subnet), VlanId=7)
    box.ec2.disassociate_trunk_interface(AssociationId=made["AssociationId"])
    gone = {"AssociationId": made["AssociationId"]}
    box.refused("InvalidAssociationID.NotFound", "disassociate_trunk_interface", **gone)
    box.refused(
        "InvalidAssociationID.NotFound", "describe_trunk_interface_associations", AssociationIds=[*gone.values()]
    )


@evidence(row=44, source="D")
def test_associations_are_filtered_by_protocol_and_key_and_paged(box: Box) -> None:
    subnet = box.subnet()
    trunk = _trunk(box, subnet)
    made = [_associate(box, box.eni(subnet), trunk, VlanId=n)["AssociationId"] for n in range(1, 7)]
    gre = _associate(box, box.eni(subnet), trunk, GreKey=7_000_001)["AssociationId"]

    def listed(**parameters: Any) -> list[str]:
        answer = box.ec2.describe_trunk_interface_associations(**parameters)
        return [one["AssociationId"] for one in answer["InterfaceAssociations"]]

    assert listed(Filters=[{"Name": "gre-key", "Values": ["7000001"]}]) == [gre]
    assert gre not in listed(Filters=[{"Name": "interface-protocol", "Values": ["VLAN"]}])
    assert set(made) <= set(listed(Filters=[{"Name": "interface-protocol", "Values": ["VLAN"]}]))
    pages = box.ec2.get_paginator("describe_trunk_interface_associations").paginate(PaginationConfig={"PageSize": 5})
    found = [one["AssociationId"] for page in pages for one in page["InterfaceAssociations"]]
    assert set(found) >= {*made, gre} and len(found) == len(set(found))
    box.refused(
        "InvalidParameterValue", "describe_trunk_interface_associations",
        Filters=[{"Name": "vlan-id", "Values": ["1"]}],
    )  # fmt: skip


@evidence(row=44, source="D")
def test_the_same_client_token_gives_the_same_association(box: Box) -> None:
    subnet = box.subnet()
    trunk, branch = _trunk(box, subnet), box.eni(subnet)
    first = _associate(box, branch, trunk, VlanId=3, ClientToken=f"trunk-{trunk}")
    assert _associate(box, branch, trunk, VlanId=3, ClientToken=f"trunk-{trunk}") == first
    box.refused(
        "IdempotentParameterMismatch", "associate_trunk_interface",
        BranchInterfaceId=branch, TrunkInterfaceId=trunk, VlanId=4, ClientToken=f"trunk-{trunk}",
    )  # fmt: skip


@evidence(row=44, source="?")
def test_what_cannot_be_a_branch_or_a_trunk_is_refused(box: Box) -> None:
    subnet = box.subnet()
    trunk, plain, taken = _trunk(box, subnet), box.eni(subnet), box.eni(subnet)
    elsewhere = box.eni(box.subnet("10.0.1.0/24", "us-west-2b"))
    _associate(box, taken, trunk, VlanId=1)
    associate: dict[str, Any] = {"operation": "associate_trunk_interface"}
    box.refused("InvalidParameterCombination", BranchInterfaceId=plain, TrunkInterfaceId=trunk, **associate)
    box.refused(
        "InvalidParameterCombination", BranchInterfaceId=plain, TrunkInterfaceId=trunk, VlanId=2, GreKey=2, **associate
    )
    for vlan in (0, 4095):
        box.refused("InvalidParameterValue", BranchInterfaceId=plain, TrunkInterfaceId=trunk, VlanId=vlan, **associate)
    box.refused("InvalidParameterValue", BranchInterfaceId=plain, TrunkInterfaceId=trunk, VlanId=1, **associate)
    box.refused("InvalidParameterValue", BranchInterfaceId=taken, TrunkInterfaceId=trunk, VlanId=2, **associate)
    box.refused("InvalidParameterValue", BranchInterfaceId=taken, TrunkInterfaceId=plain, VlanId=2, **associate)
    box.refused("InvalidParameterValue", BranchInterfaceId=trunk, TrunkInterfaceId=trunk, VlanId=2, **associate)
    box.refused(
        "InvalidParameterCombination", BranchInterfaceId=elsewhere, TrunkInterfaceId=trunk, VlanId=2, **associate
    )
    missing = "eni-0123456789abcdef0"
    box.refused(
        "InvalidNetworkInterfaceID.NotFound", BranchInterfaceId=missing, TrunkInterfaceId=trunk, VlanId=2, **associate
    )


@evidence(row=44, source="P")
def test_a_trunk_is_attached_like_any_interface_and_takes_as_many_branches_as_its_type(box: Box) -> None:
    from vpccni.core.limits import branches

    subnet = box.subnet()
    trunk = _trunk(box, subnet)
    box.attach(trunk, box.instance(subnet, "m5.large"))
    most = branches("m5.large")
    assert most == 9
    for vlan in range(1, most + 1):
        _associate(box, box.eni(subnet), trunk, VlanId=vlan)
    box.refused(
        "BranchInterfaceLimitExceeded", "associate_trunk_interface",
        BranchInterfaceId=box.eni(subnet), TrunkInterfaceId=trunk, VlanId=most + 1,
    )  # fmt: skip


@evidence(row=44, source="?")
def test_a_trunk_with_branches_is_in_use_and_a_deleted_branch_frees_its_place(box: Box) -> None:
    subnet = box.subnet()
    trunk, branch = _trunk(box, subnet), box.eni(subnet)
    made = _associate(box, branch, trunk, VlanId=9)
    box.refused("InvalidParameterValue", "delete_network_interface", NetworkInterfaceId=trunk)
    box.ec2.delete_network_interface(NetworkInterfaceId=branch)
    box.refused("InvalidAssociationID.NotFound", "disassociate_trunk_interface", AssociationId=made["AssociationId"])
    _associate(box, box.eni(subnet), trunk, VlanId=9)


@evidence(row=44, source="D")
def test_a_permission_is_granted_listed_and_taken_back(box: Box) -> None:
    eni_id = box.eni(box.subnet())
    made = box.ec2.create_network_interface_permission(
        NetworkInterfaceId=eni_id, AwsAccountId="210987654321", Permission="INSTANCE-ATTACH"
    )["InterfacePermission"]
    assert made["NetworkInterfacePermissionId"].startswith("eni-perm-")
    assert made["PermissionState"] == {"State": "granted"} and made["AwsAccountId"] == "210987654321"
    by_eni = [{"Name": "network-interface-permission.network-interface-id", "Values": [eni_id]}]
    listed = box.ec2.describe_network_interface_permissions(Filters=by_eni)["NetworkInterfacePermissions"]
    assert listed == [made]
    taken = box.ec2.delete_network_interface_permission(
        NetworkInterfacePermissionId=made["NetworkInterfacePermissionId"]
    )
    assert taken["Return"] is True
    assert box.ec2.describe_network_interface_permissions(Filters=by_eni)["NetworkInterfacePermissions"] == []


@evidence(row=44, source="D")
def test_a_permission_names_one_account_or_one_service_and_a_known_right(box: Box) -> None:
    eni_id = box.eni(box.subnet())
    create: dict[str, Any] = {"operation": "create_network_interface_permission", "NetworkInterfaceId": eni_id}
    box.refused("InvalidParameterCombination", Permission="INSTANCE-ATTACH", **create)
    box.refused(
        "InvalidParameterCombination",
        Permission="EIP-ASSOCIATE",
        AwsAccountId="1",
        AwsService="x.amazonaws.com",
        **create,
    )
    box.refused("InvalidParameterValue", Permission="ALL", AwsAccountId="210987654321", **create)
    create["NetworkInterfaceId"] = "eni-0123456789abcdef0"
    box.refused("InvalidNetworkInterfaceID.NotFound", Permission="INSTANCE-ATTACH", AwsAccountId="1", **create)


@evidence(row=44, source="D")
def test_a_permission_in_use_goes_only_by_force_and_with_its_interface(box: Box) -> None:
    subnet = box.subnet()
    eni_id, other = box.eni(subnet), box.eni(subnet)
    own = {"AwsAccountId": box.cloud.account_id, "Permission": "INSTANCE-ATTACH"}
    box.attach(eni_id, box.instance(subnet))
    ids = [
        box.ec2.create_network_interface_permission(NetworkInterfaceId=one, **own)["InterfacePermission"][
            "NetworkInterfacePermissionId"
        ]
        for one in (eni_id, other)
    ]
    delete = "delete_network_interface_permission"
    box.refused("OperationNotPermitted", delete, NetworkInterfacePermissionId=ids[0])
    box.ec2.delete_network_interface_permission(NetworkInterfacePermissionId=ids[0], Force=True)
    box.ec2.delete_network_interface(NetworkInterfaceId=other)
    box.refused("InvalidPermissionID.NotFound", delete, NetworkInterfacePermissionId=ids[1])
