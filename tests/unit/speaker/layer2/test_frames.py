"""The table of frames, put to the machine in memory."""

from __future__ import annotations

import ipaddress

import pytest

from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.responder import Heard, Port
from tests.integration.layer2_table import ARP_ROWS, NDP_ROWS, OWNED4, OWNED6, Row, Wire, judge_arp, judge_ndp

WIRE = Wire(client="02:00:00:00:00:01", ip4="10.9.0.2", ip6="fd09::2", node="02:00:00:00:00:02")
IP4, IP6 = ipaddress.ip_address(OWNED4).packed, ipaddress.ip_address(OWNED6).packed


@pytest.fixture
def heard() -> list[Heard]:
    return []


@pytest.fixture
def port(heard: list[Heard]) -> Port:
    port = Port(eth.mac_bytes(WIRE.node), heard.append)
    for ip, address in ((IP4, OWNED4), (IP6, OWNED6)):
        port.add(ip, address).active = True
    return port


@pytest.mark.parametrize("row", ARP_ROWS, ids=lambda row: row.name)
def test_arp(port: Port, row: Row) -> None:
    answer = port.answer(row.frame(WIRE)) if row.reason != "tagged" else port.answer_arp(row.frame(WIRE))
    if row.answered:
        assert answer is not None
        judge_arp(row, WIRE, answer)
        assert (port.arp[IP4].received, port.arp[IP4].sent) == (1, 1)
        assert not port.drops
    else:
        assert answer is None
        assert dict(port.drops) == {row.reason: 1}
        assert (port.arp[IP4].received, port.arp[IP4].sent) == (0, 0)


@pytest.mark.parametrize("row", NDP_ROWS, ids=lambda row: row.name)
def test_ndp(port: Port, row: Row) -> None:
    answer = port.answer_ndp(row.frame(WIRE))
    if row.answered:
        assert answer is not None
        judge_ndp(row, WIRE, answer)
        assert (port.ndp[IP6].received, port.ndp[IP6].sent) == (1, 1)
        assert not port.drops
    else:
        assert answer is None
        assert dict(port.drops) == {row.reason: 1}
        assert (port.ndp[IP6].received, port.ndp[IP6].sent) == (0, 0)


@pytest.mark.parametrize(
    "row", [row for row in ARP_ROWS + NDP_ROWS if row.reason == "foreignClaim"], ids=lambda r: r.name
)
def test_a_foreign_claim_is_told(port: Port, heard: list[Heard], row: Row) -> None:
    port.answer(row.frame(WIRE))
    assert heard == [Heard(IP6 if row in NDP_ROWS else IP4, eth.mac_bytes(WIRE.client), gratuitous=True)]


@pytest.mark.parametrize("row", [row for row in ARP_ROWS + NDP_ROWS if row.answered], ids=lambda r: r.name)
def test_an_address_under_check_is_not_answered_for(port: Port, row: Row) -> None:
    port.arp[IP4].active = port.ndp[IP6].active = False
    assert port.answer(row.frame(WIRE)) is None
    assert dict(port.drops) == {eth.CHECKING: 1}


def test_withdrawal_silences_at_once(port: Port) -> None:
    for row in (ARP_ROWS[0], NDP_ROWS[0]):
        assert port.answer(row.frame(WIRE)) is not None
    port.remove(IP4)
    port.remove(IP6)
    for row in (ARP_ROWS[0], NDP_ROWS[0]):
        assert port.answer(row.frame(WIRE)) is None
    assert dict(port.drops) == {eth.NOT_OWNED: 2}


def test_an_answer_that_the_kernel_refused_is_not_counted_as_sent(port: Port) -> None:
    for row, answer in ((ARP_ROWS[0], port.arp[IP4]), (NDP_ROWS[0], port.ndp[IP6])):
        reply = port.answer(row.frame(WIRE))
        assert reply is not None
        port.unsent(reply)
        assert (answer.received, answer.sent) == (1, 0)
    assert dict(port.drops) == {eth.SEND_FAILED: 2}


def test_every_reason_is_named() -> None:
    """A reason that a row gives is one that metrics know."""
    assert {row.reason for row in ARP_ROWS + NDP_ROWS if row.reason} <= set(eth.REASONS)
