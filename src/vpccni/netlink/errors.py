# SPDX-License-Identifier: Apache-2.0
"""What the kernel refused, with its own words.

Knows errno values and what usually helps against them. Must never know who asked. `socket` and `conntrack` raise it;
callers branch on `errno` (EEXIST, ENOENT, ...), people read the message: the request as an `ip` command and the reason.
"""

from __future__ import annotations

import errno as codes
import os

from vpccni.errors import HostError

_HINTS = {
    codes.EPERM: "run as root or with CAP_NET_ADMIN in this user namespace",
    codes.EACCES: "run as root or with CAP_NET_ADMIN in this user namespace",
    codes.ENODEV: "the device is gone or was never created; list devices with `ip link`",
    codes.ENETUNREACH: "the gateway must be reachable through the device first, or the route marked onlink",
    codes.ENETDOWN: "bring the device up first",
    codes.EOPNOTSUPP: "this kernel lacks the feature; check its configuration and modules",
}


class NetlinkError(HostError):
    """The kernel refused `action`. `errno` is its number, `kernel_message` its extended message ("" when it gave none).

    `error_code` is `kernel-<errno name>`, for example `kernel-eexist`.
    """

    code = "kernel-refused"

    def __init__(self, action: str, errno: int, kernel_message: str = "") -> None:
        name = codes.errorcode.get(errno, str(errno))
        reason = os.strerror(errno)
        super().__init__(
            action,
            f"{kernel_message.rstrip('.')} ({reason})" if kernel_message else reason,
            hint=_HINTS.get(errno, ""),
            evidence={"errno": name},
            code=f"kernel-{name.lower()}",
        )
        self.errno = errno
        self.kernel_message = kernel_message
