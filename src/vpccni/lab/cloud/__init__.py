# SPDX-License-Identifier: Apache-2.0
"""The EC2 state machine: VPCs, subnets, instances and network interfaces as pure data with rules.

Knows what EC2 knows, and its delays. Must never know HTTP, namespaces, files or a real clock: time and randomness are
arguments. `lab.ec2` serves it, `lab.imds` shows its metadata, the fabric follows its events, unit tests use it as EC2.
"""
