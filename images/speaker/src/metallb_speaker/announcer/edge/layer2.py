"""Layer 2 on real sockets: `layer2.machine.Layer2Machine` wired to netlink and to each interface's sockets.

See `layer2.api` for how the announcer's loop uses it, and `edge.interface` for the path of a frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from metallb_common.obs import logs
from metallb_speaker.announcer.edge.groups import GroupJoins, Groups
from metallb_speaker.announcer.edge.interface import Interface, OpenSocket, Surroundings
from metallb_speaker.announcer.edge.netlink import Netlink
from metallb_speaker.announcer.edge.packet import FrameSocket, PacketSocket, check_permission
from metallb_speaker.announcer.edge.sysctl import arp_ignore
from metallb_speaker.announcer.layer2 import api, ipvs
from metallb_speaker.announcer.layer2.duplicate import GRACE
from metallb_speaker.announcer.layer2.interfaces import Snapshot
from metallb_speaker.announcer.layer2.machine import OWN_BURST, Layer2Machine

#: An interface whose sockets could not be opened is tried again after this long.
REOPEN: Final = 1.0
#: Frames sent in a turn that leave time for a filter in the same one.
FEW: Final = 8
#: Seconds of processor time, of a turn, for taking addresses into use.
SHARE: Final = 0.0007


def open_packet_socket(name: str, ifindex: int, ether_type: int) -> FrameSocket:
    """A real one. Raises OSError."""
    return PacketSocket(name, ifindex, ether_type)


class Layer2Edge:
    """`api.Layer2` on real interfaces. What is given by keyword is for tests."""

    def __init__(
        self,
        watch: api.Watch,
        unwatch: api.Unwatch,
        *,
        open_socket: OpenSocket = open_packet_socket,
        groups: GroupJoins | None = None,
        grace: float = GRACE,
    ) -> None:
        self.machine = Layer2Machine(grace)
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._groups = Groups() if groups is None else groups
        self._around = Surroundings(
            watch, unwatch, open_socket, self._groups, self._handlers, self.machine.at, self._after
        )
        self._netlink = Netlink(watch, unwatch, self.on_links)
        self._interfaces: dict[int, Interface] = {}
        self._reopen: dict[int, float] = {}
        self._ipvs = ""
        self._told: list[api.Event] = []
        self._put_off = False

    def open(self, now: float) -> None:
        check_permission()
        self._netlink.open(now)

    def close(self) -> None:
        self._netlink.close()
        for index in list(self._interfaces):
            self._interfaces.pop(index).close()
        self._groups.close()

    def on_links(self, snapshot: Snapshot, now: float) -> None:
        """A new picture of the interfaces; netlink calls this."""
        self.machine.links(snapshot, now)
        names = {link.name for link in snapshot.links}
        used = self.machine.used()
        # Read only where it matters; a picture comes once a minute at least, so that the fix is noticed.
        warning = ipvs.judge(names, used, arp_ignore(used)) if ipvs.INTERFACE in names else ""
        if warning and not self._ipvs:
            self._told.append(api.IpvsConflict(warning))
        self._ipvs = warning
        self._flush(now)

    def set(self, groups: Mapping[str, api.OwnedGroup], now: float) -> None:
        self.machine.set(groups, now)
        self._advance(now)

    def change(self, groups: Mapping[str, api.OwnedGroup | None], now: float) -> None:
        self.machine.change(groups, now)
        self._advance(now)

    def renew(self, addresses: Iterable[str], now: float) -> None:
        self.machine.renew(addresses, now)
        self._advance(now)

    def behind(self) -> bool:
        return self.machine.behind

    def answers(self, key: str) -> bool:
        return not self._interfaces.keys().isdisjoint(self.machine.where(key))

    def set_members(self, macs: Iterable[str]) -> None:
        self.machine.set_members(macs)

    def probe(self, address: str, now: float, wait: float = 0.05) -> None:
        self.machine.probe(address, now, wait)
        self._flush(now)

    def deadline(self) -> float:
        interfaces = [interface.deadline() for interface in self._interfaces.values()]
        return min(self.machine.deadline(), self._netlink.deadline(), *self._reopen.values(), *interfaces)

    def on_deadline(self, now: float) -> None:
        self._netlink.on_deadline(now)
        much = self._advance(now)
        for index in [index for index, due in self._reopen.items() if due <= now]:
            self._apply(index, None, now)
            if index in self._interfaces:
                self.machine.reopened(index, now)
        if much and not self._put_off:
            self._put_off = True  # a full turn already: filters have the next one
            return
        self._put_off = False
        for index, interface in list(self._interfaces.items()):
            if interface.deadline() <= now:
                try:
                    interface.on_deadline(now)
                except OSError as error:
                    self._failed(index, interface, error, now)
                break  # one a turn

    def on_readable(self, fd: int, now: float) -> None:
        """For loops that keep no handler per descriptor."""
        if (handler := self._handlers.get(fd)) is not None:
            handler(now)

    def events(self) -> list[api.Event]:
        told, self._told = self._told, []
        return [*self.machine.events(), *told]

    def drain(self, now: float) -> None:
        for interface in self._interfaces.values():
            interface.drain()

    def own_macs(self) -> tuple[str, ...]:
        return self.machine.own_macs()

    def prefixes(self) -> tuple[str, ...]:
        return self.machine.prefixes()

    def dark(self) -> tuple[str, ...]:
        return self.machine.dark()

    def on_link(self, addresses: Collection[str]) -> frozenset[str]:
        return self.machine.on_link(addresses)

    def counters(self) -> Mapping[tuple[api.Metric, str], int]:
        return self.machine.counters()

    def owned_ips(self) -> list[bytes]:
        return self.machine.owned_ips()

    def counts(self, ips: Iterable[bytes]) -> Mapping[str, tuple[int, int, int]]:
        return self.machine.counts(ips)

    def drops(self) -> Mapping[tuple[str, str], int]:
        return self.machine.drops()

    def conflicts(self) -> Mapping[tuple[str, str], str]:
        return self.machine.conflicts()

    def ipvs_conflict(self) -> str:
        return self._ipvs

    def status(self) -> dict[str, Any]:
        return {**self.machine.status(), "ipvsConflict": self._ipvs}

    # --- inside ----------------------------------------------------------------------------------

    def _after(self, now: float) -> None:
        """After frames were answered: a port may have told the machine of another host."""
        if self.machine.busy:
            self._flush(now)

    def _advance(self, now: float) -> bool:
        """What is due of the machine, and how much of that at once.

        Joining a group takes a kernel up to a third of a millisecond, the more the more there are: so the number of
        addresses that are taken into use in one turn follows what the last ones took.
        """
        queued, begin = self.machine.behind, time.thread_time()
        self.machine.on_deadline(now)
        much = self._flush(now)
        if queued:
            took = time.thread_time() - begin
            self.machine.burst = (
                max(1, self.machine.burst // 2) if took > SHARE else min(OWN_BURST, self.machine.burst + 1)
            )
        return much

    def _flush(self, now: float) -> bool:
        """Renew filters and groups first, then send: an answer to a probe must find the filter open.

        True when that was much.
        """
        changed: dict[int, list[bytes]] = {}
        for index, ip in self.machine.take_changed():
            changed.setdefault(index, []).append(ip)
        for index, ips in changed.items():
            self._apply(index, ips, now)
        frames = self.machine.pending()
        for index, frame in frames:
            if (interface := self._interfaces.get(index)) is not None:
                interface.send(frame)
        return bool(changed) or len(frames) > FEW

    def _apply(self, index: int, ips: Iterable[bytes] | None, now: float) -> None:
        """Bring the sockets of one interface in line with the machine; `ips` are the changes, None: all is new."""
        known = self.machine.port(index)
        interface = self._interfaces.get(index)
        if interface is not None and (known is None or interface.port is not known[1]):
            self._interfaces.pop(index).close()
            interface = None
        self._reopen.pop(index, None)
        if known is None:
            return
        name, port = known
        if interface is None:
            interface = self._interfaces[index] = Interface(index, name, port, self._around)
            ips = None
        interface.name = name  # it may have been renamed; sockets that are open do not mind
        try:
            interface.change([*port.arp, *port.ndp] if ips is None else ips, now)
        except OSError as error:
            self._failed(index, interface, error, now)

    def _failed(self, index: int, interface: Interface, error: OSError, now: float) -> None:
        """The sockets of an interface do not work: give them up, and try anew a little later."""
        logs.warn(op="openInterface", interface=interface.name, error=str(error))
        interface.close()
        self._interfaces.pop(index, None)
        self._reopen[index] = now + REOPEN
