# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the product. Each prints a ratio to a floor or a peer, never a bare time.

`python -m bench` (or `make bench`) runs them. They may know every program of the product and start it as installed, but
must never import its inside: what is measured is what a container runtime would see.
"""
