# SPDX-License-Identifier: Apache-2.0
"""Attach, modify, detach, delete and terminate as EC2 behaves, through unmodified boto3. One test per row."""

from __future__ import annotations

import pytest
from tests.lab.ec2.ec2_box import Box

from vpccni.lab.cloud.events import LinkAppears, LinkVanishes

evidence = pytest.mark.evidence


@evidence(row=18, source="R")
def test_a_device_index_is_given_once(box: Box) -> None:
    subnet = box.subnet()
    instance = box.instance(subnet)
    box.attach(box.eni(subnet), instance, 1)
    message = box.refused(
        "InvalidParameterValue",
        "attach_network_interface",
        NetworkInterfaceId=box.eni(subnet),
        InstanceId=instance.instance_id,
        DeviceIndex=1,
    )
    assert message == f"Instance '{instance.instance_id}' already has an interface attached at device index '1'."


@evidence(row=19, source="R")
def test_an_attached_interface_is_in_use(box: Box) -> None:
    subnet = box.subnet()
    instance, eni_id = box.instance(subnet), box.eni(subnet)
    box.attach(eni_id, instance, 1)
    message = box.refused(
        "InvalidParameterValue",
        "attach_network_interface",
        NetworkInterfaceId=eni_id,
        InstanceId=instance.instance_id,
        DeviceIndex=2,
    )
    assert message == f"Network interface '{eni_id}' is currently in use."
    assert box.describe(eni_id)["Attachment"]["DeviceIndex"] == 1


@evidence(row=20, source="R")
@pytest.mark.parametrize(("instance_type", "limit"), [("t3.medium", 3), ("t3.nano", 2), ("m5.large", 3)])
def test_the_types_limit_of_interfaces_holds(box: Box, instance_type: str, limit: int) -> None:
    subnet = box.subnet()
    instance = box.instance(subnet, instance_type)
    for device in range(1, limit):
        box.attach(box.eni(subnet), instance, device)
    message = box.refused(
        "AttachmentLimitExceeded",
        "attach_network_interface",
        NetworkInterfaceId=box.eni(subnet),
        InstanceId=instance.instance_id,
        DeviceIndex=limit,
    )
    assert message == f"Interface count {limit + 1} exceeds the limit for {instance_type}"


@evidence(row=21, source="?")
def test_a_network_card_that_the_type_lacks_is_refused_and_one_that_it_has_is_kept(box: Box) -> None:
    subnet = box.subnet()
    small, large = box.instance(subnet), box.instance(subnet, "p4d.24xlarge")
    eni_id = box.eni(subnet)
    attach = {"NetworkInterfaceId": eni_id, "DeviceIndex": 1, "NetworkCardIndex": 1}
    box.refused("InvalidParameterValue", "attach_network_interface", InstanceId=small.instance_id, **attach)
    assert box.ec2.attach_network_interface(InstanceId=large.instance_id, **attach)["NetworkCardIndex"] == 1
    box.wait(10)
    assert box.describe(eni_id)["Attachment"]["NetworkCardIndex"] == 1
    # The same device index on another card is another slot.
    box.attach(box.eni(subnet), large, 1, NetworkCardIndex=2)


@evidence(row=22, source="?")
def test_attaching_across_zones_or_to_a_terminated_instance_is_refused(box: Box) -> None:
    vpc = box.vpc()
    here, there = box.subnet(vpc=vpc), box.subnet("10.0.1.0/24", "us-west-2b", vpc=vpc)
    instance, eni_id = box.instance(here), box.eni(there)
    attach = {"InstanceId": instance.instance_id, "DeviceIndex": 1}
    box.refused("InvalidParameterCombination", "attach_network_interface", NetworkInterfaceId=eni_id, **attach)
    box.ec2.terminate_instances(InstanceIds=[instance.instance_id])
    box.wait(10)
    own = box.eni(here)
    box.refused("IncorrectInstanceState", "attach_network_interface", NetworkInterfaceId=own, **attach)


@evidence(row=23, source="D")
def test_a_missing_interface_is_not_found_whatever_is_asked_of_it(box: Box) -> None:
    instance = box.instance(box.subnet())
    code, missing = "InvalidNetworkInterfaceID.NotFound", "eni-0123456789abcdef0"
    attach = {"InstanceId": instance.instance_id, "DeviceIndex": 1}
    message = box.refused(code, "attach_network_interface", NetworkInterfaceId=missing, **attach)
    assert message == f"The networkInterface ID '{missing}' does not exist", "the Go daemon reads the id in quotes"
    box.refused(code, "describe_network_interfaces", NetworkInterfaceIds=[missing])
    box.refused(code, "delete_network_interface", NetworkInterfaceId=missing)
    box.refused(code, "assign_private_ip_addresses", NetworkInterfaceId=missing, SecondaryPrivateIpAddressCount=1)
    box.refused(code, "unassign_private_ip_addresses", NetworkInterfaceId=missing, PrivateIpAddresses=["10.0.0.9"])
    box.refused(code, "modify_network_interface_attribute", NetworkInterfaceId=missing, SourceDestCheck={"Value": True})
    box.refused("InvalidNetworkInterfaceId.Malformed", "describe_network_interfaces", NetworkInterfaceIds=["eth0"])


@evidence(row=24, source="P")
def test_attach_is_attaching_then_attached_then_a_link_then_in_the_metadata(box: Box) -> None:
    subnet = box.subnet()
    instance = box.instance(subnet)
    eni_id = box.eni(subnet, SecondaryPrivateIpAddressCount=3)
    box.wait(1)
    box.ec2.attach_network_interface(NetworkInterfaceId=eni_id, InstanceId=instance.instance_id, DeviceIndex=1)

    def seen() -> tuple[str, int | None]:
        view = box.cloud.instance_metadata(instance.instance_id)
        assert view is not None
        listed = {found.interface_id: len(found.local_ipv4s) for found in view.interfaces}
        return box.describe(eni_id)["Attachment"]["Status"], listed.get(eni_id)

    assert box.describe(eni_id)["Status"] == "in-use"
    assert seen() == ("attaching", None)
    assert not [event for event in box.wait(1.9) if isinstance(event, LinkAppears)]
    box.wait(0.2)
    assert seen() == ("attached", None)
    (appeared,) = [event for event in box.wait(1) if isinstance(event, LinkAppears)]
    assert appeared.eni_id == eni_id and appeared.device_index == 1 and len(appeared.addresses) == 4
    assert seen() == ("attached", None)
    box.wait(1)
    assert seen() == ("attached", 1), "listed without secondary addresses first"
    box.wait(1)
    assert seen() == ("attached", 4)


@evidence(row=25, source="P")
def test_delete_on_termination_is_stored(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet)
    attachment_id = box.attach(eni_id, box.instance(subnet))
    assert box.describe(eni_id)["Attachment"]["DeleteOnTermination"] is False
    change = {"AttachmentId": attachment_id, "DeleteOnTermination": True}
    box.ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Attachment=change)
    assert box.describe(eni_id)["Attachment"]["DeleteOnTermination"] is True
    box.refused(
        "InvalidAttachmentID.NotFound",
        "modify_network_interface_attribute",
        NetworkInterfaceId=eni_id,
        Attachment={"AttachmentId": "eni-attach-0123456789abcdef0", "DeleteOnTermination": True},
    )


@evidence(row=26, source="D")
def test_groups_source_check_and_description_are_modified_one_at_a_time(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet)
    group = box.cloud.create_security_group(subnet.vpc_id, "other")
    modify = box.ec2.modify_network_interface_attribute
    modify(NetworkInterfaceId=eni_id, Groups=[group.group_id])
    modify(NetworkInterfaceId=eni_id, SourceDestCheck={"Value": False})
    modify(NetworkInterfaceId=eni_id, Description={"Value": "new"})
    now = box.describe(eni_id)
    assert [g["GroupId"] for g in now["Groups"]] == [group.group_id]
    assert now["SourceDestCheck"] is False and now["Description"] == "new"
    change = {"operation": "modify_network_interface_attribute", "NetworkInterfaceId": eni_id}
    box.refused("InvalidSecurityGroupID.NotFound", Groups=["sg-0123456789abcdef0"], **change)
    box.refused("InvalidParameterCombination", Description={"Value": "x"}, SourceDestCheck={"Value": True}, **change)
    box.refused("InvalidParameterCombination", **change)


@evidence(row=37, source="R")
def test_an_attached_interface_cannot_be_deleted(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet)
    box.attach(eni_id, box.instance(subnet))
    message = box.refused("InvalidParameterValue", "delete_network_interface", NetworkInterfaceId=eni_id)
    assert message.endswith("is currently in use.")


@evidence(row=38, source="R")
def test_the_primary_interface_cannot_be_detached(box: Box) -> None:
    instance = box.instance(box.subnet())
    primary = box.describe(instance.primary_eni_id)
    message = box.refused(
        "OperationNotPermitted", "detach_network_interface", AttachmentId=primary["Attachment"]["AttachmentId"]
    )
    assert message == "The network interface at device index 0 and networkCard index 0 cannot be detached."


@evidence(row=39, source="P")
def test_detach_takes_its_time_and_delete_is_refused_until_it_is_over(box: Box) -> None:
    subnet = box.subnet()
    instance, eni_id = box.instance(subnet), box.eni(subnet)
    attachment_id = box.attach(eni_id, instance)
    box.ec2.detach_network_interface(AttachmentId=attachment_id)
    assert box.describe(eni_id)["Attachment"]["Status"] == "detaching"
    box.refused("InvalidParameterValue", "delete_network_interface", NetworkInterfaceId=eni_id)
    box.ec2.detach_network_interface(AttachmentId=attachment_id)  # again: no harm
    (gone,) = [event for event in box.wait(1.5) if isinstance(event, LinkVanishes)]
    assert gone.eni_id == eni_id and gone.instance_id == instance.instance_id
    assert box.describe(eni_id)["Attachment"]["Status"] == "detaching"
    box.wait(3)
    now = box.describe(eni_id)
    assert now["Status"] == "available" and "Attachment" not in now
    box.refused("InvalidAttachmentID.NotFound", "detach_network_interface", AttachmentId=attachment_id)
    free = box.free(subnet)
    box.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    assert box.free(subnet) == free + 1


@evidence(row=40, source="D")
def test_the_second_delete_finds_nothing(box: Box) -> None:
    eni_id = box.eni(box.subnet())
    box.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    box.refused("InvalidNetworkInterfaceID.NotFound", "delete_network_interface", NetworkInterfaceId=eni_id)


@evidence(row=41, source="D")
def test_termination_deletes_only_what_says_delete_on_termination(box: Box) -> None:
    subnet = box.subnet()
    instance = box.instance(subnet)
    kept, deleted = box.eni(subnet), box.eni(subnet)
    box.attach(kept, instance, 1)
    change = {"AttachmentId": box.attach(deleted, instance, 2), "DeleteOnTermination": True}
    box.ec2.modify_network_interface_attribute(NetworkInterfaceId=deleted, Attachment=change)
    answer = box.ec2.terminate_instances(InstanceIds=[instance.instance_id])["TerminatingInstances"][0]
    assert (answer["PreviousState"]["Name"], answer["CurrentState"]["Name"]) == ("running", "shutting-down")
    vanished = {event.eni_id for event in box.wait(0.1) if isinstance(event, LinkVanishes)}
    assert vanished == {kept, deleted, instance.primary_eni_id}
    assert box.cloud.instance_metadata(instance.instance_id) is None
    box.wait(10)
    assert box.describe(kept)["Status"] == "available"
    for eni_id in (deleted, instance.primary_eni_id):
        box.refused("InvalidNetworkInterfaceID.NotFound", "describe_network_interfaces", NetworkInterfaceIds=[eni_id])
    state = box.ec2.describe_instances(InstanceIds=[instance.instance_id])["Reservations"][0]["Instances"][0]
    assert state["State"]["Name"] == "terminated" and state["NetworkInterfaces"] == []


@evidence(row=46, source="?")
def test_a_subnet_with_interfaces_cannot_be_deleted(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet)
    box.refused("DependencyViolation", "delete_subnet", SubnetId=subnet.subnet_id)
    box.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    box.ec2.delete_subnet(SubnetId=subnet.subnet_id)
    box.refused("InvalidSubnetID.NotFound", "describe_subnets", SubnetIds=[subnet.subnet_id])


@evidence(row=20, source="?")
def test_the_limit_holds_for_each_network_card_by_itself(box: Box) -> None:
    subnet = box.subnet()
    instance = box.instance(subnet, "hpc7a.12xlarge")  # two cards with two interfaces each
    box.attach(box.eni(subnet), instance, 1, NetworkCardIndex=0)
    attach = {"InstanceId": instance.instance_id, "NetworkInterfaceId": box.eni(subnet), "DeviceIndex": 2}
    box.refused("AttachmentLimitExceeded", "attach_network_interface", NetworkCardIndex=0, **attach)
    box.ec2.attach_network_interface(NetworkCardIndex=1, **attach)
