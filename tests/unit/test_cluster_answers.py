"""What is concluded from questions and answers: silences, two answerers, moves; and from attempts of a client."""

from __future__ import annotations

import socket
import struct

from tests.cluster.answers import Timeline
from tests.cluster.asker import _host_order
from tests.cluster.observe import Report

ONE, TWO, BOTH, NOBODY = {"node1"}, {"node2"}, {"node1", "node2"}, set[str]()


def line(*answered: set[str]) -> Timeline:
    """A question each second."""
    return Timeline([float(n) for n in range(len(answered))], [set(who) for who in answered])


def test_a_silence_lasts_from_the_first_question_without_an_answer_to_the_next_with_one() -> None:
    seen = line(ONE, NOBODY, NOBODY, TWO, NOBODY, TWO, TWO)
    assert [(s.start, s.end) for s in seen.silences] == [(1.0, 3.0), (4.0, 5.0)]
    assert seen.silence == 2.0
    assert line(ONE, ONE, NOBODY).silence == 0.0, "the answer to the last question may be on its way"
    assert line(ONE, NOBODY, NOBODY).silence == 0.0
    assert line(ONE, NOBODY, NOBODY, NOBODY).silence == 1.0, "one that does not end is counted as far as it is seen"
    assert line().silence == 0.0


def test_two_answerers_are_no_silence_and_no_owner() -> None:
    seen = line(ONE, BOTH, BOTH, TWO, TWO)
    assert seen.doubled == 2.0
    assert seen.silence == 0.0
    assert seen.owners == ["node1", "node2"]
    assert line(ONE, TWO, NOBODY, TWO, ONE).owners == ["node1", "node2", "node1"]
    assert seen.last == TWO


def test_two_that_take_turns_for_a_moment_are_one_hand_over_and_longer_ones_are_moves() -> None:
    def turns(*since: float) -> list[str]:
        return Timeline(list(since), [ONE, TWO, ONE, TWO]).owners

    assert turns(0, 1.0, 1.1, 1.2) == ["node1", "node2"]
    assert turns(0, 1.0, 1.1, 1.3) == ["node1", "node2", "node1", "node2"]
    assert turns(0, 1.0, 1.2, 1.3) == ["node1", "node2", "node1", "node2"]
    assert Timeline([0, 1.0, 1.1], [ONE, TWO, ONE]).owners == ["node1", "node2", "node1"], "it went and came back"


def test_a_part_of_the_time_is_judged_alone() -> None:
    seen = line(ONE, NOBODY, NOBODY, TWO, TWO)
    seen.announced = [(0.5, "node1"), (2.9, "node2")]
    part = seen.since(2.0, 3.0)
    assert part.asked == [2.0, 3.0]
    assert part.announced == [(2.9, "node2")]
    assert part.owners == ["node2"]


def test_the_icmpv6_filter_has_the_kernels_layout() -> None:
    """RFC 3542 section 3.2: the kernel gives back what was set; type 136 is bit 8 of the fifth word."""
    wanted = bytearray(b"\xff" * 32)
    wanted[17] &= ~1 & 0xFF
    words = struct.unpack("=8I", _host_order(wanted))
    assert words[4] == 0xFFFFFFFF ^ 1 << 8
    assert [w for n, w in enumerate(words) if n != 4] == [0xFFFFFFFF] * 7
    assert socket.IPPROTO_ICMPV6 == 58


def test_attempts_that_made_a_connection_are_told_from_those_that_did_not() -> None:
    page = "pod=a\n"
    report = Report(
        [
            (0, 0.01, page),
            (1, 1.5, page),
            (2, 2.9, "!timeout (port 7)"),
            (3, 3.1, "!broken: reset (port 8)"),
            (4, 4.01, page),
        ]
    )
    assert report.refused == {"!timeout": 1}
    assert (report.ports(broken=False), report.ports(broken=True)) == ({7: 2}, {8: 3})
    assert report.broken == {"!broken: reset": 1}
    assert report.longest == 2.0
    assert report.impatient(0.1).longest == 3.0, "what took too long has failed for a client that does not wait"
    assert report.impatient(0.1).good == [page, page]
