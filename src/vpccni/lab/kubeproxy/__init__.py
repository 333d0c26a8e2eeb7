# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy writes into a node's kernel, without kube-proxy: Services as values, and their rules as text in both
of its modes. `sync` brings them into the kernel; the rest of the folder does no input or output."""
