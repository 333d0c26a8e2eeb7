# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics under the names of the Amazon VPC CNI, on `:61678/metrics`.

Knows names, labels and meanings (Amazon VPC CNI 1.23, all `awscni_`). Must never decide anything. Gauges of the pool
are computed when they are scraped, so that an ADD pays for counters only.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vpccni import __version__
from vpccni.core.pool import Pool

# The client library ends counters in `_total`; the Amazon VPC CNI's do not, and dashboards know them by those names.
_SUFFIX = re.compile(rb"^((?:# (?:HELP|TYPE) )?(?:awscni|vpccni)_\w+?)_total\b", re.MULTILINE)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Every counter of the daemon; `bind_pool` adds the gauges."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it without annotations
        self.registry = CollectorRegistry()
        build = Gauge("awscni_build_info", "Version in use.", ["version", "pythonversion"], registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)
        self._adds = self._counter("add_ip_req_count", "ADD requests.")
        self._dels = self._counter("del_ip_req_count", "DEL requests by reason.", "reason")
        self._no_address = self._counter("no_available_ip_addresses", "ADDs refused for want of an address.")
        self._errors = self._counter("ipamd_error_count", "Errors the daemon handled.", "fn")
        self._reconciled = self._counter("reconcile_count", "Corrections by kind.", "fn")
        self._repairs = Counter("vpccni_repairs", "Kernel objects put right.", ["kind"], registry=self.registry)
        self._ec2 = self._counter("ec2api_req_count", "EC2 requests.", "fn")
        self._ec2_errors = self._counter("ec2api_error_count", "EC2 requests that failed.", "fn")
        self._aws_errors = self._counter("aws_api_error_count", "EC2 errors by code.", "api", "error")
        self._latency = Summary(
            "awscni_aws_api_latency_ms", "EC2 call, ms.", ["api", "error", "status"], registry=self.registry
        )
        self.in_progress = Gauge("awscni_ipamd_action_inprogress", "Actions under way.", ["fn"], registry=self.registry)
        self.start_up = Histogram(
            "awscni_ipamd_startup_duration_seconds", "Start until addresses can be had.", registry=self.registry
        )

    def add_request(self) -> None:
        """An ADD came in."""
        self._adds.inc()

    def del_request(self, reason: str) -> None:
        """A DEL came in; `reason` is PodDeleted or SetupNSFailed."""
        self._dels.labels(reason).inc()

    def no_address(self) -> None:
        """An ADD was refused for want of an address."""
        self._no_address.inc()

    def error(self, where: str) -> None:
        """An error was handled."""
        self._errors.labels(where).inc()

    def reconciled(self, kind: str) -> None:
        """A correction was applied."""
        self._reconciled.labels(kind).inc()

    def repaired(self, kind: str) -> None:
        """A kernel object that another program had changed was put right."""
        self._repairs.labels(kind).inc()

    def ec2_call(self, api: str, duration_s: float, code: str) -> None:
        """An EC2 call ended; `code` is empty on success."""
        self._ec2.labels(api).inc()
        self._latency.labels(api, str(bool(code)).lower(), code or "200").observe(duration_s * 1000)
        if code:
            self._ec2_errors.labels(api).inc()
            self._aws_errors.labels(api, code).inc()

    def bind_pool(self, pool: Pool, limits: Callable[[], tuple[int, int]]) -> None:
        """Add the pool's gauges; `limits()` is (ENIs attachable, addresses attachable)."""
        self.registry.register(_PoolGauges(pool, limits))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return _SUFFIX.sub(rb"\1", generate_latest(self.registry))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"awscni_{name}", text, labels, registry=self.registry)


class _PoolGauges(Collector):
    """Reads the pool when scraped."""

    def __init__(self, pool: Pool, limits: Callable[[], tuple[int, int]]) -> None:
        self._pool, self._limits = pool, limits

    def collect(self) -> Iterator[Metric]:
        """All gauges of the moment."""
        enis = self._pool.held()
        max_enis, max_addresses = self._limits()
        yield _gauge("eni_max", "ENIs that can be attached.", max_enis)
        yield _gauge("ip_max", "Addresses that can be attached.", max_addresses)
        yield _gauge("eni_allocated", "ENIs attached.", len(enis))
        yield _gauge("total_ip_addresses", "Addresses held.", sum(eni.total for eni in enis))
        yield _gauge("assigned_ip_addresses", "Addresses in use.", sum(eni.assigned for eni in enis))
        blocks = [held.block for eni in enis for held in eni.blocks.values()]
        prefixes = sum(1 for block in blocks if block.size > 1 and ip_network(block.network).version == 4)
        yield _gauge("total_ipv4_prefixes", "Prefixes held.", prefixes)
        beside = sum(1 for block in blocks if block.size > 1) - prefixes
        yield _gauge("total_ipv6_prefixes", "IPv6 prefixes held.", beside)
        per_eni = GaugeMetricFamily("awscni_assigned_ip_per_eni", "Addresses in use by ENI.", labels=["eni"])
        per_cidr = GaugeMetricFamily("awscni_assigned_ip_per_cidr", "Addresses in use by block.", labels=["cidr"])
        for eni in enis:
            per_eni.add_metric([eni.eni.id], eni.assigned)
            for held in eni.blocks.values():
                per_cidr.add_metric([str(held.block)], len(held.owned))
        yield per_eni
        yield per_cidr


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"awscni_{name}", text, value=value)
