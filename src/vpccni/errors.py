# SPDX-License-Identifier: Apache-2.0
"""The exception tree: every refusal has a code, a reason, evidence and a next step.

Knows the shape of a refusal and nothing of what is refused. Must never import another module of the package.
Every stratum raises from this tree; `cli` prints it, `cni.result` renders it for the runtime, `log` records it.

    VpcCniError
    ├── InputError                 the caller gave us something unusable            (CLI exit 2)
    │   ├── SettingsError          environment variables, all problems in one message
    │   ├── NetconfError           CNI network configuration or CNI_* variables
    │   └── TopologyError          a lab topology file or lab option
    ├── Refused                    a decision of ours: right now, not this           (CLI exit 1)
    │   ├── NoAddress              the pool has no address to give (the code says why)
    │   └── DaemonNotReady         the daemon is starting, stopping or absent
    ├── HostError                  the kernel or the machine said no
    ├── CloudError                 EC2 or the metadata service said no
    └── StateError                 a file of ours cannot be read, written or believed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

# Error codes that the CNI specification (1.1.0, section "Error") reserves.
CNI_INCOMPATIBLE_VERSION = 1
CNI_UNSUPPORTED_FIELD = 2
CNI_UNKNOWN_CONTAINER = 3
CNI_INVALID_ENVIRONMENT = 4
CNI_IO_FAILURE = 5
CNI_DECODE_FAILURE = 6
CNI_INVALID_CONFIG = 7
CNI_TRY_AGAIN_LATER = 11
CNI_PLUGIN_NOT_AVAILABLE = 50
CNI_LIMITED_CONNECTIVITY = 51
CNI_PLUGIN_FAILURE = 999


class VpcCniError(Exception):
    """`cannot <action>: <why>`, with a stable `code`, `evidence`, and a `hint` that says what to do next.

    `retryable` says whether the same request may succeed later without anybody changing anything.
    `cni_code` is the number a container runtime sees.
    """

    code: ClassVar[str] = "failed"
    retryable: ClassVar[bool] = False
    cni_code: ClassVar[int] = CNI_PLUGIN_FAILURE

    def __init__(
        self,
        action: str,
        why: str,
        *,
        hint: str = "",
        evidence: Mapping[str, object] | None = None,
        code: str | None = None,
        cni_code: int | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(f"cannot {action}: {why}")
        self.action, self.why, self.hint = action, why, hint
        self.evidence: dict[str, object] = dict(evidence or {})
        self.error_code = code or self.code
        self.cni_error_code = self.cni_code if cni_code is None else cni_code
        self.can_retry = self.retryable if retryable is None else retryable

    @property
    def message(self) -> str:
        """The one-line form: `cannot X: why`."""
        return str(self)

    @property
    def details(self) -> str:
        """Code, evidence and next step in one line, as it goes into the CNI error's `details`."""
        facts = " ".join(f"{name}={value}" for name, value in self.evidence.items())
        parts = [f"[{self.error_code}]", facts, f"Next: {self.hint}" if self.hint else ""]
        return " ".join(part for part in parts if part)


class InputError(VpcCniError):
    """Something the caller passed in cannot be used as it is."""

    code = "invalid-input"


class SettingsError(InputError):
    """One or more environment variables are wrong; the message lists all of them."""

    code = "invalid-settings"


class NetconfError(InputError):
    """The CNI configuration on stdin or a CNI_* variable cannot be used."""

    code = "invalid-netconf"
    cni_code = CNI_INVALID_CONFIG


class TopologyError(InputError):
    """A lab topology or option cannot be used."""

    code = "invalid-topology"


class Refused(VpcCniError):
    """We could, but decided not to, for now or for good."""

    code = "refused"


class NoAddress(Refused):
    """The pool holds no address that may be handed out. `error_code` names the cause."""

    code = "no-address"
    retryable = True
    cni_code = CNI_TRY_AGAIN_LATER


class DaemonNotReady(Refused):
    """The node daemon is starting, stopping or absent."""

    code = "daemon-not-ready"
    retryable = True
    cni_code = CNI_TRY_AGAIN_LATER


class HostError(VpcCniError):
    """The kernel or another part of this machine refused an operation."""

    code = "host-failed"


class CloudError(VpcCniError):
    """EC2 or the instance metadata service refused or did not answer. `aws_code` is EC2's own error code."""

    code = "cloud-failed"
    retryable = True
    cni_code = CNI_TRY_AGAIN_LATER

    def __init__(self, action: str, why: str, *, aws_code: str = "", **rest: object) -> None:
        super().__init__(action, why, **rest)  # type: ignore[arg-type]  # pass-through of the same keywords
        self.aws_code = aws_code

    @property
    def changed_nothing(self) -> bool:
        """Whether EC2 refused; a call without an answer, or one that EC2 failed at, may have had its effect."""
        return bool(self.aws_code) and self.error_code != "ec2-failed"


class StateError(VpcCniError):
    """A state file cannot be read, written or believed."""

    code = "state-failed"
