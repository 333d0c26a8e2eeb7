# SPDX-License-Identifier: Apache-2.0
"""EC2's refusals, as the model raises them.

Knows EC2's codes, texts and HTTP statuses. Must never know how a refusal is rendered: `lab.ec2` makes XML of it and
`lab.cloud.direct` a `CloudError`. Not part of the product's own exception tree, because it is an answer of EC2 and
not a failure of ours.
"""

from __future__ import annotations


class ApiError(Exception):
    """One EC2 error answer: `code`, `message` and HTTP `status`. The call that raised it has changed nothing."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


# What an id's prefix stands for: (code stem of "NotFound", code of "Malformed", noun of the message). EC2 spells them
# with this very inconsistency (seen in public error reports).
_KINDS = {
    "eni": ("InvalidNetworkInterfaceID", "InvalidNetworkInterfaceId.Malformed", "networkInterface ID"),
    "subnet": ("InvalidSubnetID", "InvalidSubnetID.Malformed", "subnet ID"),
    "vpc": ("InvalidVpcID", "InvalidVpcID.Malformed", "vpc ID"),
    "i": ("InvalidInstanceID", "InvalidInstanceID.Malformed", "instance ID"),
    "sg": ("InvalidGroup", "InvalidGroupId.Malformed", "security group"),
    "eni-attach": ("InvalidAttachmentID", "InvalidAttachmentID.Malformed", "attachment ID"),
    "trunk-assoc": ("InvalidAssociationID", "InvalidAssociationID.Malformed", "association ID"),
    "eni-perm": ("InvalidPermissionID", "InvalidPermissionID.Malformed", "permission ID"),
    "scr": ("InvalidSubnetCidrReservationID", "InvalidSubnetCidrReservationID.Malformed", "reservation ID"),
}


def not_found(kind: str, resource_id: str) -> ApiError:
    """The answer for an id that names nothing: `.NotFound` when it is well-formed, `.Malformed` otherwise."""
    stem, malformed, noun = _KINDS[kind]
    prefix, _, rest = resource_id.rpartition("-")
    if prefix != kind or not rest or any(letter not in "0123456789abcdef" for letter in rest):
        return ApiError(malformed, f'Invalid id: "{resource_id}" (expecting "{kind}-...")')
    return ApiError(f"{stem}.NotFound", f"The {noun} '{resource_id}' does not exist")


def invalid(message: str) -> ApiError:
    """`InvalidParameterValue`, EC2's most used refusal."""
    return ApiError("InvalidParameterValue", message)


def combination(message: str) -> ApiError:
    """`InvalidParameterCombination`: each parameter is fine, together they are not."""
    return ApiError("InvalidParameterCombination", message)


def throttled() -> ApiError:
    """What EC2 answers when a token bucket is empty (HTTP 503, which SDKs retry)."""
    return ApiError("RequestLimitExceeded", "Request limit exceeded.", 503)
