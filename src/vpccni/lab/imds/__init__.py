# SPDX-License-Identifier: Apache-2.0
"""The instance metadata service of one lab instance."""

from vpccni.lab.imds.service import ImdsService

__all__ = ["ImdsService"]
