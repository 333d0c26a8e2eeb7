# SPDX-License-Identifier: Apache-2.0
"""What a node's firewall shall hold: one policy, in the words of iptables or of nftables, and what differs from it.

Text to text; `backend` is the way in. `host.firewall` and `host.nftables` look and apply.
"""
