# SPDX-License-Identifier: Apache-2.0
"""Kernel settings below /proc/sys, read and written by path.

Knows that a path is needed because device names may contain dots, and that a missing file means that the kernel or the
namespace lacks the feature (no IPv6). Must never decide a value. Works in the calling thread's network namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from vpccni.core.podnet import Sysctl
from vpccni.errors import HostError
from vpccni.netlink.ipv6conf import PLACES

ROOT = "/proc/sys/"


def read(path: str) -> str | None:
    """The value at `path` (such as `net/ipv4/ip_forward`), or None when there is no such setting."""
    try:
        with open(ROOT + path, encoding="ascii") as file:  # noqa: PTH123 - a third of the cost of Path on the ADD path
            return file.read().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure("read", path, error) from error


def write(path: str, value: str) -> bool:
    """Set `path` to `value`; False when there is no such setting.

    Raw descriptors: this runs three times per pod, and a file object costs more than the write.
    """
    try:
        descriptor = os.open(ROOT + path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failure(f"set to {value}", path, error) from error
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise _failure(f"set to {value}", path, error) from error
    finally:
        os.close(descriptor)
    return True


def differing(settings: Iterable[Sysctl], links: Mapping[str, Mapping[str, int]]) -> list[Sysctl]:
    """Those settings that the kernel has and that have another value there. `links` is what
    `RouteSocket.ipv6_settings` says of the same namespace; only the others are read as files."""
    found = []
    for path, value in settings:
        *_, link, key = path.split("/")
        if key in PLACES and path == f"net/ipv6/conf/{link}/{key}" and link not in ("all", "default"):
            differs = link in links and str(links[link][key]) != value
        else:
            differs = read(path) not in (None, value)
        if differs:
            found.append((path, value))
    return found


def apply(settings: Iterable[Sysctl]) -> list[Sysctl]:
    """Write those settings that differ; what was written."""
    changed = []
    for path, value in settings:
        if read(path) not in (None, value) and write(path, value):
            changed.append((path, value))
    return changed


def _failure(verb: str, path: str, error: OSError) -> HostError:
    name = path.replace("/", ".")
    hint = "see that /proc/sys is mounted read-write and that the daemon may change it (privileged or NET_ADMIN)"
    return HostError(f"{verb} sysctl {name}", error.strerror or str(error), code="sysctl-refused", hint=hint)
