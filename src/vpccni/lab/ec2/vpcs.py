# SPDX-License-Identifier: Apache-2.0
"""The operations on a VPC that runs already: from parsed parameters to a call of the model.

Knows which parameter of the API becomes which argument. Must never check what the model checks. `app` calls them by the
name of the API action.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any

from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError, invalid
from vpccni.lab.ec2 import rows


def associate_cidr_block(cloud: Cloud, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """AssociateVpcCidrBlock, with an IPv4 CIDR."""
    text = parameters.get("CidrBlock", "")
    if not text:
        raise ApiError("UnsupportedOperation", "A running VPC gains IPv4 CIDRs only in this cloud: CidrBlock.")
    try:
        cidr = IPv4Network(text)
    except ValueError:
        raise invalid(f"Value ({text}) for parameter cidrBlock is invalid. This is not a valid CIDR block.") from None
    vpc = cloud.associate_vpc_cidr_block(parameters["VpcId"], cidr)
    made = rows.vpc_cidrs(vpc)[-1] | {"CidrBlockState": {"State": "associating"}}
    return {"CidrBlockAssociation": made, "VpcId": vpc.vpc_id}
