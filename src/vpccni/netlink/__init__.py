# SPDX-License-Identifier: Apache-2.0
"""rtnetlink as a library: values that print as `ip` syntax, a codec, sockets, namespaces, conntrack.

Knows the Linux kernel's network objects. Must never know pods, AWS or the lab. `host` and `lab` use all of it;
`core` may import `values` only, therefore this file imports nothing (a package import must not pull in sockets).
"""
