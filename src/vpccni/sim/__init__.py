# SPDX-License-Identifier: Apache-2.0
"""Fleets in virtual time: the node's own decisions and the model of EC2, without a packet or a second of waiting.

Knows nodes as pools, plans and EC2 calls. Must never touch the machine. `vpccni sim` runs it; the decisions are those
of `core`, the cloud is that of `lab.cloud`.
"""
