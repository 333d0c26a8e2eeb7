# SPDX-License-Identifier: Apache-2.0
"""The conflist asks runtimes for CHECK exactly when every plugin in it can be believed. Needs no runtime."""

from __future__ import annotations

import json

import pytest

from vpccni.cni.conflist import ConflistOptions, render

EVERYTHING = {"portmap", "bandwidth", "tuning"}


@pytest.mark.parametrize(
    ("options", "present", "disabled"),
    [
        (ConflistOptions(disable_check=False), set(), False),
        (ConflistOptions(disable_check=False, disable_pod_v6=True), {"tuning"}, False),
        (ConflistOptions(disable_check=False), {"portmap"}, True),
        (ConflistOptions(disable_check=False, port_mappings=False), EVERYTHING, False),
        (ConflistOptions(disable_check=False, port_mappings=False, bandwidth=True), EVERYTHING, True),
        (ConflistOptions(disable_check=True), set(), True),
    ],
)
def test_check_is_off_beside_plugins_that_refuse_healthy_pods(
    options: ConflistOptions, present: set[str], disabled: bool
) -> None:
    assert json.loads(render(options, present))["disableCheck"] is disabled
