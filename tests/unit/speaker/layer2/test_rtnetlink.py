"""Dumps of the kernel's tables, made by hand: what is whole, what is torn, what is no table."""

from __future__ import annotations

import errno
import struct

import pytest

from metallb_speaker.announcer.layer2 import rtnetlink
from metallb_speaker.announcer.layer2.interfaces import Link

MAC = bytes.fromhex("020000000001")


def attribute(kind: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + padded


def message(kind: int, sequence: int, body: bytes, flags: int = 2) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def link(index: int, name: str, *more: bytes) -> bytes:
    body = struct.pack("=BxHiII", 0, 1, index, 0x1003, 0)
    return body + attribute(3, name.encode() + b"\0") + attribute(1, MAC) + b"".join(more)


def done(sequence: int, code: int = 0) -> bytes:
    return message(rtnetlink.NLMSG_DONE, sequence, struct.pack("=i", -code))


def failed(sequence: int, code: int) -> bytes:
    return message(rtnetlink.NLMSG_ERROR, sequence, struct.pack("=i", -code) + bytes(16))


class Round:
    """One round of dumps; each is answered by `answers[number]`, else by an empty table."""

    def __init__(self, answers: dict[int, list[bytes]], *, strict: bool = True) -> None:
        self.dump = rtnetlink.Dump(100, strict=strict)
        self.requests: list[bytes] = []
        while (request := self.dump.request()) is not None:
            self.requests.append(request)
            sequence = struct.unpack_from("=I", request, 8)[0]
            for part in answers.get(len(self.requests), []):
                self.dump.receive(part)
            self.dump.receive(done(sequence))


def test_a_round_asks_for_links_addresses_and_routes() -> None:
    kinds = [struct.unpack_from("=H", request, 4)[0] for request in Round({}).requests]
    assert kinds == [rtnetlink.RTM_GETLINK] + 2 * [rtnetlink.RTM_GETADDR] + 10 * [rtnetlink.RTM_GETROUTE]
    kinds = [struct.unpack_from("=H", request, 4)[0] for request in Round({}, strict=False).requests]
    assert kinds == [rtnetlink.RTM_GETLINK] + 2 * [rtnetlink.RTM_GETADDR] + 2 * [rtnetlink.RTM_GETROUTE]


def test_a_link() -> None:
    info = attribute(18, attribute(1, b"bridge\0") + attribute(4, b"bond\0"))
    found = Round({1: [message(16, 101, link(7, "br0", attribute(10, struct.pack("=I", 9)), info))]}).dump
    assert found.snapshot().links == (Link(7, "br0", 0x1003, 1, MAC, 9, "bridge", "bond"),)
    assert not found.interrupted


def test_messages_of_another_round_are_not_taken() -> None:
    found = Round({1: [message(16, 55, link(7, "old")), message(16, 101, link(8, "new"))]}).dump
    assert [one.name for one in found.snapshot().links] == ["new"]


def test_a_truncated_datagram_gives_what_is_whole() -> None:
    whole = message(16, 101, link(7, "eth0")) + message(16, 101, link(8, "eth1"))
    found = Round({1: [whole[:-3]]}).dump
    assert [one.name for one in found.snapshot().links] == ["eth0"]


def test_a_dump_that_changed_meanwhile_is_torn() -> None:
    found = Round({1: [message(16, 101, link(7, "eth0"), flags=2 | rtnetlink.NLM_F_DUMP_INTR)]}).dump
    assert found.interrupted


@pytest.mark.parametrize("code", [errno.EBUSY, errno.ENOMEM, errno.EINTR])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_an_error_that_passes_makes_the_picture_worthless(code: int, number: int) -> None:
    assert Round({number: [failed(100 + number, code)]}).dump.interrupted
    assert Round({number: [done(100 + number, code)]}).dump.interrupted


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL])
@pytest.mark.parametrize("number", [3, 9])
def test_a_kernel_without_a_table_has_nothing_in_it(code: int, number: int) -> None:
    found = Round({1: [message(16, 101, link(7, "eth0"))], number: [failed(100 + number, code)]}).dump
    assert not found.interrupted
    assert [one.name for one in found.snapshot().links] == ["eth0"]


def test_without_interfaces_there_is_no_picture() -> None:
    assert Round({1: [failed(101, errno.EOPNOTSUPP)]}).dump.interrupted


def test_an_overrun_is_torn() -> None:
    assert Round({1: [message(rtnetlink.NLMSG_OVERRUN, 101, b"")]}).dump.interrupted
