# SPDX-License-Identifier: Apache-2.0
"""Where things lie on a node: the one list of file locations.

Knows names only. Must never touch the disk. Every program and the relay use these; the lab binds them per node.
Names that the Amazon VPC CNI also uses are the same here (reference: the node's host mounts of the aws-node DaemonSet).
"""

from __future__ import annotations

from pathlib import Path

RUN_DIR = Path("/var/run/aws-node")
RELAY_SOCKET = RUN_DIR / "vpccni.sock"
JOURNAL = RUN_DIR / "vpccni.journal"
CHECKPOINT = RUN_DIR / "ipam.json"
DEL_QUEUE = RUN_DIR / "vpccni-del-queue"

CNI_CONF_DIR = Path("/etc/cni/net.d")
CONFLIST_NAME = "10-aws.conflist"
CNI_BIN_DIR = Path("/opt/cni/bin")
PLUGIN_NAME = "aws-cni"

LOG_DIR = Path("/var/log/aws-routed-eni")
DAEMON_LOG = LOG_DIR / "ipamd.log"

LAB_DIR = Path("/run/vpccni-lab")
