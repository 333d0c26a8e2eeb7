# SPDX-License-Identifier: Apache-2.0
"""The demo: one story told with real packets, and a table of what was checked.

Knows what the product claims and how each claim is observed from outside. Must never assume: every row of the table is
an observation of this run, and one that is not as claimed makes the demo fail. `vpccni lab demo` runs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpccni.errors import HostError, VpcCniError
from vpccni.lab import control, nodes, topology
from vpccni.lab.checks import Checklist
from vpccni.lab.down import take_down
from vpccni.lab.held import HeldConnection
from vpccni.lab.pods import Pods
from vpccni.lab.probe import Endpoint, Outcome, choose, endpoints, owners, probe
from vpccni.lab.sockets import namespace_handle
from vpccni.lab.state import LabState, PodRecord
from vpccni.lab.up import NODE_WITHIN_S, bring_up
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.socket import RouteSocket

NODE_A, NODE_B = "1", "2"
SUBSCRIBED = 12  # pods on one m5.large: nine fill its first ENI, the tenth makes the third one necessary
SETTINGS = {"IP_COOLDOWN_PERIOD": "2"}  # half a minute by default, which is all the time that this demo has
# Six free addresses is what the first two ENIs have with twelve pods: the restart by itself shrinks nothing, and the
# deletion of the pods does. (After a shrink the daemon waits half a minute before the next one.)
RESTARTED_WITH = {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true", "WARM_IP_TARGET": "6"}
GROWS_WITHIN_S, SHRINKS_WITHIN_S = 10.0, 15.0


def run(state: LabState, environ: Mapping[str, str]) -> int:
    """Tell the story, remove everything, print the table; 0 when all is as claimed, else 1."""
    checks = Checklist()
    try:
        story = Story(state, environ, checks)
        story.tell()
    except (VpcCniError, OSError) as error:
        checks.fail("the story could be told to its end", str(error))
        if isinstance(error, VpcCniError) and error.error_code == "lab-exists":
            raise  # somebody else's lab: not ours to take down
    except BaseException:
        take_down(state)
        raise
    checks.chapter("everything is removed")
    for row in take_down(state):
        checks.check(f"no {row.what} left", not row.left, ", ".join(row.left) or f"{row.removed} removed")
    return checks.report()


class Story:
    """The chapters, in order. Each leaves the lab as the next one needs it."""

    def __init__(self, state: LabState, environ: Mapping[str, str], checks: Checklist) -> None:
        """Nothing happens yet."""
        self._state, self._environ, self._checks = state, environ, checks

    def tell(self) -> None:
        """All chapters."""
        self._bring_up()
        self._grow()
        self._matrix()
        self._restart()
        self._shrink()

    # -- chapters ---------------------------------------------------------------------------------------------------
    def _bring_up(self) -> None:
        self._checks.chapter("a VPC 10.20.0.0/16 + 100.64.0.0/16, two subnets in two zones, two m5.large nodes")
        plan = topology.default(2, "m5.large", SETTINGS, 1)
        took_s = bring_up(self._state, plan, self._environ, self._checks.note)
        self._checks.check("two nodes take pods within 5 s", took_s <= 5.0, f"{took_s:.1f} s")
        zones = {node["zone"] for node in self._inventory()["nodes"]}
        self._checks.check("the nodes are in two zones", len(zones) == 2, ", ".join(sorted(zones)))
        self._pods = Pods(self._state)

    def _grow(self) -> None:
        self._checks.chapter(f"{SUBSCRIBED} pods arrive on node {NODE_A}, two on node {NODE_B}")
        first = self._pods.add("web-1", node=NODE_A, retry_s=GROWS_WITHIN_S)
        self._wait("a second ENI attaches with the first pod", lambda: len(self._enis(NODE_A)) == 2, self._enis_shown)
        rest = [f"web-{n}" for n in range(2, SUBSCRIBED + 1)]
        started = time.monotonic()
        made = self._pods.add_many(rest, node=NODE_A, retry_s=GROWS_WITHIN_S)
        made += self._pods.add_many(["db-1", "db-2"], node=NODE_B, retry_s=GROWS_WITHIN_S)
        for outcome in made:
            if isinstance(outcome, VpcCniError):
                raise outcome
        pods = self._pods.all()
        self._checks.note(f"{len(made)} pods in {time.monotonic() - started:.1f} s")
        self._wait("a third ENI attaches with the tenth pod", lambda: len(self._enis(NODE_A)) == 3, self._enis_shown)
        addresses = {pod.addresses[0] for pod in pods}
        self._checks.check("no address twice", len(addresses) == len(pods), f"{len(addresses)} for {len(pods)} pods")
        owned = {address for node in (NODE_A, NODE_B) for eni in self._enis(node) for address in eni["addresses"]}
        self._checks.check("every pod's address is one that EC2 gave the node", addresses <= owned, first.addresses[0])
        devices = sorted({self._device(pod) for pod in pods if pod.node == NODE_A})
        self._checks.check("pods live on more than one ENI", len(devices) >= 2, ", ".join(devices))

    def _matrix(self) -> None:
        self._checks.chapter("who reaches whom, with real TCP")
        here, same, other_eni, far = self._cast()
        for claim, pair in {
            "same node, same ENI": (here, same),
            "same node, other ENI": (here, other_eni),
            "other node": (here, far),
            "other node, from the second ENI": (other_eni, far),
            "other node, back to the second ENI": (far, other_eni),
        }.items():
            self._seen(
                f"pod to pod, {claim}: the pod's own address is seen", pair[0].label, pair[1].label, "own address"
            )
        for pod in (here, other_eni):
            device = self._device(pod)
            node = f"public address of node {NODE_A}"
            self._seen(
                f"pod on {device} to the internet: the node's public address is seen", pod.label, "internet", node
            )
            node = f"node {NODE_A}'s primary address"
            self._seen(f"pod on {device} to a private site: the node's address is seen", pod.label, "site", node)
        everyone = [one for one in self._endpoints() if one.kind == "pod"]
        outcomes = self._probe([(one, other) for one in everyone for other in everyone if one != other])
        good = sum(outcome.reached and outcome.seen_is == "own address" for outcome in outcomes)
        self._checks.check("all pods reach all pods", good == len(outcomes), f"{good} of {len(outcomes)} pairs")
        dropped = self._inventory()["dropped"]
        bad = {name: dropped[name] for name in ("spoofed_source", "wrong_mac") if dropped[name]}
        self._checks.check("the fabric found no forged packet", not bad, str(bad or "none dropped"))

    def _restart(self) -> None:
        words = " ".join(f"{name}={value}" for name, value in RESTARTED_WITH.items())
        self._checks.chapter(f"ipamd of node {NODE_A} restarts under its pods, with {words}")
        _, _, other_eni, far = self._cast()
        before = nodes.introspect(self._state, NODE_A, "/v1/pods")
        with HeldConnection(other_eni, far) as held:
            held.exchange()
            nodes.stop(self._state, NODE_A)
            gone = not nodes.conflist(self._state, NODE_A).exists()
            self._checks.check(
                "while ipamd is away the node is not ready", gone, nodes.conflist(self._state, NODE_A).name
            )
            self._checks.check("an open connection goes on meanwhile", held.exchange(), f"{held}")
            nodes.start(self._state, NODE_A, RESTARTED_WITH)
            waited_s = nodes.wait_ready(self._state, NODE_A, NODE_WITHIN_S)
            self._checks.note(f"ready again after {waited_s:.1f} s")
            self._checks.check("and after the restart", held.exchange(), f"{held}")
        after = nodes.introspect(self._state, NODE_A, "/v1/pods")
        self._checks.check("every pod kept its address", before == after, f"{len(after)} pods in /v1/pods")
        claim = "with external SNAT the private site sees the pod's own address"
        self._seen(claim, other_eni.label, "site", "own address")
        dropped = self._inventory()["dropped"]["no_public_address"]
        outcome = self._probe([(self._endpoint(other_eni.label), self._endpoint("internet"))])[0]
        more = self._inventory()["dropped"]["no_public_address"] - dropped
        claim = "and the internet gateway drops it, having no public address"
        self._checks.check(claim, not outcome.reached and more > 0, f"{more} packets dropped")

    def _shrink(self) -> None:
        self._checks.chapter("the pods go, the pool shrinks")
        _, _, last, _ = self._cast()
        held = self._held(NODE_A)
        for error in self._pods.remove_many([pod for pod in self._pods.all() if pod != last]):
            raise error
        self._wait(
            f"with one pod left, node {NODE_A} gives addresses back to EC2",
            lambda: self._held(NODE_A) < held,
            lambda: f"{held} addresses before, {self._held(NODE_A)} now",
            SHRINKS_WITHIN_S,
        )
        kept = self._probe([(self._endpoint(last.label), self._endpoint("site"))])[0]
        self._checks.check("that pod is not disturbed", kept.reached, f"seen as {kept.seen_is or kept.error}")
        self._pods.remove(last)
        used = nodes.introspect(self._state, NODE_A, "/v1/pods")
        self._checks.check("no pod is left in /v1/pods", not used, f"{SUBSCRIBED} pods removed")
        self._wait(
            "no pod link is left on the node", lambda: not self._veths(), lambda: ", ".join(self._veths()) or "none"
        )

    # -- observations -----------------------------------------------------------------------------------------------
    def _inventory(self) -> dict[str, Any]:
        found: dict[str, Any] = control.ask(self._state, "GET", "/status")
        return found

    def _enis(self, node: str) -> list[dict[str, Any]]:
        """The node's interfaces whose device is there."""
        return next([e for e in row["enis"] if e["port"]] for row in self._inventory()["nodes"] if row["name"] == node)

    def _enis_shown(self) -> str:
        return ", ".join(f"{eni['device']} {eni['primary_address']}" for eni in self._enis(NODE_A))

    def _held(self, node: str) -> int:
        return sum(len(eni["addresses"]) for eni in self._enis(node))

    def _device(self, pod: PodRecord) -> str:
        return str(next(eni["device"] for eni in self._enis(pod.node) if pod.addresses[0] in eni["addresses"]))

    def _cast(self) -> tuple[PodRecord, PodRecord, PodRecord, PodRecord]:
        """Two pods of one ENI, one of another ENI of the same node, one of the other node."""
        by_device: dict[str, list[PodRecord]] = {}
        for pod in self._pods.all():
            if pod.node == NODE_A:
                by_device.setdefault(self._device(pod), []).append(pod)
        far = next(pod for pod in self._pods.all() if pod.node == NODE_B)
        if len(by_device.get("eth0", [])) < 2 or "eth1" not in by_device:
            raise HostError("cast the pods", f"they live on {', '.join(by_device)} only", hint="see the ipamd log")
        return by_device["eth0"][0], by_device["eth0"][1], by_device["eth1"][0], far

    def _veths(self) -> list[str]:
        netns = NETNS_DIR / self._state.node_namespace(NODE_A)
        with namespace_handle(netns) as handle, RouteSocket(handle) as kernel:
            return [link.name for link in kernel.links() if link.name.startswith("eni")]

    def _endpoints(self) -> list[Endpoint]:
        return endpoints(self._state, self._inventory(), self._pods.all())

    def _endpoint(self, name: str) -> Endpoint:
        return choose(self._endpoints(), name, ("pod", "host"))

    def _probe(self, pairs: Sequence[tuple[Endpoint, Endpoint]]) -> list[Outcome]:
        return asyncio.run(probe(pairs, owners(self._inventory(), self._pods.all())))

    def _seen(self, claim: str, source: str, destination: str, expected: str) -> None:
        outcome = self._probe([(self._endpoint(source), self._endpoint(destination))])[0]
        evidence = f"{outcome.seen} ({outcome.seen_is})" if outcome.reached else outcome.error
        self._checks.check(claim, outcome.reached and outcome.seen_is == expected, evidence)

    def _wait(
        self, claim: str, reached: Callable[[], bool], shown: Callable[[], str], timeout_s: float = GROWS_WITHIN_S
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.05)
        self._checks.check(claim, reached(), shown())
