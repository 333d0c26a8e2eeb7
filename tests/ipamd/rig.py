# SPDX-License-Identifier: Apache-2.0
"""A node's engine over the model of EC2 in virtual time: everything of the daemon but sockets, kernel and files.

Knows how the composition root joins pool, engine, runner, sagas and view. The kernel is a dict of wired addresses, the
journal a list; both survive `kill`. `Rig` must be made and used inside `virtual.run`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from virtual import VirtualClock

from vpccni.aws import failure, tags
from vpccni.aws.values import Interface, IPAddress, IPNetwork, MetadataInterface, NodeIdentity
from vpccni.core import conventions
from vpccni.core.grant import Grant, PodIdentity, PodKey
from vpccni.core.lately import Lately
from vpccni.core.pacing import Pacer
from vpccni.core.podnet import PodAddress
from vpccni.core.podseen import ObservedPod
from vpccni.core.pool import Pool
from vpccni.errors import NoAddress, VpcCniError
from vpccni.ipamd import records, recovery, store
from vpccni.ipamd.cloudcalls import CloudCalls, Pace
from vpccni.ipamd.engine import Engine
from vpccni.ipamd.eniconfigs import EniConfigs
from vpccni.ipamd.holds import HoldBook
from vpccni.ipamd.journal import Record
from vpccni.ipamd.metrics import Metrics
from vpccni.ipamd.placement import Placement
from vpccni.ipamd.saga import Sagas
from vpccni.ipamd.sizing import cordoned, sizing
from vpccni.ipamd.steprunner import StepRunner
from vpccni.ipamd.upkeep import Upkeep
from vpccni.ipamd.view import NodeView
from vpccni.lab.cloud import profile
from vpccni.lab.cloud.cloud import Cloud, known_limits
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.topology import NewInstance
from vpccni.netlink.values import Link
from vpccni.settings import parse

T = TypeVar("T")
QUICK = profile.parse("quick", "[delays]\ncreate=0.1\nattach=0.3\nlink=0.1\nunplug=0.1\ndetach=0.5\n")
CALL_S = 0.1


class Killed(BaseException):
    """The process ends here, without a chance to tidy up."""


class HookedEc2(DirectEc2):
    """Calls the rig before and after the effect of each call."""

    def __init__(self, cloud: Cloud, before: Callable[[str], None], after: Callable[[str], None]) -> None:
        super().__init__(cloud, before)
        self._after = after

    @contextmanager
    def _calling(self, action: str) -> Iterator[None]:
        with super()._calling(action):
            yield
        self._after(action)


class InlineCalls(CloudCalls):
    """Calls without threads, each of which takes `CALL_S`."""

    def __init__(self, ec2: Any, pace: Pace) -> None:
        self.interfaces = self.addresses = self.inventory = ec2
        self._pace = pace

    async def execute(self, call: Callable[[], T]) -> T:
        await asyncio.sleep(CALL_S / 2)
        try:
            return call()
        finally:
            await asyncio.sleep(CALL_S / 2)

    def close(self) -> None:
        pass


class KernelSide:
    """Routes of ENIs: which ENI ids are set up."""

    def __init__(self) -> None:
        self.subnets: dict[str, tuple[IPNetwork, ...]] = {}
        self.enis: set[str] = set()
        self.broken = False

    async def attached(self, interface: Interface) -> None:
        if self.broken:
            raise VpcCniError("use the new ENI", "no link", code="link-missing")
        self.enis.add(interface.eni_id)

    async def keep(self, interfaces: Iterable[Interface], arriving: frozenset[str] = frozenset()) -> None:
        self.enis = {each.eni_id for each in interfaces} | (self.enis & arriving)

    async def arriving(self, eni_id: str, networks: Sequence[IPNetwork]) -> None:
        assert eni_id in self.enis

    async def forget(self, eni_id: str) -> None:
        self.enis.discard(eni_id)


class Process:
    """One life of the daemon on the rig's node."""

    def __init__(self, rig: Rig, environ: Mapping[str, str], ec2: Any = None) -> None:
        self.rig, self.settings = rig, parse(environ)
        settings, clock, rng = self.settings, rig.clock, rig.rng
        limits = known_limits(rig.node.instance_type)
        assert limits is not None
        self.size = sizing(settings, limits)
        self.pool = Pool(settings.ip_cooldown_s, self.size.mode, self.size.version, dual=settings.dual_stack)
        remembered = records.replay(rig.journal)
        self.intents = remembered.intents
        store.fill(self.pool, recovery.recover(remembered, [], rig.pods(), clock.now()))
        self.calls = InlineCalls(ec2 or rig.ec2, Pace(Pacer(), clock, rng))
        self.holds = HoldBook(
            rng,
            paused="" if settings.provisioning else "provisioning is switched off",
            singles=settings.prefix_fallback and self.size.version == 4,
            cordoned=lambda: cordoned(settings),
        )
        self.sagas = Sagas(
            rig.node,
            self.calls,
            rig.record,
            clock,
            token=lambda: f"token-{rng.getrandbits(64):x}",
            own_tags=lambda now: tags.creation(
                rig.node.instance_id, now, settings.cluster_name, settings.additional_eni_tags
            ),
        )
        self.view = NodeView(
            rig.node, settings, self.calls, rig.pods_seen, rig.record, clock, self.size.limits.cards, rig.listed
        )
        configs = None
        if settings.custom_networking:
            configs = EniConfigs(Path(settings.eni_config_dir), settings.eni_config_name)
        self.placement = Placement(rig.node, settings, self.calls, self.view, configs, clock)
        self.runner = StepRunner(
            self.pool, self.calls, self.sagas, rig.side, self.view, self.placement, self.holds, clock
        )
        self.engine = Engine(
            self.pool,
            self.size.targets,
            self.size.limits,
            self.runner,
            self.holds,
            clock,
            Metrics(),
            lambda: None,
            lately=Lately(settings.ip_cooldown_s if rig.waves else 0.0),
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.insist(self.view.observe)
        await self.insist(lambda: self.sagas.adopt(self.intents, self.view.interfaces))
        await self.insist(self.runner.reconcile)
        self._task = asyncio.get_running_loop().create_task(self.engine.run())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # a death that we arranged

    async def insist(self, attempt: Callable[[], Any]) -> None:
        while True:
            try:
                await attempt()
                return
            except VpcCniError:
                await asyncio.sleep(1.0)

    async def kill(self) -> None:
        """The process is gone: nothing of it runs on, not even what tidies up."""
        self.rig.dead = True
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        while tasks:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
        self.rig.dead = False

    def upkeep(self, groups: Callable[[], Any] | None = None) -> Upkeep:
        own_tags = tags.ownership(
            self.rig.node.instance_id, self.settings.cluster_name, self.settings.additional_eni_tags
        )
        held = self.pool.held
        return Upkeep(self.calls, self.view, own_tags, groups, lambda: frozenset(
            each.eni.id for each in held() if each.eni.managed and not each.withdrawn
        ))  # fmt: skip

    async def add(self, count: int = 1, cards: tuple[int, ...] = (0,), name: str = "") -> list[Grant]:
        """Pods arrive at once, in new sandboxes; each is granted, journalled and wired. Raises NoAddress."""
        made = []
        for _ in range(count):
            key = PodKey("aws-cni", f"c{self.rig.serial}", "eth0")
            self.rig.serial += 1
            grant = self.pool.assign(key, PodIdentity("default", name or key.container_id), self.rig.clock.now(), cards)
            self.rig.journal.append(records.granted(grant))
            self.rig.wired[key] = grant
            made.append(grant)
        self.engine.wake_if_low()
        return made

    async def arrive(self, count: int, patience_s: float = 120.0) -> list[Grant]:
        """Pods arrive one by one and, as a kubelet does, ask again until there is an address."""
        made: list[Grant] = []
        refused = 0  # attempts of the pod that waits, each of which took a serial number
        deadline = self.rig.clock.now() + patience_s
        while len(made) < count:
            try:
                made += await self.add(1, name=f"pod-{self.rig.serial - refused}")
                refused = 0
            except NoAddress:
                if self.rig.clock.now() > deadline:
                    raise
                refused += 1
                self.engine.wake()
                await asyncio.sleep(1.0)
        return made

    async def drop(self, keys: Iterable[PodKey]) -> None:
        for key in keys:
            grant = self.rig.wired.pop(key)
            self.rig.journal.append(records.released(grant, self.rig.clock.now()))
            assert self.pool.release(key, self.rig.clock.now())
        self.engine.wake_if_low()


class Rig:
    """A VPC with one subnet, one instance and its daemon."""

    def __init__(
        self,
        instance_type: str = "m5.large",
        subnet: str = "10.0.0.0/24",
        *,
        seed: int = 1,
        ipv6: bool = False,
        delays: profile.Profile = QUICK,
        waves: bool = False,
        **environ: str,
    ) -> None:
        """`waves`: what pods needed lately is kept, as in the daemon. Most tests are about what comes after."""
        self.waves = waves
        self.clock, self.rng, self.environ = VirtualClock(), random.Random(seed), environ
        self.cloud = Cloud(self.clock.now, self.rng, delays)
        v6 = IPv6Network("2001:db8::/56")
        self.vpc = self.cloud.create_vpc([IPv4Network("10.0.0.0/16")], ipv6_cidrs=[v6] if ipv6 else ())
        self.subnet = self.cloud.create_subnet(
            self.vpc.vpc_id, IPv4Network(subnet), ipv6_cidr=next(v6.subnets(new_prefix=64)) if ipv6 else None
        )
        self.instance = self.cloud.run_instance(NewInstance(instance_type, self.subnet.subnet_id))
        self.calls: list[tuple[float, str]] = []
        self.refuse: Callable[[str], None] = lambda action: None
        self.lose: Callable[[str], bool] = lambda action: False
        self.blow_at, self.moments = 0, 0
        self.listed: Callable[[], Awaitable[Sequence[MetadataInterface]]] | None = None  # the metadata service
        self.ec2 = HookedEc2(self.cloud, self._before, self._after)
        (primary,) = DirectEc2(self.cloud).attached(self.instance.instance_id)
        assert primary.primary_address is not None
        self.node = NodeIdentity(
            "us-west-2", primary.availability_zone, self.instance.instance_id, instance_type, primary.mac,
            primary.eni_id, primary.subnet_id, primary.vpc_id, primary.primary_address,  # type: ignore[arg-type]
        )  # fmt: skip
        self.journal: list[Record] = []
        self.wired: dict[PodKey, Grant] = {}
        self.side = KernelSide()
        self.dead, self.serial = False, 0

    def _before(self, action: str) -> None:
        if self.dead:
            raise asyncio.CancelledError
        self.moment()
        self.calls.append((self.clock.now(), action))
        self.refuse(action)

    def _after(self, action: str) -> None:
        self.moment()
        if self.lose(action):
            raise failure.unreachable(action, "ec2", "the answer was lost")

    def moment(self) -> None:
        """Between two effects of the process; it dies at the one numbered `blow_at`."""
        self.moments += 1
        if self.moments == self.blow_at:
            self.dead = True
            raise Killed

    def process(self, **environ: str) -> Process:
        return Process(self, {**self.environ, **environ})

    async def process_started(self, **environ: str) -> Process:
        process = self.process(**environ)
        await process.start()
        return process

    async def started(self, **environ: str) -> Process:
        """A process that has had half a minute to come to rest."""
        process = await self.process_started(**environ)
        await asyncio.sleep(30)
        return process

    async def record(self, line: Record) -> None:
        if self.dead:
            raise asyncio.CancelledError
        self.moment()
        self.journal.append(line)
        self.moment()

    async def pods_seen(self) -> tuple[ObservedPod, ...]:
        return self.pods()

    def pods(self) -> tuple[ObservedPod, ...]:
        """What the kernel shows: a link with an alias, and routes."""
        seen = []
        for key, grant in self.wired.items():
            alias = conventions.PodAlias(key.network, key.container_id, key.ifname, grant.pod.namespace, grant.pod.name)
            places = tuple(PodAddress(at.address, at.table, at.device, at.card) for at in grant.addresses)
            seen.append(ObservedPod(Link(f"eni{key.container_id}", kind="veth"), alias, places))
        return tuple(seen)

    def interfaces(self) -> tuple[Interface, ...]:
        """What EC2 has on the instance."""
        return DirectEc2(self.cloud).attached(self.node.instance_id)

    def held(self) -> list[int]:
        """Blocks by ENI, in order of device index."""
        return [len(each.addresses) + len(each.prefixes) for each in self.interfaces()]

    def used(self) -> list[int]:
        """Pods by ENI."""
        homes = Counter(self.home(at.address) for grant in self.wired.values() for at in grant.addresses)
        return [homes[each.eni_id] for each in self.interfaces()]

    def home(self, address: IPAddress) -> str | None:
        """The ENI that holds an address, says EC2."""
        for each in self.interfaces():
            if address in each.addresses or any(address in prefix for prefix in each.prefixes):
                return each.eni_id
        return None

    def mutations(self, since: float = 0.0) -> list[str]:
        """Names of the calls that change something."""
        return [name for at, name in self.calls if at >= since and not name.startswith("Describe")]

    def check(self, taken: frozenset[IPNetwork] = frozenset(), detached: frozenset[str] = frozenset()) -> None:
        """The invariants: no address twice, none in use lost, every ENI of ours attached or intended.

        `taken` and `detached`: blocks and ENIs that the test itself took away.
        """
        addresses = [at.address for grant in self.wired.values() for at in grant.addresses]
        assert len(addresses) == len(set(addresses)), "an address has one owner"
        for at in (at for grant in self.wired.values() for at in grant.addresses):
            excused = at.eni_id in detached or any(at.address in network for network in taken)
            assert excused or self.home(at.address), f"{at.address} is in use and EC2 has taken it back"
        open_enis = {intent.eni_id for intent in records.replay(self.journal).intents.values()}
        tokens = set(records.replay(self.journal).intents)
        for eni in DirectEc2(self.cloud).owned(self.node.instance_id):
            known = eni.attachment is not None or eni.eni_id in open_enis or eni.tags.get(tags.SAGA_TAG) in tokens
            assert known or eni.eni_id in detached, f"{eni.eni_id} is leaked"


def grants(process: Process) -> dict[PodKey, Grant]:
    """The pool's grants by key."""
    return {grant.key: grant for grant in process.pool.grants()}


def with_environ(process: Process, **environ: str) -> Process:
    """A successor with other settings."""
    return process.rig.process(**environ)


__all__ = ["Process", "Rig", "grants", "replace", "with_environ"]
