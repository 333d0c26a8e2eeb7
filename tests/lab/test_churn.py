# SPDX-License-Identifier: Apache-2.0
"""The churn that judges others is judged: it notices doubled addresses, failed DELs and refusals without a code."""

from __future__ import annotations

import itertools
import json
import subprocess
from typing import cast

from churn import Churn

from vpccni.errors import CNI_TRY_AGAIN_LATER, HostError
from vpccni.lab.pods import Pods
from vpccni.lab.runtime import PluginFailed
from vpccni.lab.state import PodRecord


class Fake:
    """Pods without a lab: addresses from a list, refusals and failed DELs on request."""

    def __init__(self, addresses: int, details: str = "", stuck: bool = False) -> None:
        self._addresses = itertools.cycle(f"10.0.0.{n}" for n in range(1, addresses + 1))
        self._details, self._stuck = details, stuck

    def add(self, name: str, node: str) -> PodRecord:
        if self._details:
            answer = json.dumps({"code": CNI_TRY_AGAIN_LATER, "msg": "cannot", "details": self._details})
            raise PluginFailed("aws-cni", "ADD", subprocess.CompletedProcess([], 1, answer.encode(), b""))
        return PodRecord("default", name, node, "c" * 64, "/netns", (next(self._addresses),))

    def remove(self, pod: PodRecord) -> None:
        if self._stuck:
            raise HostError("remove", "it hangs")


def _churned(fake: Fake, operations: int = 40) -> Churn:
    churn = Churn(cast(Pods, fake), ["1"], most=20, seed=1)
    churn.run(operations)
    return churn


def test_an_address_that_two_living_pods_have_is_noticed() -> None:
    assert _churned(Fake(2), 20).doubled


def test_addresses_of_their_own_are_no_complaint() -> None:
    churn = _churned(Fake(250), 200)
    assert churn.doubled == [] and churn.stuck == [] and not churn.refusals
    assert churn.added + churn.deleted == 200 and churn.added - churn.deleted == len(churn.living)


def test_a_refusal_is_counted_by_its_code_and_one_without_a_name_is_kept() -> None:
    named = _churned(Fake(1, "[all-cooling] free=0 Next: wait"), 12)
    assert named.refusals == {"all-cooling": 12} and named.unnamed == []
    nameless = _churned(Fake(1, "[internal-error] what=x"), 6)
    assert nameless.refusals == {"internal-error": 6} and len(nameless.unnamed) == 6
    assert _churned(Fake(1, "no code at all"), 6).unnamed


def test_a_del_that_fails_is_noticed() -> None:
    assert _churned(Fake(250, stuck=True), 100).stuck
