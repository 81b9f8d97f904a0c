"""The controller's metrics: the names of the original, and a few of our own.

Numbers of pools are asked of the allocator at scrape time: nothing to keep in step, and a pool that left
the config leaves the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from metallb_common.obs import metrics

if TYPE_CHECKING:
    from metallb_controller.assigner import Assigner


class Metrics:
    """`assigner` gives the one of the present term, None while another controller leads."""

    def __init__(self) -> None:
        self.registry = metrics.Registry()
        self.assigner: Callable[[], Assigner | None] = lambda: None
        self.registry.collector(self._pools)
        self.updates = self.registry.counter(*metrics.UPDATES)
        self.update_errors = self.registry.counter(*metrics.UPDATE_ERRORS)
        self.config_loaded = self.registry.gauge(*metrics.CONFIG_LOADED)
        self.config_stale = self.registry.gauge(*metrics.CONFIG_STALE)
        self.leader = self.registry.gauge(
            "metallb_controller_leader_bool", "1 if this controller leads: it alone gives out addresses."
        )
        self.waiting = self.registry.gauge(
            "metallb_controller_services_waiting", "Number of services that wait for an address or a wish."
        )
        self.writes = self.registry.counter(
            "metallb_controller_status_writes_total", "Number of service statuses written."
        )

    def _pools(self) -> Iterable[metrics.Family]:
        assigner = self.assigner()
        self.waiting.set(len(assigner.waiting) if assigner is not None else 0)
        total: dict[metrics.Labels, float] = {}
        used: dict[metrics.Labels, float] = {}
        services: dict[metrics.Labels, float] = {}
        if assigner is not None and assigner.config is not None:
            for name in assigner.allocator.table.by_name:
                total[name,] = float(assigner.allocator.total(name))
                used[name,] = float(assigner.allocator.in_use(name))
                services[name,] = float(assigner.allocator.services(name))
        prefix, gauge, labels = "metallb_allocator_", "gauge", ("pool",)
        yield metrics.Family(
            f"{prefix}addresses_total", "Number of usable IP addresses, per pool", gauge, labels, total
        )
        yield metrics.Family(
            f"{prefix}addresses_in_use_total", "Number of IP addresses in use, per pool", gauge, labels, used
        )
        yield metrics.Family(
            f"{prefix}services_allocated_total", "Number of services allocated, per pool", gauge, labels, services
        )
