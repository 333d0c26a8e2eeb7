# SPDX-License-Identifier: Apache-2.0
"""The fake is verified: one suite for the daemon's EC2 protocols, over boto3 and HTTP and directly over the model."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, ip_network

import pytest
from tests.lab.ec2.ec2_box import CREDENTIALS, Box

from vpccni.aws import tags
from vpccni.aws.boto import Ec2
from vpccni.core.limits import limits
from vpccni.errors import CloudError
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.errors import throttled

Adapter = Ec2 | DirectEc2


@pytest.fixture(scope="module")
def http_adapter(shared_box: Box) -> Iterator[Ec2]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS["aws_access_key_id"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS["aws_secret_access_key"])
        yield Ec2("us-west-2", endpoint=shared_box.server.url, attempts=1)


@pytest.fixture(params=["http", "direct"])
def ec2(request: pytest.FixtureRequest, box: Box) -> Adapter:
    return request.getfixturevalue("http_adapter") if request.param == "http" else DirectEc2(box.cloud)


def _create(ec2: Adapter, subnet, **rest):
    return ec2.create(subnet.subnet_id, [], description="aws-K8S-test", tags={"a": "b"}, **rest)


def test_create_gives_what_describe_gives(ec2: Adapter, box: Box) -> None:
    subnet = box.subnet()
    made = _create(ec2, subnet, address_count=3)
    assert made.status == "pending" and len(made.addresses) == 3 and made.tags == {"a": "b"}
    box.wait(1)
    (found,) = ec2.interfaces([made.eni_id, "eni-0123456789abcdef0", made.eni_id])
    assert found.status == "available" and found.addresses == made.addresses and found.mac == made.mac
    assert found.description == "aws-K8S-test" and found.vpc_id == subnet.vpc_id and found.attachment is None
    assert ec2.interfaces([]) == ()


def test_both_adapters_say_the_same_of_the_same_interface(box: Box, http_adapter: Ec2) -> None:
    subnet = box.subnet(ipv6=True)
    instance, direct = box.instance(subnet), DirectEc2(box.cloud)
    eni_id = box.eni(subnet, Ipv4PrefixCount=1, Ipv6AddressCount=1)
    box.attach(eni_id, instance)
    assert direct.attached(instance.instance_id) == http_adapter.attached(instance.instance_id)
    assert direct.interfaces([eni_id]) == http_adapter.interfaces([eni_id])
    assert direct.subnets(subnet.vpc_id, "us-west-2a") == http_adapter.subnets(subnet.vpc_id, "us-west-2a")
    assert direct.instance_limits("p4d.24xlarge") == http_adapter.instance_limits("p4d.24xlarge")
    assert direct.occupied_slots(instance.instance_id) == http_adapter.occupied_slots(instance.instance_id)


def test_a_repeated_create_with_its_token_makes_nothing_new(ec2: Adapter, box: Box) -> None:
    subnet = box.subnet()
    first = _create(ec2, subnet, client_token=f"again-{subnet.subnet_id}")
    assert _create(ec2, subnet, client_token=f"again-{subnet.subnet_id}").eni_id == first.eni_id
    assert _create(ec2, subnet).eni_id != first.eni_id


def test_the_life_of_an_interface(ec2: Adapter, box: Box) -> None:
    subnet = box.subnet()
    instance = box.instance(subnet)
    made = _create(ec2, subnet)
    attachment_id = ec2.attach(made.eni_id, instance.instance_id, 2)
    ec2.delete_on_termination(made.eni_id, attachment_id)
    (_, attaching) = ec2.attached(instance.instance_id)
    assert attaching.attachment is not None and attaching.attachment.status == "attaching"
    assert ec2.occupied_slots(instance.instance_id) == {(0, 0), (0, 2)}
    box.wait(10)
    (_, attached) = ec2.attached(instance.instance_id)
    assert attached.attachment is not None
    assert (attached.attachment.status, attached.attachment.delete_on_termination) == ("attached", True)
    with pytest.raises(CloudError) as caught:
        ec2.delete(made.eni_id)
    assert caught.value.error_code == "eni-in-use" and caught.value.can_retry
    ec2.detach(attachment_id)
    box.wait(10)
    ec2.detach(attachment_id)  # already gone: success
    ec2.delete(made.eni_id)
    ec2.delete(made.eni_id)  # already gone: success
    assert len(ec2.attached(instance.instance_id)) == 1


@pytest.mark.parametrize(("version", "lengths"), [(4, (32, 28)), (6, (128, 80))])
def test_assign_and_unassign_of_either_family(ec2: Adapter, box: Box, version: int, lengths: tuple[int, int]) -> None:
    eni_id = box.eni(box.subnet(ipv6=True))
    singles = ec2.assign(eni_id, address_count=2, ip_version=version)
    prefixes = ec2.assign(eni_id, prefix_count=1, ip_version=version)
    assert [block.prefixlen for block in singles + prefixes] == [lengths[0], lengths[0], lengths[1]]
    (held,) = ec2.interfaces([eni_id])
    assert {ip_network(address) for address in held.addresses} == set(singles) and held.prefixes == prefixes
    ec2.unassign(eni_id, [block.network_address for block in singles], prefixes)
    (held,) = ec2.interfaces([eni_id])
    assert held.addresses == () and held.prefixes == ()
    assert ec2.assign(eni_id) == ()
    ec2.unassign(eni_id)


def test_ownership_is_found_by_tag(ec2: Adapter, box: Box) -> None:
    subnet = box.subnet()
    mine, theirs, nobodys = (_create(ec2, subnet).eni_id for _ in range(3))
    ec2.tag(mine, tags.ownership("i-mine", "blue"))
    ec2.tag(theirs, tags.ownership("i-theirs"))
    ec2.tag(nobodys, {})
    assert [found.eni_id for found in ec2.owned("i-mine", vpc_id=subnet.vpc_id)] == [mine]
    assert {found.eni_id for found in ec2.owned(vpc_id=subnet.vpc_id)} == {mine, theirs}
    assert [found.eni_id for found in ec2.owned(cluster="blue", vpc_id=subnet.vpc_id)] == [mine]
    assert ec2.owned("i-nobody") == ()


def test_security_groups_are_replaced(ec2: Adapter, box: Box) -> None:
    subnet = box.subnet()
    group = box.cloud.create_security_group(subnet.vpc_id, "other")
    made = _create(ec2, subnet)
    ec2.set_security_groups(made.eni_id, [group.group_id])
    assert ec2.interfaces([made.eni_id])[0].security_groups == (group.group_id,)


def test_subnets_and_limits(ec2: Adapter, box: Box) -> None:
    vpc = box.vpc()
    here = box.subnet("10.0.0.0/24", "us-west-2a", vpc=vpc)
    box.subnet("10.0.1.0/24", "us-west-2b", vpc=vpc)
    (found,) = ec2.subnets(vpc.vpc_id, "us-west-2a")
    assert (found.subnet_id, found.cidr, found.free_addresses) == (here.subnet_id, IPv4Network("10.0.0.0/24"), 251)
    for name in ("m5.large", "p4d.24xlarge", "c5.metal", "m4.large"):
        assert ec2.instance_limits(name) == limits(name)


def test_refusals_have_the_same_code_hint_and_retryability(box: Box, http_adapter: Ec2) -> None:
    small, full = box.subnet("10.0.0.0/28"), box.subnet()
    instance, eni_id = box.instance(full, "t3.nano"), box.eni(full)
    box.attach(box.eni(full), instance)
    missing = "eni-0123456789abcdef0"

    def refusals(ec2: Adapter) -> list[tuple[str, str, str, str, bool]]:
        calls = [
            lambda: _create(ec2, small, address_count=20),
            lambda: _create(ec2, small, prefix_count=1),
            lambda: ec2.attach(eni_id, instance.instance_id, 2),
            lambda: ec2.attach(eni_id, instance.instance_id, 1),
            lambda: ec2.assign(missing, address_count=1),
            lambda: ec2.tag(missing, {"a": "b"}),
            lambda: ec2.instance_limits("m5.huge"),
            lambda: ec2.occupied_slots("i-0123456789abcdef0"),
        ]
        found = []
        for call in calls:
            with pytest.raises(CloudError) as caught:
                call()
            error = caught.value
            found.append((error.aws_code, error.error_code, str(error), error.hint, error.can_retry))
        return found

    over_http, directly = refusals(http_adapter), refusals(DirectEc2(box.cloud))
    assert over_http == directly
    assert [entry[0] for entry in directly[:3]] == [
        "InsufficientFreeAddressesInSubnet", "InvalidParameterValue", "AttachmentLimitExceeded",
    ]  # fmt: skip


def test_the_direct_adapter_takes_faults_before_the_effect(box: Box) -> None:
    seen: list[str] = []

    def fault(action: str) -> None:
        seen.append(action)
        raise throttled()

    with pytest.raises(CloudError) as caught:
        _create(DirectEc2(box.cloud, fault), box.subnet())
    assert caught.value.aws_code == "RequestLimitExceeded" and caught.value.can_retry
    assert seen == ["CreateNetworkInterface"]
