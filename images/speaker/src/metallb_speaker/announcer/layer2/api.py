"""What the announcer's loop sees of layer 2: the values that go in and come out, and the verbs.

`announcer.edge.layer2.Layer2Edge` is the real thing, `edge.layer2_fake.FakeLayer2` the fake. Its use::

    layer2 = Layer2Edge(watch, unwatch)       # watch(fd, handler): call handler(now) when fd is readable
    layer2.open(now)                          # sockets; raises OSError(EPERM) without NET_RAW
    layer2.set(groups, now)                   # the whole set that this node owns now; diffs inside
    ... each turn of the loop:
        for key, _ in selector.select(min(deadlines) - now): key.data(now)
        if layer2.deadline() <= now: layer2.on_deadline(now)
        for event in layer2.events(): ...

`set` takes effect before it returns: what left is silent, and what came is probed; it is answered and
announced when the probe stayed silent for `CHECK_GRACE` seconds, or at once with `OwnedGroup.check` False.
Times are monotonic seconds. MAC addresses are lower-case text with colons, addresses RFC 5952 text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

NEVER = math.inf

#: What a loop offers to edges: register a readable file descriptor with its handler, and drop it.
Watch = Callable[[int, Callable[[float], None]], None]
Unwatch = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class OwnedGroup:
    """Addresses that this node must announce now, and on which of its interfaces (globs; empty: all).

    `check` False leaves out the duplicate address check before the first answer: an ordered hand-over,
    where the old owner is known to answer still.
    """

    key: str
    addresses: tuple[str, ...]
    interfaces: tuple[str, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    check: bool = True


@dataclass(frozen=True, slots=True)
class Announcing:
    """`address` is answered for on `interface` from now on."""

    address: str
    interface: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A host that is no member holds `address`; named once per (address, interface, mac).

    `withheld`: we do not answer for it there until that host is silent. Else we had it first: we defend it.
    """

    address: str
    interface: str
    mac: str
    withheld: bool


@dataclass(frozen=True, slots=True)
class ConflictGone:
    """Nobody else has answered for `address` on `interface` for a while."""

    address: str
    interface: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A member sent an announcement (gratuitous ARP, unsolicited NA) of an address that we own."""

    address: str
    interface: str
    mac: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The answer to `probe`: the MAC addresses that hold `address`, over all interfaces; empty: silence."""

    address: str
    macs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InterfacesChanged:
    """What is used has changed, its MAC addresses or carriers, or what is on-link there: tell the others anew."""

    interfaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No interface of this node matches the group's patterns: it owns addresses that nobody can see."""

    key: str


@dataclass(frozen=True, slots=True)
class IpvsConflict:
    """kube-proxy's IPVS mode makes this node answer for every address; told once. `message` names the fix."""

    message: str


Event = Announcing | Conflict | ConflictGone | Claimed | ProbeResult | InterfacesChanged | Unreachable | IpvsConflict

Metric = Literal["requests_received", "responses_sent", "gratuitous_sent"]
METRICS: tuple[Metric, Metric, Metric] = ("requests_received", "responses_sent", "gratuitous_sent")


class Layer2(Protocol):
    """The verbs. None blocks; none raises for what a network or a vanishing interface does."""

    def open(self, now: float) -> None:
        """Open netlink and read the interfaces. Raises OSError where the process lacks NET_RAW."""

    def set(self, groups: Mapping[str, OwnedGroup], now: float) -> None:
        """The groups that this node owns now, by key: the whole set."""

    def change(self, groups: Mapping[str, OwnedGroup | None], now: float) -> None:
        """Like `set`, but only these keys: None for a group that is not owned any more. Costs what changes."""

    def renew(self, addresses: Iterable[str], now: float) -> None:
        """Announce those of `addresses` that are answered for anew, from the beginning: somebody else claimed them."""

    def behind(self) -> bool:
        """Whether some of what is owned waits to be taken into use: addresses that came by the hundred."""

    def answers(self, key: str) -> bool:
        """Whether an interface with sockets answers for the group `key`, once nothing of it is `behind`."""

    def set_members(self, macs: Iterable[str]) -> None:
        """MAC addresses of all members' interfaces (`own_macs` of each): they are not foreign hosts.

        A conflict with one of them ends at once (`ConflictGone`): it was found before the address was known.
        """

    def probe(self, address: str, now: float, wait: float = 0.05) -> None:
        """Ask the wire who holds `address`; a `ProbeResult` follows after at most `wait` seconds."""

    def deadline(self) -> float:
        """When `on_deadline` must be called next; NEVER if nothing is due."""

    def on_deadline(self, now: float) -> None:
        """Do what is due: a bounded number of frames, so call it again if `deadline()` is still past."""

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""

    def drain(self, now: float) -> None:
        """Read and forget everything queued: after the process was stopped for a while."""

    def own_macs(self) -> tuple[str, ...]:
        """MAC addresses that this node announces with; those of interfaces with a connected route come first."""

    def prefixes(self) -> tuple[str, ...]:
        """Prefixes to which a used interface has a connected route, but link-local ones: for `Members.set_prefixes`."""

    def dark(self) -> tuple[str, ...]:
        """Those of `prefixes` that no used interface with a carrier has."""

    def on_link(self, addresses: Collection[str]) -> frozenset[str]:
        """Those of `addresses` to which a used interface has a connected route (contract section 9)."""

    def counters(self) -> Mapping[tuple[Metric, str], int]:
        """(metric, ip) -> count, for what is owned now: series end with ownership."""

    def owned_ips(self) -> list[bytes]:
        """What is owned now, each address once, packed: for asking `counts` in slices."""

    def counts(self, ips: Iterable[bytes]) -> Mapping[str, tuple[int, int, int]]:
        """ip -> the counts of these only, in the order of METRICS."""

    def drops(self) -> Mapping[tuple[str, str], int]:
        """(interface, reason) -> frames that reached us and were not answered."""

    def conflicts(self) -> Mapping[tuple[str, str], str]:
        """(address, interface) -> MAC of the foreign host, as long as it lasts."""

    def ipvs_conflict(self) -> str:
        """The warning as long as it holds, else "": for the gauge metallb_speaker_ipvs_arp_conflict."""

    def status(self) -> dict[str, Any]:
        """For `/status`: interfaces used and refused (with the reason), addresses and their state."""

    def close(self) -> None:
        """Stop answering and close every socket."""
