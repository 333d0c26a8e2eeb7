# SPDX-License-Identifier: Apache-2.0
"""A thousand pods come and go on one node while the kernel refuses something at every step; nothing stays behind."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from failing import ABSENT_DEVICE, NO_WAY, Failing

from vpccni.core import conventions as c
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, PodWiring, wiring
from vpccni.host.kernel import NodeKernel
from vpccni.netlink.errors import NetlinkError

pytestmark = pytest.mark.netns

FIRST = int(IPv4Address("10.20.0.10"))
UNLIMITED = 10**9


def wiring_of(number: int) -> PodWiring:
    """Every third pod on the primary ENI, the others on secondary ones."""
    device = number % 3
    address = PodAddress(IPv4Address(FIRST + number), c.route_table(0, device), device=device)
    attachment = PodAttachment("aws-cni", f"c{number}", "eth0", "default", f"web-{number}", (address,))
    return wiring(attachment, PodLinkPlan(100_000 + number, f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"))


class Upset:
    """Refuses one request of an action, at each of its steps in turn, until the action has no step of that number."""

    def __init__(self, kernel: NodeKernel) -> None:
        self.kernel, self.refusals = kernel, 0

    def once(self, step: int, action) -> bool:
        """Run `action` with a refusal at `step`; whether there was such a step. It must fail then, and only then."""
        Failing.budget = step
        try:
            action()
        except NetlinkError:
            self.refusals += 1
            return True
        finally:
            Failing.budget = UNLIMITED
        return False


@pytest.mark.parametrize(
    "pods", [60, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(600)])], ids=["some", "a thousand"]
)
def test_nothing_is_left_when_every_step_of_every_pod_fails_once_in_a_while(spaces, monkeypatch, pods):
    node, namespaces = spaces(), [spaces("pod") for _ in range(pods)]
    before = node.state(), [namespaces[number].state() for number in (0, pods - 1)]
    with NodeKernel(node.fd, Failing) as kernel:
        upset = Upset(kernel)
        monkeypatch.setattr(Failing, "budget", UNLIMITED)
        monkeypatch.setattr(Failing, "spoiled", ABSENT_DEVICE)
        for number, space in enumerate(namespaces):
            wired = wiring_of(number)
            step = number % (2 + len(wired.link_requests) + len(wired.pod_requests) + len(wired.host_requests))
            if not upset.once(step, lambda wired=wired, space=space: kernel.wire(wired, space.fd)):
                continue  # the pod has fewer steps, and is wired now
            assert kernel.pod_link(wired.link.name, f"c{number}") == 0
            kernel.wire(wired, space.fd)
        assert upset.refusals > pods // 2
        seen = {pod.alias.container_id: pod for pod in kernel.pods() if pod.alias is not None}
        assert len(seen) == pods
        for number in range(pods):
            assert seen[f"c{number}"].addresses[0].address == IPv4Address(FIRST + number)

        wiring_refusals = upset.refusals
        monkeypatch.setattr(Failing, "spoiled", NO_WAY)
        for number in range(pods):
            wired = wiring_of(number)
            unwire = lambda wired=wired, number=number: kernel.unwire(wired.addresses, wired.link.name, f"c{number}")  # noqa: E731
            upset.once(number % 4, unwire)
            unwire()  # as the runtime, which repeats a DEL that failed
            assert unwire() == []
        assert upset.refusals - wiring_refusals > pods // 2
        assert node.ip("route") == [] and len(node.ip("rule")) == 3
        left = kernel.delete_left({pod.link.index: pod.link.name for pod in kernel.pods()})
        assert len(left) == pods
    assert (node.state(), [namespaces[number].state() for number in (0, pods - 1)]) == before
