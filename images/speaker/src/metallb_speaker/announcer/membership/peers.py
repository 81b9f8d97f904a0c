"""One other member as this process knows it: what is said of it, what was heard from it, how to reach it."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from functools import lru_cache

from metallb_speaker.announcer.membership.api import Endpoint
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.membership.messages import Record, Status
from metallb_speaker.announcer.membership.replay import Window
from metallb_speaker.desired import Member

NEVER_HEARD = -math.inf


@lru_cache(maxsize=2048)
def family(address: str) -> int:
    """4 or 6; 0 for what is no address."""
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return 0


@dataclass(slots=True)
class Peer:
    """Mutable; only `swim` and its parts write it."""

    name: str
    record: Record | None = None  # what is held of it; None: nothing was ever said
    member: Member | None = None  # what the cluster says of it; None: not listed
    doubted: bool = False  # the closer watch is in doubt about it; nobody else is told
    revived: bool = False  # the cluster saw it come back after it had failed here
    # The session: which life of its process is admitted, and what of it has been seen.
    boot: int = 0
    window: Window | None = None
    nonce: int = 0  # that we asked it to echo
    nonce_at: float = NEVER_HEARD
    hello_at: float = NEVER_HEARD  # when we last sent a hello
    told_at: float = NEVER_HEARD  # when we last told it that we hold it for gone
    # What was heard.
    heard: float = NEVER_HEARD  # any authentic, fresh datagram
    known_alive: float = NEVER_HEARD  # that, or an answer by way of another
    hears_me: float = NEVER_HEARD  # a beat that said so
    endpoint: Endpoint | None = None
    settled_for: int | None = None  # tenths of seconds, by its last Hello; None: it never said
    silent_since: float = NEVER_HEARD  # failed, left or listed and unheard
    back_at: float = NEVER_HEARD  # when it was alive again after we had given it up

    @property
    def alive(self) -> bool:
        """By membership: alive or merely suspected."""
        return self.record is not None and self.record.status <= Status.SUSPECT

    def gone(self, now: float, within: float) -> bool:
        """Whether we hold it for gone, or did until `within` seconds ago."""
        return self.record is not None and (not self.alive or now - self.back_at <= within)

    @property
    def listed_alive(self) -> bool:
        """The cluster says so."""
        return self.member is not None and self.member.alive

    def standing(self) -> Standing:
        """How it stands as an announcer."""
        record = self.record
        if record is None or (record.status > Status.SUSPECT and self.revived):
            tier = Tier.SETTLED if self.listed_alive else Tier.SILENT
            return Standing(self.name, tier, cluster_only=True, macs=record.macs if record else ())
        if record.status > Status.SUSPECT:
            return Standing(self.name, Tier.SILENT, macs=record.macs, prefixes=record.prefixes)
        tier = Tier.LEAVING if record.leaving else Tier.SETTLED if record.settled else Tier.NEW
        suspect = self.doubted or record.status is Status.SUSPECT
        return Standing(self.name, tier, suspect, macs=record.macs, prefixes=record.prefixes)

    def target(self, own_family: int, port: int) -> Endpoint | None:
        """Where to send: whence it was last heard, unless the cluster lists other addresses by now."""
        listed = self.member.addresses if self.member else ()
        if self.endpoint and (not listed or self.endpoint[0] in listed):
            return self.endpoint
        said = (self.record.address,) if self.record and self.record.address else ()
        for address in (*listed, *said):
            if family(address) == own_family or not own_family:
                port = (self.record.port if self.record else 0) or port
                return address, port
        return self.endpoint
