# SPDX-License-Identifier: Apache-2.0
"""Where a packet goes and why: predicted from the kernels' tables, and laid beside what was observed.

Values to values, like all of `core`. `walk` is the way in; a module each for routes, firewalls of both kinds, security
groups and the VPC. `lab.trace` reads the world and sends the probe.
"""
