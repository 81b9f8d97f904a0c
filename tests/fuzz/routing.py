"""Coverage-guided fuzzing of everything that a BGP or BFD peer, or the kernel, can send.

The first octet chooses the target. Any octets must give a value or the error that the target names;
anything else is a crash, and libFuzzer keeps the input that led to it. `make fuzz` runs it for MINUTES; any option of
libFuzzer goes, with what `make fuzz` has installed::

    PYTHONPATH=.venv/fuzz .venv/bin/python tests/fuzz/routing.py -max_total_time=600 -max_len=66000 [CORPUS]
"""

from __future__ import annotations

import importlib
import ipaddress
import random
import sys
from collections.abc import Callable
from typing import Any

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["metallb_speaker"]):
    from metallb_speaker.announcer.bfd.session import Profile, Session
    from metallb_speaker.announcer.bfd.wire import DecodeError, Packet
    from metallb_speaker.announcer.bgp.connection import Connection
    from metallb_speaker.announcer.bgp.neighbor import Dial, Neighbor
    from metallb_speaker.announcer.bgp.settings import Settings
    from metallb_speaker.announcer.bgp.wire import update
    from metallb_speaker.announcer.bgp.wire.capabilities import Capabilities, assemble, decode_tlvs
    from metallb_speaker.announcer.bgp.wire.errors import Code, NotificationError
    from metallb_speaker.announcer.bgp.wire.framing import (
        HEADER,
        KEEPALIVE,
        MAX_EXTENDED,
        Framer,
        MessageType,
        frame,
    )
    from metallb_speaker.announcer.bgp.wire.messages import Notification, Open, RouteRefresh
    from metallb_speaker.announcer.edge import addresses

OPEN = Open(64513, 30, ipaddress.IPv4Address("192.0.2.2"), Capabilities(families=("ipv4",), four_octet_as=64513))
CODES = {int(c) for c in Code}


def connection(data: bytes, *, greeted: bool) -> None:
    """A whole connection, cut in two; what it queues must itself be well framed."""
    settings = Settings(
        "peer", 64512, 64513, ipaddress.ip_address("192.0.2.2"), ipaddress.IPv4Address("192.0.2.1"), graceful_restart=9
    )
    machine = Connection(settings, 0.0, incoming=False, rng=random.Random(1))
    if greeted:
        machine.receive(OPEN.encode() + KEEPALIVE, 0.0)
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        machine.receive(part, 0.1)
    Framer().feed(machine.drain())
    closed = sum(type(e).__name__ == "Closed" for e in machine.events())
    assert closed == machine.over


def neighbor(data: bytes) -> None:
    """A neighbour with a session, and a second call beside it: the octets in turn to both, in parts of many lengths."""
    settings = Settings(
        "peer", 64512, 64513, ipaddress.ip_address("192.0.2.2"), ipaddress.IPv4Address("192.0.2.1"), graceful_restart=9
    )
    machine = Neighbor(settings, random.Random(1))
    machine.start(0.0)
    (dial,) = machine.actions()
    assert isinstance(dial, Dial)
    hops = {"ipv4": ipaddress.ip_address("192.0.2.1"), "ipv6": None}
    machine.dialed(dial.token, hops, 0.0)
    machine.receive(dial.token, OPEN.encode() + KEEPALIVE, 0.0)
    second = machine.accepted(hops, 0.1)
    at, turn = 0, 0
    while at < len(data):
        length = 1 + data[at] * 8
        turn += 1
        machine.receive(dial.token if turn % 2 or second is None else second, data[at + 1 : at + 1 + length], 0.2)
        at += 1 + length
    machine.actions()
    machine.events()
    assert not any(connection.over for connection in machine._connections.values())
    assert machine.deadline() < 400


def session(data: bytes) -> None:
    """A BFD session fed with packets of 24 octets."""
    machine = Session(Profile(), 11, 0.0, random.Random(1))
    for number in range(len(data) // 24):
        now = number * 0.2
        if now >= machine.deadline():
            machine.on_deadline(now)
        try:
            machine.receive(Packet.decode(data[number * 24 : number * 24 + 24]), now)
        except DecodeError:
            continue
        for packet in machine.pending():
            Packet.decode(packet)


TARGETS: list[Callable[[bytes], object]] = [
    Open.decode,
    update.decode,
    lambda data: update.decode(data, four_octet=False),
    Notification.decode,
    RouteRefresh.decode,
    lambda data: assemble(decode_tlvs(data)),
    lambda data: Framer().feed(data),
    lambda data: connection(data, greeted=False),
    lambda data: connection(data, greeted=True),
    neighbor,
    Packet.decode,
    session,
    addresses.parse,
    lambda data: connection(frame(MessageType.ROUTE_REFRESH, data[: MAX_EXTENDED - HEADER]), greeted=True),
]


def one(data: bytes) -> None:
    if not data:
        return
    code, reason = 0, "none"
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except NotificationError as error:
        code = error.code
    except DecodeError as error:
        reason = str(error)
    assert code in CODES | {0}
    assert reason


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
