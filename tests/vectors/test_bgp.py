"""BGP messages of ours, read by scapy's independent decoder, and vectors written down by hand from the RFCs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import pytest
from scapy.contrib import bgp as scapy_bgp

from metallb_speaker.announcer.bgp.wire import update
from metallb_speaker.announcer.bgp.wire.attributes import PathAttributes
from metallb_speaker.announcer.bgp.wire.capabilities import Capabilities, GracefulRestart
from metallb_speaker.announcer.bgp.wire.errors import Code, NotificationError
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE, Framer, MessageType
from metallb_speaker.announcer.bgp.wire.messages import Notification, Open, RouteRefresh
from metallb_speaker.announcer.bgp.wire.prefix import Network, Prefix, prefix_of

FULL = Open(
    asn=4_200_000_001,
    hold_time=90,
    identifier=ipaddress.IPv4Address("192.0.2.1"),
    capabilities=Capabilities(
        families=("ipv4", "ipv6"),
        four_octet_as=4_200_000_001,
        route_refresh=True,
        enhanced_refresh=True,
        extended_message=True,
        extended_next_hop=True,
        graceful_restart=GracefulRestart(True, 15, ("ipv4",), ("ipv4", "ipv6"), notification=True),
    ),
)


def test_open_is_what_the_rfcs_draw() -> None:
    assert (
        FULL.encode().hex()
        == (
            "ff" * 16 + "004b" + "01"  # RFC 4271 4.1: marker, length 75, OPEN
            "04" + "5ba0" + "005a" + "c0000201"  # version, AS_TRANS, hold time, identifier
            "2e" + "022c"  # 46 octets of parameters: one of type 2 (RFC 5492) with 44 octets
            "0104" + "00010001"  # multiprotocol IPv4 unicast (RFC 4760)
            "0104" + "00020001"
            "0200"  # route refresh (RFC 2918)
            "0506" + "000100010002"  # IPv4 unicast with IPv6 next hop (RFC 8950)
            "0600"  # extended message (RFC 8654)
            "400a" + "c00f" + "00010180" + "00020100"  # graceful restart R, N, 15 s (RFC 4724, RFC 8538)
            "4104" + "fa56ea01"  # four-octet AS (RFC 6793)
            "4600"  # enhanced refresh (RFC 7313)
        )
    )


def test_open_round_trip() -> None:
    assert Open.decode(FULL.encode()[19:]) == FULL


def test_scapy_reads_our_open() -> None:
    seen = scapy_bgp.BGPHeader(FULL.encode())
    assert (seen.len, seen.type) == (75, 1)
    body = seen[scapy_bgp.BGPOpen]
    assert (body.version, body.my_as, body.hold_time, body.bgp_id) == (4, 23456, 90, "192.0.2.1")
    codes = [p.param_value.code for p in body.opt_params]
    assert codes[0] == 1


def test_we_read_scapys_open() -> None:
    raw = bytes(
        scapy_bgp.BGPHeader()
        / scapy_bgp.BGPOpen(
            my_as=64513,
            hold_time=30,
            bgp_id="192.0.2.9",
            opt_params=[
                scapy_bgp.BGPOptParam(param_value=scapy_bgp.BGPCapMultiprotocol(afi=2, safi=1)),
                scapy_bgp.BGPOptParam(param_value=scapy_bgp.BGPCapFourBytesASN(asn=70000)),
            ],
        )
    )
    ((kind, body),) = Framer().feed(raw)
    assert kind is MessageType.OPEN
    got = Open.decode(body)
    assert (got.asn, got.hold_time, str(got.identifier)) == (70000, 30, "192.0.2.9")
    assert got.capabilities.families == ("ipv6",)


ATTRIBUTES = PathAttributes(
    as_path=(64512, 64513), local_pref=100, communities=((65535, 65281), (64512, 7)), large_communities=((1, 2, 3),)
)


def octets(networks: Iterable[Network]) -> list[Prefix]:
    return [prefix_of(n) for n in networks]


def scapy_update(raw: bytes) -> scapy_bgp.BGPUpdate:
    scapy_bgp.bgp_module_conf.use_2_bytes_asn = False
    return scapy_bgp.BGPHeader(raw)[scapy_bgp.BGPUpdate]


def test_scapy_reads_our_ipv4_update() -> None:
    prefixes = [ipaddress.ip_network(p) for p in ("203.0.113.7/32", "198.51.100.0/24", "10.0.0.0/8")]
    (raw,) = update.announce("ipv4", octets(prefixes), ipaddress.ip_address("192.0.2.1"), ATTRIBUTES, four_octet=True)
    seen = scapy_update(raw)
    assert [str(p.prefix) for p in seen.nlri] == ["203.0.113.7/32", "198.51.100.0/24", "10.0.0.0/8"]
    values = {a.type_code: a.attribute for a in seen.path_attr}
    assert values[1].origin == 0
    assert values[2].segments[0].segment_value == [64512, 64513]
    assert values[3].next_hop == "192.0.2.1"
    assert values[5].local_pref == 100
    assert bytes(values[8]).hex() == "ffffff01" + "fc000007"


def test_scapy_reads_our_ipv6_update() -> None:
    prefixes = [ipaddress.ip_network("2001:db8:1::7/128"), ipaddress.ip_network("2001:db8:2::/48")]
    (raw,) = update.announce("ipv6", octets(prefixes), ipaddress.ip_address("2001:db8::1"), ATTRIBUTES, four_octet=True)
    seen = scapy_update(raw)
    reach = next(a.attribute for a in seen.path_attr if a.type_code == 14)
    assert (reach.afi, reach.safi) == (2, 1)
    assert [str(p.prefix) for p in reach.nlri] == ["2001:db8:1::7/128", "2001:db8:2::/48"]


@pytest.mark.parametrize(
    ("family", "text"), [("ipv4", ["203.0.113.0/25", "0.0.0.0/0"]), ("ipv6", ["2001:db8::/127", "::/0"])]
)
@pytest.mark.parametrize("four", [True, False])
def test_updates_round_trip(family: str, text: list[str], four: bool) -> None:
    prefixes = tuple(ipaddress.ip_network(t) for t in text)
    hop = ipaddress.ip_address("192.0.2.1" if family == "ipv4" else "2001:db8::1")
    (raw,) = update.announce(family, octets(prefixes), hop, ATTRIBUTES, four_octet=four)  # type: ignore[arg-type]
    got = update.decode(raw[19:], four_octet=four)
    assert (got.announced, got.next_hop, got.attributes) == (prefixes, hop, ATTRIBUTES)
    (raw,) = update.withdraw(family, octets(prefixes))  # type: ignore[arg-type]
    assert update.decode(raw[19:]).withdrawn == prefixes
    assert update.decode(update.end_of_rib(family)[19:]).end_of_rib == family  # type: ignore[arg-type]


def test_wide_as_numbers_survive_a_two_octet_peer() -> None:
    wide = PathAttributes(as_path=(4_200_000_001,))
    hop, prefix = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_network("203.0.113.0/24")
    (raw,) = update.announce("ipv4", octets([prefix]), hop, wide, four_octet=False)
    got = update.decode(raw[19:], four_octet=False)
    assert got.attributes == wide  # AS_TRANS in AS_PATH, the number itself in AS4_PATH (RFC 6793)


@pytest.mark.parametrize("maximum", [4096, 65535])
def test_messages_are_filled_and_never_longer_than_allowed(maximum: int) -> None:
    prefixes = [ipaddress.ip_network((0x0A000000 + i, 32)) for i in range(20_000)]
    hop = ipaddress.ip_address("192.0.2.1")
    raws = update.announce("ipv4", octets(prefixes), hop, ATTRIBUTES, four_octet=True, maximum=maximum)
    assert max(map(len, raws)) <= maximum
    assert all(len(r) > maximum - 6 for r in raws[:-1])
    assert [n for r in raws for n in update.decode(r[19:]).announced] == prefixes


def test_keepalive_and_refresh() -> None:
    assert KEEPALIVE.hex() == "ff" * 16 + "001304"
    assert RouteRefresh("ipv6").encode().hex() == "ff" * 16 + "001705" + "00020001"
    assert RouteRefresh.decode(bytes.fromhex("00190001")) == RouteRefresh(None)  # AFI 25: not announced here


@pytest.mark.parametrize(
    ("raw", "code", "subcode"),
    [
        ("00" * 19, 1, 1),
        ("ff" * 16 + "001207", 1, 3),
        ("ff" * 16 + "001204", 1, 2),
        ("ff" * 16 + "001404" + "00", 1, 2),
        ("ff" * 16 + "ffff04", 1, 2),
        ("ff" * 16 + "001001", 1, 2),
    ],
)
def test_bad_headers_get_the_rfcs_code(raw: str, code: int, subcode: int) -> None:
    with pytest.raises(NotificationError) as caught:
        Framer().feed(bytes.fromhex(raw))
    assert (caught.value.code, caught.value.subcode) == (code, subcode)


@pytest.mark.parametrize(
    ("body", "subcode"),
    [
        ("03fc00005ac000020100", 1),  # version 3
        ("04fc000001c000020100", 6),  # hold time 1
        ("04fc00005a0000000000", 3),  # identifier 0
        ("040000005ac000020100", 2),  # AS 0 (RFC 7607)
        ("04fc00005ac0000201020100", 4),  # parameter type 1: authentication, long gone
        ("04fc00005ac00002010102", 0),  # parameter cut short
        ("04fc00005ac000020100ff", 0),  # octets behind the end
        ("04fc00005ac0000201040202410001", 0),  # four-octet AS of the wrong length
    ],
)
def test_bad_opens_get_the_rfcs_code(body: str, subcode: int) -> None:
    with pytest.raises(NotificationError) as caught:
        Open.decode(bytes.fromhex(body))
    assert (caught.value.code, caught.value.subcode) == (Code.OPEN, subcode)


def test_notification_text_is_read() -> None:
    raw = Notification.shutdown("back at noon").encode()
    assert str(Notification.decode(raw[19:])) == "cease: administrative shutdown: back at noon"


@pytest.mark.parametrize("length", [255, 200, 4, 1])
def test_the_length_before_extended_parameters_is_ignored(length: int) -> None:
    """RFC 9072 section 2: the type behind it, 255, is what tells."""
    parameter = bytes.fromhex("020006010400010001")
    body = bytes.fromhex("04fc01005ac0000202") + bytes((length, 255)) + len(parameter).to_bytes(2) + parameter
    assert Open.decode(body).capabilities.families == ("ipv4",)


@pytest.mark.parametrize("missing", [1, 2])
def test_mp_reach_needs_origin_and_as_path(missing: int) -> None:
    """RFC 4760 section 3, RFC 4271 section 6.3."""
    present = {1: bytes.fromhex("40010100"), 2: bytes.fromhex("400200")}
    reach = bytes.fromhex("800e260002011020010db80000000000000000000000010080" + "20010db8" + "00" * 12)
    whole = b"".join(present.values()) + reach
    body = b"\0\0" + len(whole).to_bytes(2) + whole
    assert [str(n) for n in update.decode(body).announced] == ["2001:db8::/128"]
    rest = b"".join(value for kind, value in present.items() if kind != missing) + reach
    with pytest.raises(NotificationError) as found:
        update.decode(b"\0\0" + len(rest).to_bytes(2) + rest)
    assert (found.value.code, found.value.subcode, found.value.data) == (3, 3, bytes((missing,)))
