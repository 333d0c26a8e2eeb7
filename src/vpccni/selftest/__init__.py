# SPDX-License-Identifier: Apache-2.0
"""The flow matrix of a node and the program that plays it with real packets; `matrix` is where to begin."""
