# SPDX-License-Identifier: Apache-2.0
"""The CNI side of the node: the relay that a runtime executes, and the formats that relay and daemon exchange.

Knows the CNI specification (0.3.0 to 1.1.0) and the files that a runtime reads. Must never touch links, routes or EC2.
`ipamd` parses requests and renders results with it; the container runtime executes the relay.
"""
