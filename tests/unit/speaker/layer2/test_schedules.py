"""Timers, announcements and the duplicate check, each alone."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_speaker.announcer.layer2.duplicate import (
    ANSWERING,
    CONFLICT_EVERY,
    GRACE,
    SETTLED_EVERY,
    TRANSITIONS,
    Duplicates,
    Input,
    State,
)
from metallb_speaker.announcer.layer2.gratuitous import SPACED, Gratuitous
from metallb_speaker.announcer.layer2.timers import MANY, PRUNED, Timers

FOREIGN = bytes.fromhex("020000000099")


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 50))), max_size=300))
def test_timers_are_a_sorted_map(steps: list[tuple[int, int | None]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, tuple[int, int]] = {}
    for serial, (key, due) in enumerate(steps):
        if due is None:
            timers.cancel(key)
            model.pop(key, None)
        else:
            timers.set(key, due)
            model[key] = (due, serial)
        assert len(timers) == len(model)
        assert timers.deadline() == min((due for due, _ in model.values()), default=math.inf)
    order = []
    while (key := timers.pop(25)) is not None:
        order.append(key)
    assert order == [key for key, (due, _) in sorted(model.items(), key=lambda item: item[1]) if due <= 25]


def test_thousands_that_were_cancelled_are_thrown_away_some_at_a_time() -> None:
    timers: Timers[int] = Timers()
    for key in range(5000):
        timers.set(key, 1.0 if key < 4900 else 2.0)
    for key in range(4900):
        timers.cancel(key)
    size = len(timers._heap)
    found, calls = [], 0
    while timers.deadline() <= 2.0:
        if (key := timers.pop(2.0)) is not None:
            found.append(key)
        calls += 1
        assert size - len(timers._heap) <= 2 * PRUNED + 1
        size = len(timers._heap)
    assert found == list(range(4900, 5000))
    assert calls < 300
    assert timers.deadline() == math.inf


def test_deadlines_that_move_for_ever_fill_no_memory() -> None:
    timers: Timers[int] = Timers()
    for number in range(3 * MANY):
        timers.set(number % 100, 1000.0 + number)
    assert len(timers._heap) <= MANY + 1
    found = []
    while timers.deadline() < math.inf:
        if (key := timers.pop(1e9)) is not None:
            found.append(key)
    assert found == list(range(100))


def test_a_late_loop_does_not_catch_up_in_a_burst() -> None:
    gratuitous: Gratuitous[str] = Gratuitous()
    gratuitous.start("a", 0.0)
    assert gratuitous.due(0.0, 10) == ["a"]
    assert gratuitous.due(8.0, 10) == ["a"]
    assert gratuitous.due(8.0, 10) == []
    assert 8.0 < gratuitous.deadline() <= 8.0 + SPACED[-1]


def test_repeats_of_many_are_spread() -> None:
    gratuitous: Gratuitous[int] = Gratuitous()
    for key in range(500):
        gratuitous.start(key, 0.0)
    now = 0.0
    while now <= SPACED[-1]:
        gratuitous.due(now, 1000)
        now = gratuitous.deadline()
    busiest = 0
    for _ in range(20):
        busiest = max(busiest, len(gratuitous.due(now + 0.5, 1000)))
        now += 1.0
    assert busiest < 60


def test_the_limit_is_kept_and_nothing_is_lost() -> None:
    gratuitous: Gratuitous[int] = Gratuitous()
    for key in range(25):
        gratuitous.start(key, 0.0)
    batches = [gratuitous.due(0.0, 10) for _ in range(4)]
    assert [len(batch) for batch in batches] == [10, 10, 5, 0]
    assert sorted(itertools.chain(*batches)) == list(range(25))


def test_every_state_has_its_inputs() -> None:
    """The table is complete: a foreign answer is understood in each state, silence in each that waits for it."""
    for state in State:
        assert (state, Input.FOREIGN) in TRANSITIONS
        waits = Input.GRACE_OVER if state is State.CHECKING else Input.QUIET
        assert state is State.SETTLED or (state, waits) in TRANSITIONS
    assert State.WITHHELD not in ANSWERING
    assert State.CHECKING not in ANSWERING


def run(duplicates: Duplicates[str], until: float) -> list[tuple[float, str]]:
    """(time, "probe" or the new state) of all that happens."""
    out: list[tuple[float, str]] = []
    while (at := duplicates.deadline()) <= until:
        for step in duplicates.due(at, 9):
            out.append((round(at, 6), step.after.value if step.after else "probe"))
    return out


def test_three_probes_then_settled() -> None:
    """PROBE_NUM is 3 (RFC 5227 section 1.1); the address is in use after the first few milliseconds."""
    duplicates: Duplicates[str] = Duplicates()
    assert not duplicates.start("a", 0.0, check=True, strict=True)
    first = GRACE + 1.0
    assert run(duplicates, 100) == [
        (0.0, "probe"),
        (GRACE, "trusting"),
        (first, "probe"),
        (first + 1, "probe"),
        (first + 2, "settled"),
    ]
    assert run(duplicates, 2 * SETTLED_EVERY + 10) == [
        (first + 2 + SETTLED_EVERY, "probe"),
        (first + 2 + 2 * SETTLED_EVERY, "probe"),
    ]


@pytest.mark.parametrize("when", [0.0005, 0.5, 2.5])
def test_a_host_that_was_there_before_is_respected(when: float) -> None:
    duplicates: Duplicates[str] = Duplicates()
    duplicates.start("a", 0.0, check=True, strict=True)
    run(duplicates, when)
    step = duplicates.foreign("a", FOREIGN, when)
    assert step is not None
    assert step.after is State.WITHHELD
    assert duplicates.foreign("a", FOREIGN, when + 0.001) is None  # told once
    seen = run(duplicates, when + 9.5)
    assert [what for _, what in seen] == ["probe", "probe", "trusting"]
    assert seen[0][0] == pytest.approx(when + CONFLICT_EVERY)


def test_another_host_is_told_again() -> None:
    duplicates: Duplicates[str] = Duplicates()
    duplicates.start("a", 0.0, check=True, strict=True)
    duplicates.foreign("a", FOREIGN, 0.0)
    assert duplicates.foreign("a", FOREIGN[:-1] + b"\x02", 1.0) is None  # forged ones must not fill our log
    step = duplicates.foreign("a", FOREIGN[:-1] + b"\x01", 10.1)
    assert step is not None
    assert step.mac.endswith(b"\x01")
    assert duplicates.conflicts() == {"a": FOREIGN[:-1] + b"\x01"}


def test_defence_is_rare() -> None:
    duplicates: Duplicates[str] = Duplicates()
    duplicates.start("a", 0.0, check=True, strict=True)
    run(duplicates, 10)
    steps = [duplicates.foreign("a", FOREIGN, 10 + tenth / 10) for tenth in range(250)]
    assert [bool(step and step.announce) for step in steps].count(True) == 3


def test_nothing_is_known_of_an_address_that_was_stopped() -> None:
    duplicates: Duplicates[str] = Duplicates()
    duplicates.start("a", 0.0, check=True, strict=True)
    duplicates.stop("a")
    assert duplicates.state("a") is None
    assert duplicates.foreign("a", FOREIGN, 1.0) is None
    assert duplicates.deadline() == math.inf
