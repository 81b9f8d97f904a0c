"""A membership that says what a test says, and ownership beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.membership.messages import Claim, Handover, Released
from metallb_speaker.announcer.ownership import Ownership
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.desired import AnnouncedAddress, Layer2Group

IP = "192.0.2.1"
#: By the rule, for IP among these: read off once, so that the tests name their nodes.
FIRST, SECOND, THIRD = rank(["n1", "n2", "n3"], IP)
MACS = {"n1": "02:00:00:00:00:01", "n2": "02:00:00:00:00:02", "n3": "02:00:00:00:00:03"}


class Members:
    """A membership that says what the test says."""

    def __init__(self, me: str, **tiers: Tier) -> None:
        self.me = me
        self.ready = True
        self.generation = 5
        self.standings = {name: Standing(name, tier, macs=(MACS[name],)) for name, tier in tiers.items()}
        self.queue: list[m.Event] = []
        self.sent: list[tuple[str, Claim | Released | Handover]] = []
        self.called: list[str] = []
        self.cut = False

    def view(self) -> Mapping[str, Standing]:
        return self.standings

    def events(self) -> list[m.Event]:
        taken, self.queue = self.queue, []
        return taken

    def send(self, to: str, message: Claim | Released | Handover, now: float) -> None:
        self.sent.append((to, message))

    def call(self, name: str, now: float) -> None:
        self.called.append(name)

    def cut_off(self, now: float) -> bool:
        return self.cut

    def tier(self, name: str, tier: Tier, event: m.Event) -> None:
        self.standings[name] = Standing(name, tier, macs=(MACS[name],))
        self.generation += 1
        self.queue.append(event)

    def take_sent(self) -> list[tuple[str, Claim | Released | Handover]]:
        taken, self.sent = self.sent, []
        return taken


def group(ip: str = IP, candidates: Iterable[str] = ("n1", "n2", "n3"), **more: object) -> Layer2Group:
    return Layer2Group(ip, (AnnouncedAddress(ip, ("d/s",)),), tuple(sorted(candidates)), **more)  # type: ignore[arg-type]


def start(me: str, **tiers: Tier) -> tuple[Ownership, Members]:
    everybody = {"n1": Tier.SETTLED, "n2": Tier.SETTLED, "n3": Tier.SETTLED, **tiers}
    members, ownership = Members(me, **everybody), Ownership(me, 0.0)
    ownership.follow(members, 0.0)  # type: ignore[arg-type]
    ownership.complete(0.0)
    ownership.replace([group()], 0.0)
    follow(ownership, members, 0.0)
    return ownership, members


def follow(ownership: Ownership, members: Members, now: float) -> list[o.Event]:
    ownership.follow(members, now)  # type: ignore[arg-type]
    return ownership.events()


def heir() -> tuple[Ownership, Members]:
    """SECOND has taken over from FIRST, which membership and the wire hold for dead."""
    successor, members = start(SECOND)
    members.tier(FIRST, Tier.SILENT, m.Failed(FIRST))
    follow(successor, members, 1.0)
    follow(successor, members, 1.1)
    assert successor.owned()
    return successor, members


def cut_off() -> tuple[Ownership, Members]:
    """FIRST was cut off: it has had IP all along, and took another address from SECOND meanwhile."""
    stale, members = start(FIRST)
    other = next(ip for ip in (f"198.51.100.{n}" for n in range(250)) if rank(["n1", "n2", "n3"], ip)[0] == SECOND)
    stale.upsert(group(other), 0.0)
    follow(stale, members, 0.5)
    assert set(stale.owned()) == {IP}
    members.cut = True
    for name in (SECOND, THIRD):
        members.tier(name, Tier.SILENT, m.Failed(name))
    follow(stale, members, 1.0)
    follow(stale, members, 1.1)
    assert set(stale.owned()) == {IP, other}
    return stale, members
