# SPDX-License-Identifier: Apache-2.0
"""What EC2's error codes mean for the one who asked: our code, whether to try again, and the next step.

Knows EC2's error codes (EC2 API reference, "Error codes") and what the Amazon VPC CNI does about them. Must never
import an SDK. `aws.boto` and the lab's direct adapter turn their failures into `CloudError` here, so both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from vpccni.errors import CloudError

# What the AWS SDKs retry as throttling.
THROTTLES = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "EC2ThrottledException",
        "TooManyRequestsException",
        "PriorRequestNotComplete",
        "BandwidthLimitExceeded",
        "SlowDown",
        "ProvisionedThroughputExceededException",
        "TransactionInProgressException",
    }
)
INSUFFICIENT = frozenset({"InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"})
GONE = frozenset({"InvalidNetworkInterfaceID.NotFound", "InvalidAttachmentID.NotFound", "InvalidAttachment.NotFound"})
_CREDENTIALS = frozenset(
    {"AuthFailure", "ExpiredToken", "InvalidClientTokenId", "RequestExpired", "SignatureDoesNotMatch"}
)


@dataclass(frozen=True, slots=True)
class _Meaning:
    code: str
    retryable: bool
    hint: str


_KNOWN: Mapping[str, _Meaning] = {
    "InsufficientFreeAddressesInSubnet": _Meaning(
        "subnet-empty", True, "free addresses in the subnet, or tag a larger one with kubernetes.io/role/cni=1"
    ),
    "InsufficientCidrBlocks": _Meaning(
        "subnet-fragmented", True, "reserve a range for prefixes in the subnet: aws ec2 create-subnet-cidr-reservation"
    ),
    "PrivateIpAddressLimitExceeded": _Meaning(
        "address-limit", False, "the interface is full, or holds addresses that we do not know: read it again"
    ),
    "AttachmentLimitExceeded": _Meaning(
        "eni-limit", False, "the instance has all interfaces that its type allows, some may not be ours"
    ),
    "NetworkInterfaceLimitExceeded": _Meaning(
        "account-eni-limit", False, "ask AWS to raise the quota of network interfaces in this region"
    ),
    # A new interface can be unknown for seconds to the next call, so this one may pass.
    "InvalidNetworkInterfaceID.NotFound": _Meaning(
        "ec2-not-found", True, "a new interface can take seconds to be known everywhere; an old one is gone"
    ),
}


def classify(
    operation: str, aws_code: str, reason: str, *, status: int = 400, evidence: Mapping[str, object] | None = None
) -> CloudError:
    """The CloudError for EC2's answer to `operation` (its API name, such as AttachNetworkInterface)."""
    meaning = _meaning(operation, aws_code, reason, status)
    text = reason.partition("Encoded authorization failure message")[0].strip()  # kilobytes of cipher text follow
    return CloudError(
        f"call ec2:{operation}",
        f"{aws_code}: {text}" if aws_code else text,
        aws_code=aws_code,
        code=meaning.code,
        hint=meaning.hint,
        retryable=meaning.retryable,
        evidence={"operation": operation} | dict(evidence or {}),
    )


def unreachable(operation: str, endpoint: str, reason: str) -> CloudError:
    """The CloudError for a call without an answer. A call that changes things may have been executed."""
    return CloudError(
        f"call ec2:{operation}",
        f"no answer from {endpoint} ({reason})",
        code="ec2-unreachable",
        hint="check the route, DNS and security groups from the node to the endpoint, in a private subnet the EC2"
        " VPC endpoint, and AWS_ENDPOINT_URL_EC2",
        evidence={"operation": operation, "endpoint": endpoint},
    )


def _meaning(operation: str, aws_code: str, reason: str, status: int) -> _Meaning:
    if aws_code in THROTTLES:
        return _Meaning("ec2-throttled", True, "nothing to do, it is tried again; fewer calls or a quota raise help")
    if aws_code == "UnauthorizedOperation":
        return _Meaning("ec2-denied", False, f"allow ec2:{operation} to the daemon's role (AmazonEKS_CNI_Policy)")
    if aws_code in _CREDENTIALS:
        return _Meaning("ec2-credentials", False, "check the daemon's credentials and the clock of the node")
    if aws_code in _KNOWN:
        return _KNOWN[aws_code]
    if aws_code.endswith(".NotFound"):
        return _Meaning("ec2-not-found", False, "check the id; it may belong to another region or account")
    if aws_code == "InvalidParameterValue" and "currently in use" in reason:
        return _Meaning("eni-in-use", True, "detaching takes seconds, deleting passes afterwards")
    if aws_code == "InvalidParameterValue" and "sufficient free" in reason:
        return _KNOWN["InsufficientFreeAddressesInSubnet"]  # what a request for prefixes gets in a full subnet
    if aws_code == "InvalidParameterValue" and "device index" in reason:
        return _Meaning("device-taken", True, "read the occupied device indexes again and take a free one")
    if status >= 500:
        return _Meaning("ec2-failed", True, "nothing to do, it is tried again")
    return _Meaning("ec2-refused", False, "compare the request with the EC2 API reference")


def from_sdk(operation: str, endpoint: str, kind: str, reason: str) -> CloudError:
    """The CloudError for a failure inside the SDK, `kind` being the name of botocore's exception."""
    if "Credentials" in kind or "Token" in kind:
        return CloudError(
            f"call ec2:{operation}", reason,
            code="ec2-credentials", evidence={"operation": operation},
            hint="give the daemon a role: instance profile, IAM role for service accounts or pod identity",
        )  # fmt: skip
    if kind in ("ParamValidationError", "UnknownParameterError"):
        return CloudError(
            f"call ec2:{operation}", reason,
            code="ec2-refused", evidence={"operation": operation}, retryable=False, hint="this is an error of ours",
        )  # fmt: skip
    return unreachable(operation, endpoint, f"{kind}: {reason}")


@contextmanager
def missing_is_fine() -> Iterator[None]:
    """Within: what is already gone counts as done."""
    try:
        yield
    except CloudError as error:
        if error.aws_code not in GONE:
            raise
