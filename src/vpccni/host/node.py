# SPDX-License-Identifier: Apache-2.0
"""Brings the node itself (ENIs, tables, rules, sysctls) to its desired state, or back.

Knows the loop observe, diff, apply. Must never decide what is desired: that is `core.nodenet`. `ipamd` calls `converge`
at start, after every attach and detach, and now and then; the second call in a row changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from vpccni.core.diff import diff
from vpccni.core.nodenet import NodeNet, desired, owned, sysctls
from vpccni.host.kernel import NodeKernel


def converge(kernel: NodeKernel, node: NodeNet) -> list[str]:
    """Make the kernel hold what `node` says; what was changed, as `ip` and `sysctl` commands.

    NetlinkError when the kernel refuses something: what could be done is done then, and the next call goes on.
    """
    requests = diff(owned(node, kernel.observe(node.versions)), desired(node))
    kernel.apply(requests)
    written = kernel.apply_sysctls(sysctls(node))
    return [*map(str, requests), *(f"sysctl -w {path.replace('/', '.')}={value}" for path, value in written)]


def clear(kernel: NodeKernel, node: NodeNet) -> list[str]:
    """Remove the rules and tables of the node and of its ENIs; addresses, MTU and sysctls stay as they are."""
    primary = tuple(eni for eni in node.enis if eni.primary)
    former = (*node.former, *(interface.ip for eni in node.secondary for interface in eni.interfaces))
    bare = replace(node, enis=primary, former=former, external_snat=True, node_port_support=False, external_services=())
    requests = diff(owned(bare, kernel.observe(node.versions)), [])
    kernel.apply(requests)
    return [*map(str, requests)]
