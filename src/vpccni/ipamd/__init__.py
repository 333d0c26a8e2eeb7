# SPDX-License-Identifier: Apache-2.0
"""The node daemon: owns the node's ENIs, its pool of addresses and all kernel routing state of its pods."""
