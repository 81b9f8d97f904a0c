"""What this node announces now, by Service: the source of `metallb_speaker_announced`, of logs and of reports.

Invariant: a series exists exactly as long as its address is announced for its Service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from metallb_common.obs import logs
from metallb_common.obs.metrics import Gauge
from metallb_speaker import stream
from metallb_speaker.desired import AnnouncedAddress

#: Services whose announcing nobody was there to hear of, at most: a cluster half that is away for long.
MAX_UNREPORTED = 10_000


class Record:
    """Keyed by protocol and group (or route): `set` what it announces, by Service."""

    def __init__(self, node: str, gauge: Gauge, report: Callable[[stream.Report], bool]) -> None:
        """`report` gives False when nobody is connected."""
        self._node, self._gauge, self._report = node, gauge, report
        self._held: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
        self._counts: dict[tuple[str, str, str], int] = {}  # (service, protocol, ip) -> groups that announce it
        self._by_ip: dict[str, tuple[str, ...]] = {}  # -> services, once per protocol
        self._unreported: dict[tuple[str, str], stream.Announced] = {}

    def set(
        self,
        protocol: str,
        key: str,
        addresses: Iterable[AnnouncedAddress],
        why: Mapping[str, str],
        reason: str,
    ) -> None:
        """From now on the group announces these; what went is logged with `why[service]`, else with `reason`."""
        after: dict[str, tuple[str, ...]] = {}
        pools: dict[str, str] = {}
        for address in addresses:
            pools[address.ip] = address.pool
            for service in address.services:
                after[service] = (*after.get(service, ()), address.ip)
        before = self._held.get((protocol, key), {})
        if after:
            self._held[protocol, key] = after
        else:
            self._held.pop((protocol, key), None)
        came, went = {}, {}
        for service, ips in after.items():
            new = tuple(ip for ip in ips if ip not in before.get(service, ()))
            came[service] = tuple(ip for ip in new if self._count(service, protocol, ip, 1))
        for service, ips in before.items():
            gone = tuple(ip for ip in ips if ip not in after.get(service, ()))
            went[service] = tuple(ip for ip in gone if self._count(service, protocol, ip, -1))
        for service, ips in went.items():
            if ips:
                self._withdrawn(service, protocol, ips, why.get(service) or reason)
        for service, ips in came.items():
            if ips:
                self._announced(service, protocol, ips, ", ".join(sorted({pools[ip] for ip in ips})))

    def _count(self, service: str, protocol: str, ip: str, by: int) -> bool:
        """True when this made the difference between announced and not."""
        key = service, protocol, ip
        count = self._counts.get(key, 0) + by
        if count:
            self._counts[key] = count
            if by > 0 and count == 1:
                self._gauge.set(1, service, protocol, self._node, ip)
                self._by_ip[ip] = (*self._by_ip.get(ip, ()), service)
                return True
            return False
        del self._counts[key]
        self._gauge.remove(service, protocol, self._node, ip)
        left = list(self._by_ip[ip])
        left.remove(service)
        if left:
            self._by_ip[ip] = tuple(left)
        else:
            del self._by_ip[ip]
        return True

    def _announced(self, service: str, protocol: str, ips: tuple[str, ...], pool: str) -> None:
        logs.info(
            event="serviceAnnounced",
            msg="announcing from this node",
            service=service,
            protocol=protocol,
            ips=ips,
            pool=pool,
            node=self._node,
        )
        report = stream.Announced(service, protocol, ips)
        if not self._report(report) and len(self._unreported) < MAX_UNREPORTED:
            self._unreported[service, protocol] = report

    def _withdrawn(self, service: str, protocol: str, ips: tuple[str, ...], reason: str) -> None:
        logs.info(
            event="serviceWithdrawn",
            msg="not announcing from this node any more",
            service=service,
            protocol=protocol,
            ips=ips,
            reason=reason,
        )
        self._unreported.pop((service, protocol), None)
        self._report(stream.Withdrawn(service, protocol, ips, reason))

    def connected(self) -> None:
        """Somebody listens again: tell what was announced meanwhile."""
        for key, report in list(self._unreported.items()):
            if self._report(report):
                del self._unreported[key]

    def services_at(self, ip: str) -> tuple[str, ...]:
        """The Services that `ip` is announced for, sorted."""
        return tuple(sorted(set(self._by_ip.get(ip, ()))))

    @property
    def services(self) -> frozenset[str]:
        """Services with an announced address."""
        return frozenset(service for service, _, _ in self._counts)
