# SPDX-License-Identifier: Apache-2.0
"""Effects on this machine: kernel objects, firewall transactions, sysctls.

Knows how to observe and apply; every decision comes from `core` as values. Must never decide what should be, and works
in the network namespace of the calling thread unless told otherwise. `ipamd` and the lab's nodes use it.
"""
