"""What one neighbour's machines need to know, and what two OPENs agree on."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from .wire.capabilities import Capabilities, Family, GracefulRestart, encode_families
from .wire.errors import BAD_IDENTIFIER, BAD_PEER_AS, UNSUPPORTED_CAPABILITY, Code, NotificationError
from .wire.framing import MAX_EXTENDED, MAX_MESSAGE
from .wire.messages import Open

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Settings:
    """A neighbour as configured. Times in seconds."""

    name: str
    my_asn: int
    peer_asn: int | Literal["internal", "external"]
    address: Address
    identifier: ipaddress.IPv4Address
    port: int = 179
    hold_time: int = 90
    keepalive_time: int = 30
    connect_time: int = 0  # between attempts; 0: exponential from 1 to 60
    families: tuple[Family, ...] = ("ipv4", "ipv6")
    graceful_restart: int = 0  # restart time offered; 0: not offered
    restarting: bool = False  # first session since the process started (R bit, RFC 4724 section 3)
    plain: bool = False  # without capabilities: the peer has refused their parameter (RFC 5492 section 3)

    def capabilities(self) -> Capabilities:
        """What is offered in OPEN."""
        if self.plain:
            return Capabilities()
        graceful = None
        if self.graceful_restart:
            # The kernel forwards, whether this process runs or not: state is preserved. After a reboot it is not, but
            # that takes longer than the restart time (15 s at most), and by then the peer keeps nothing any more.
            graceful = GracefulRestart(
                self.restarting, self.graceful_restart, self.families, self.families, notification=True
            )
        return Capabilities(
            families=self.families,
            four_octet_as=self.my_asn,
            route_refresh=True,
            enhanced_refresh=True,
            extended_message=True,
            extended_next_hop="ipv4" in self.families,
            graceful_restart=graceful,
        )

    def open(self) -> Open:
        return Open(self.my_asn, self.hold_time, self.identifier, self.capabilities())

    def check(self, theirs: Open) -> None:
        """Whether this is the neighbour that is meant. Raises NotificationError (RFC 4271 section 6.2)."""
        wrong = {
            "internal": theirs.asn != self.my_asn,
            "external": theirs.asn == self.my_asn,
        }.get(str(self.peer_asn), theirs.asn != self.peer_asn)
        if wrong:
            raise NotificationError(Code.OPEN, BAD_PEER_AS)
        if theirs.asn == self.my_asn and theirs.identifier == self.identifier:  # RFC 6286 section 2.2
            raise NotificationError(Code.OPEN, BAD_IDENTIFIER)
        if not self.common(theirs):  # RFC 5492 section 5: the data are the capabilities that are missed
            wanted = " or ".join({"ipv4": "IPv4", "ipv6": "IPv6"}[f] for f in self.families)
            raise NotificationError(
                Code.OPEN, UNSUPPORTED_CAPABILITY, encode_families(self.families), f"the peer does not offer {wanted}"
            )

    def common(self, theirs: Open) -> tuple[Family, ...]:
        """The families that both sides have."""
        ours: tuple[Family, ...] = ("ipv4",) if self.plain else self.families
        return tuple(f for f in ours if f in theirs.capabilities.offered())


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What holds on a session, from both OPENs. Times in seconds."""

    hold_time: int  # 0: neither hold timer nor keepalives
    keepalive_time: float
    families: tuple[Family, ...]
    four_octet: bool
    internal: bool
    extended_next_hop: bool
    maximum: int  # octets that a message of ours may have
    graceful_restart: bool
    peer_notification: bool  # RFC 8538: a NOTIFICATION does not end graceful restart
    enhanced_refresh: bool

    @classmethod
    def of(cls, settings: Settings, theirs: Open) -> Negotiated:
        c = Capabilities() if settings.plain else theirs.capabilities
        hold = min(settings.hold_time, theirs.hold_time)
        gr = c.graceful_restart
        return cls(
            hold_time=hold,
            keepalive_time=min(settings.keepalive_time, hold / 3) if hold else 0,
            families=settings.common(theirs),
            four_octet=bool(c.four_octet_as),
            internal=theirs.asn == settings.my_asn,
            extended_next_hop=c.extended_next_hop and "ipv4" in settings.families,
            maximum=MAX_EXTENDED if c.extended_message else MAX_MESSAGE,
            graceful_restart=bool(settings.graceful_restart) and gr is not None,
            peer_notification=gr is not None and gr.notification,
            enhanced_refresh=c.enhanced_refresh,
        )
