"""`FakeLayer2`: `api.Layer2` without a network, for tests of what uses it.

Every address of `set` is announced at once; `happen` queues an event as if the network had told it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from metallb_speaker.announcer.layer2 import api


class FakeLayer2:
    """Records what it is told: `owned`, `members`, `probed`, `renewed`, `changed`."""

    def __init__(self, mac: str = "02:00:00:00:00:01", connected: Collection[str] = ()) -> None:
        self.owned: dict[str, api.OwnedGroup] = {}
        self.members: tuple[str, ...] = ()
        self.probed: list[tuple[str, float]] = []
        self.connected = set(connected)
        self.carrier = True
        self.renewed: tuple[str, ...] = ()
        self.changed: list[int] = []  # groups told of, by each `change`
        self.lagging = False
        self.drained = 0
        self.is_open = False
        self.macs = (mac,)
        self.unopened: set[str] = set()  # groups whose sockets could not be opened
        self._events: list[api.Event] = []
        self._conflicts: dict[tuple[str, str], str] = {}

    def happen(self, event: api.Event) -> None:
        self._events.append(event)
        if isinstance(event, api.Conflict):
            self._conflicts[event.address, event.interface] = event.mac
        elif isinstance(event, api.ConflictGone):
            self._conflicts.pop((event.address, event.interface), None)

    def open(self, now: float) -> None:
        self.is_open = True
        self.happen(api.InterfacesChanged(("eth0",)))

    def set(self, groups: Mapping[str, api.OwnedGroup], now: float) -> None:
        before = {address for group in self.owned.values() for address in group.addresses}
        self.owned = dict(groups)
        after = {address for group in self.owned.values() for address in group.addresses}
        for where in [where for where in self._conflicts if where[0] not in after]:
            del self._conflicts[where]
        for group in groups.values():
            for address in group.addresses:
                if address not in before:
                    self.happen(api.Announcing(address, "eth0"))

    def change(self, groups: Mapping[str, api.OwnedGroup | None], now: float) -> None:
        self.changed.append(len(groups))
        after = {**self.owned, **groups}
        self.set({key: group for key, group in after.items() if group is not None}, now)

    def renew(self, addresses: Iterable[str], now: float) -> None:
        self.renewed += tuple(addresses)

    def behind(self) -> bool:
        return self.lagging

    def answers(self, key: str) -> bool:
        return key in self.owned and key not in self.unopened

    def set_members(self, macs: Iterable[str]) -> None:
        self.members = tuple(macs)

    def probe(self, address: str, now: float, wait: float = 0.05) -> None:
        self.probed.append((address, now + wait))

    def deadline(self) -> float:
        return api.NEVER

    def on_deadline(self, now: float) -> None:
        """Nothing is ever due."""

    def events(self) -> list[api.Event]:
        out, self._events = self._events, []
        return out

    def drain(self, now: float) -> None:
        self.drained += 1

    def own_macs(self) -> tuple[str, ...]:
        return self.macs

    def prefixes(self) -> tuple[str, ...]:
        return tuple(sorted(str(ipaddress.ip_network(address)) for address in self.connected))

    def dark(self) -> tuple[str, ...]:
        return () if self.carrier else self.prefixes()

    def on_link(self, addresses: Collection[str]) -> frozenset[str]:
        return frozenset(self.connected & set(addresses))

    def counters(self) -> Mapping[tuple[api.Metric, str], int]:
        return {("gratuitous_sent", address): 1 for group in self.owned.values() for address in group.addresses}

    def owned_ips(self) -> list[bytes]:
        addresses = {address for group in self.owned.values() for address in group.addresses}
        return sorted(ipaddress.ip_address(address).packed for address in addresses)

    def counts(self, ips: Iterable[bytes]) -> Mapping[str, tuple[int, int, int]]:
        return {str(ipaddress.ip_address(ip)): (0, 0, 1) for ip in ips}

    def drops(self) -> Mapping[tuple[str, str], int]:
        return {}

    def conflicts(self) -> Mapping[tuple[str, str], str]:
        return self._conflicts

    def ipvs_conflict(self) -> str:
        return ""

    def status(self) -> dict[str, Any]:
        addresses = {address: {"eth0": "settled"} for group in self.owned.values() for address in group.addresses}
        return {"interfaces": {"eth0": "used"}, "addresses": addresses, "conflicts": {}, "unreachable": []}

    def close(self) -> None:
        self.is_open = False
