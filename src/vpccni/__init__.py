# SPDX-License-Identifier: Apache-2.0
"""The Amazon VPC CNI for Kubernetes in Python, and a VPC in a box to run it in."""

__version__ = "0.1.0"
