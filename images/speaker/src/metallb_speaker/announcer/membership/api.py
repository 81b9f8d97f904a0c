"""What the announcer's loop sees of membership: the verbs. `swim.Membership` is the machine.

Its use, together with the UDP edge and `ownership.Ownership`::

    udp = UdpEdge(bind_address, port)                       # edge/udp.py; its fd joins the selector
    membership = Membership(node, keys, address=..., port=..., rng=SystemRandom(), now=now)
    ownership = Ownership(node, now)
    ... each turn of the loop, in this order:
        if membership.turn(now):                            # the process was stopped: what is queued is stale
            udp.drain(); layer2.drain(now)
        for data, source in udp.receive(): membership.receive(data, source, now)
        if membership.deadline() <= now: membership.on_deadline(now)
        ownership.follow(membership, now)                   # events in, messages out; see ownership/api.py
        ... apply ownership.events() to layer 2, so that a gratuitous frame leaves before the claim ...
        for data, target in membership.pending(): udp.send(data, target)

Receive before `on_deadline`: a datagram that waits in the socket is a sign of life.
Without keys, or with no bind address or labels (`--ml-bindaddr`, `--ml-labels`), pass `keys=NO_KEYS`:
then nothing is sent, what is received is dropped, and the cluster's view alone decides.
Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from metallb_speaker.announcer.membership.events import Event, Standing
from metallb_speaker.announcer.membership.messages import Claim, Handover, Released
from metallb_speaker.desired import Member

#: Where a datagram comes from or goes to: (address, port), as sockets give it without scope.
Endpoint = tuple[str, int]


class Members(Protocol):
    """The verbs of membership. None blocks, none raises for anything that came from the network."""

    def set(self, seeds: Iterable[Member], now: float) -> None:
        """The speakers that the cluster knows, this node's among them or not: the whole list, at each change."""

    def set_macs(self, macs: Iterable[str], now: float) -> None:
        """The MAC addresses that this node announces with (`Layer2.own_macs`): members tell each other.

        Of more than `wire.MAX_MACS` the first ones are told; of more than `FIRST_MACS` by a node that says nothing of
        its prefixes, and to older versions, those.
        """

    def set_prefixes(self, prefixes: Iterable[str], now: float) -> None:
        """The prefixes that this node has a connected route to (`Layer2.prefixes`): members tell each other.

        Beyond `wire.MAX_PREFIXES` nothing is said of them, as by an older version.
        """

    def turn(self, now: float) -> bool:
        """Call first in every turn. True: this process was stopped; drop unread whatever the sockets hold."""

    def receive(self, datagram: bytes, source: Endpoint, now: float) -> None:
        """One datagram from the membership port. Not authentic, replayed or malformed ones are counted and dropped."""

    def pending(self) -> list[tuple[bytes, Endpoint]]:
        """Datagrams to send now; the list is handed over and empty afterwards."""

    def deadline(self) -> float:
        """When `on_deadline` must be called next, at the latest."""

    def on_deadline(self, now: float) -> None:
        """Do what is due: beats, probes, suspicions, gossip."""

    def call(self, name: str, now: float) -> None:
        """`name`, which is not heard, showed itself on the wire: say hello to it at once."""

    def cut_off(self, now: float) -> bool:
        """Whether this node heard nobody, or was heard by nobody, not long ago, and no majority is with it."""

    def hears(self, now: float) -> bool:
        """Whether any other member was heard just now."""

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""

    def view(self) -> Mapping[str, Standing]:
        """Every known member by node name, this node included. Live: read it, do not keep it."""

    @property
    def generation(self) -> int:
        """Grows with every change of any member's view; the highest one heard of is adopted."""

    @property
    def ready(self) -> bool:
        """Whether an election makes sense: for the readiness probe, too."""

    def send(self, to: str, message: Claim | Released | Handover, now: float) -> None:
        """Queue an ownership message for the member `to`; dropped where no address of it is known."""

    def leave(self, now: float) -> None:
        """Say that this node goes (tier LEAVING): successors take over. It goes on running meanwhile."""

    def depart(self, now: float) -> None:
        """Say that this node is gone (status LEFT). The last thing to send before the process ends."""

    def stay(self, now: float) -> None:
        """Take `leave` back."""

    def drops(self) -> Mapping[str, int]:
        """Reason -> datagrams dropped: notOurs, version, tooLong, malformed, notAuthentic, replay, ..."""

    def status(self) -> dict[str, Any]:
        """For `/status`: members, their standing, ages, and whether UDP is blocked."""
