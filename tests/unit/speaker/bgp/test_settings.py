"""What two OPENs agree on, and what a neighbour is made of."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from metallb_speaker.announcer.bgp.settings import Negotiated, Settings
from metallb_speaker.announcer.bgp.speaker import settings_of
from metallb_speaker.announcer.bgp.wire.capabilities import Capabilities, GracefulRestart
from metallb_speaker.announcer.bgp.wire.messages import Open

from .pair import settings
from .test_speaker import PEER

OWN = ipaddress.IPv4Address("192.0.2.1")
THEIRS = Open(
    64513,
    30,
    ipaddress.IPv4Address("192.0.2.2"),
    Capabilities(
        families=("ipv4", "ipv6"),
        four_octet_as=64513,
        enhanced_refresh=True,
        extended_message=True,
        extended_next_hop=True,
        graceful_restart=GracefulRestart(False, 120, (), notification=True),
    ),
)


def agreed(changed: dict[str, Any] | None = None, ours: Settings | None = None, **opened: Any) -> Negotiated:
    theirs = replace(THEIRS, capabilities=replace(THEIRS.capabilities, **(changed or {})), **opened)
    return Negotiated.of(ours or settings(graceful_restart=15), theirs)


def test_everything_that_both_can() -> None:
    assert agreed() == Negotiated(
        hold_time=30,
        keepalive_time=10,
        families=("ipv4", "ipv6"),
        four_octet=True,
        internal=False,
        extended_next_hop=True,
        maximum=65535,
        graceful_restart=True,
        peer_notification=True,
        enhanced_refresh=True,
    )


def test_nothing_that_the_peer_cannot() -> None:
    bare = Negotiated.of(settings(graceful_restart=15), Open(64513, 90, THEIRS.identifier, Capabilities()))
    assert bare == Negotiated(
        hold_time=90,
        keepalive_time=30,
        families=("ipv4",),  # RFC 4760 section 8
        four_octet=False,
        internal=False,
        extended_next_hop=False,
        maximum=4096,
        graceful_restart=False,
        peer_notification=False,
        enhanced_refresh=False,
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        (("ipv4", "ipv6"), ("ipv6",), ("ipv6",)),
        (("ipv6",), ("ipv4", "ipv6"), ("ipv6",)),
        (("ipv6",), ("ipv4",), ()),
        (("ipv6",), (), ()),
    ],
)
def test_families_that_both_have(ours: Any, theirs: Any, both: Any) -> None:
    found = agreed({"families": theirs}, settings(families=ours))
    assert found.families == both
    assert found.extended_next_hop is ("ipv4" in ours)


def test_graceful_restart_only_where_it_is_configured() -> None:
    assert not agreed(ours=settings()).graceful_restart
    assert not agreed({"graceful_restart": None}).graceful_restart


@pytest.mark.parametrize(("hold", "keepalive", "wanted"), [(0, 10, 0), (90, 10, 10), (9, 10, 3), (90, 90, 10)])
def test_keepalives_are_sent_often_enough_for_the_lower_hold_time(hold: int, keepalive: int, wanted: int) -> None:
    assert agreed(ours=settings(hold_time=hold, keepalive_time=keepalive)).keepalive_time == wanted


def test_a_neighbour_is_what_the_configuration_says() -> None:
    peer = replace(
        PEER,
        local_asn=65010,
        peer_asn="external",
        router_id="192.0.2.77",
        port=1179,
        connect_time=7,
        address_families=("ipv6",),
        graceful_restart=12,
    )
    assert settings_of(peer, OWN, restarting=True) == Settings(
        name="tor",
        my_asn=65010,
        peer_asn="external",
        address=ipaddress.ip_address("192.0.2.2"),
        identifier=ipaddress.IPv4Address("192.0.2.77"),
        port=1179,
        hold_time=90,
        keepalive_time=30,
        connect_time=7,
        families=("ipv6",),
        graceful_restart=12,
        restarting=True,
    )
    plain = settings_of(PEER, OWN, restarting=False)
    assert (plain.my_asn, plain.identifier, plain.families) == (64512, OWN, ("ipv4", "ipv6"))
