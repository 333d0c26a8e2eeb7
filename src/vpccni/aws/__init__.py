# SPDX-License-Identifier: Apache-2.0
"""EC2 and the instance metadata service behind narrow protocols."""
