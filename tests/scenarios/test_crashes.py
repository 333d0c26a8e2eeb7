# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the node daemon at random moments: no address lost, doubled or leaked, and retries succeed."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import Any

import pytest
from labs import Lab, wait_until

from vpccni.errors import VpcCniError
from vpccni.lab import nodes
from vpccni.lab.pods import Pods
from vpccni.lab.state import LabState, PodRecord

pytestmark = [pytest.mark.lab, pytest.mark.long]

PODS = 40
KILLS = 6


class Killer(threading.Thread):
    """Kills and restarts the daemon of node 1 at moments that the seed decides."""

    def __init__(self, state: LabState, rng: random.Random) -> None:
        super().__init__()
        self._state, self._rng = state, rng
        self.kills = 0

    def run(self) -> None:
        while self.kills < KILLS:
            time.sleep(self._rng.uniform(0.05, 0.6))
            record = self._state.process("ipamd-1")
            assert record is not None
            if record.signal(signal.SIGKILL):
                self.kills += 1
                record.wait_gone(5)
            # As on a real node nobody removes the network configuration of a daemon that crashed.
            nodes.start(self._state, "1")
            time.sleep(self._rng.uniform(0.0, 1.0))


def insist(work: Any, deadline: float) -> Any:
    """What kubelet does: try again until it works."""
    while True:
        try:
            return work()
        except VpcCniError as error:
            assert time.monotonic() < deadline, str(error)
            time.sleep(0.1)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_daemon_killed_at_random_moments_loses_nothing(lab: Lab, seed: int) -> None:
    lab.up("--nodes", "1", "--instance-type", "m5.xlarge", "--env", "IP_COOLDOWN_PERIOD=1")
    state, rng = LabState.from_environ(lab.environ), random.Random(seed)
    pods, killer = Pods(state), Killer(state, rng)
    deadline = time.monotonic() + 120
    killer.start()
    living: dict[str, PodRecord] = {}
    for n in range(100):
        if living and (len(living) >= PODS or rng.random() < 0.4):
            victim = living.pop(rng.choice(sorted(living)))
            insist(lambda victim=victim: pods.remove(victim), deadline)
        else:
            name = f"p{n}"
            living[name] = insist(lambda name=name: pods.add(name, node="1"), deadline)
    killer.join()
    assert killer.kills == KILLS
    record = state.process("ipamd-1")
    assert record is not None and record.alive()
    nodes.wait_ready(state, "1", 30)

    addresses = {pod.addresses[0] for pod in living.values()}
    assert len(addresses) == len(living)

    def known() -> set[str]:
        return {entry["IP"] for entry in lab.introspect("1", "/v1/pods").values()}

    wait_until(lambda: known() == addresses, 15, "the daemon knows exactly the living pods")
    outcomes = lab.json("probe", ok=False)
    assert [outcome for outcome in outcomes if not outcome["reached"]] == []
    for pod in list(living.values()):
        pods.remove(pod)
    wait_until(lambda: known() == set(), 15, "no address leaks")
    rules = lab.run("exec", "node/1", "--", "ip", "rule").stdout
    assert " lookup main\n" in rules and "512:" not in rules and "1536:" not in rules, rules
