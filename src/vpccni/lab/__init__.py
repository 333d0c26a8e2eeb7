# SPDX-License-Identifier: Apache-2.0
"""VPC in a box: an EC2 API, an instance metadata service and a VPC fabric on one Linux machine."""
