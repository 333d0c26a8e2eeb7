# SPDX-License-Identifier: Apache-2.0
"""Decisions: pure functions and values, from which every program of the package takes its answers.

Knows pools, targets, plans and desired kernel state. Must never open a socket or file, read a clock, draw a random
number, start a thread or read the environment: `now` and everything observed are arguments.
"""
