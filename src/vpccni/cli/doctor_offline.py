# SPDX-License-Identifier: Apache-2.0
"""What can be told about a node while its daemon does not answer: its pods, from the journal and the kernel.

Knows that the journal names the pods and the kernel what they have. Must never repair: only a daemon knows the node's
ENIs, so objects of the node itself are left out. `cli.doctor` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vpccni import paths
from vpccni.cli.output import say
from vpccni.core.difference import object_states
from vpccni.core.nodenet import NodeNet
from vpccni.errors import HostError
from vpccni.host.kernel import NodeKernel
from vpccni.host.node import Pods, compare
from vpccni.ipamd import journal, records
from vpccni.ipamd.attachments import attachment
from vpccni.settings import parse

VARIABLES = ("VPCCNI_RULE_LAYOUT", "AWS_VPC_K8S_CNI_VETHPREFIX")


def examined(environ: Mapping[str, str], silence: HostError) -> dict[str, Any]:
    """The pods' objects and their states. HostError when no daemon ever ran here."""
    if not paths.JOURNAL.exists():
        raise HostError(
            "examine this node",
            f"the daemon does not answer ({silence.why}), and there is no {paths.JOURNAL} to read",
            code="daemon-silent",
            hint="run it on a node with the daemon; in a lab: vpccni doctor --node 1",
        )
    say(f"the daemon does not answer ({silence.why}): pods only, from its journal and the kernel; nothing is repaired")
    settings = parse({name: environ[name] for name in VARIABLES if name in environ})
    grants = records.replay(journal.read(paths.JOURNAL)).grants.values()
    pods = Pods([attachment(grant) for grant in grants], veth_prefix=settings.veth_prefix)
    nothing = NodeNet(enis=(), external_snat=True, node_port_support=False, layout=settings.rule_layout)
    with NodeKernel() as kernel:
        found = compare(kernel, nothing, pods)
    states = [each for each in object_states(found) if each.group == "pods"]
    return {
        "daemon": False,
        "told_by": "journal and kernel (the daemon does not answer)",
        "objects": [asdict(each) for each in states],
        "done": [],
    }
