"""Membership at every size in virtual time, as tables: detection, load, lame links, stopped processes."""

from __future__ import annotations

import random

import pytest

from metallb_speaker.announcer.membership.events import Tier
from tests.unit.speaker.simulator import Cluster
from tests.unit.speaker.steady import DETECTION


def table(rows: list[tuple[object, ...]], *head: str) -> None:
    """For people, and for Markdown."""
    print("\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def joined(size: int, seed: int, loss: float) -> Cluster:
    """A large cluster that has been up for long, watched by each other for two seconds."""
    cluster = Cluster(size, seed=seed, owning=False, loss=loss)
    cluster.start_joined()
    cluster.run(2)
    assert cluster.agreed()
    assert cluster.failures() == []
    cluster.forget_history()
    return cluster


def test_what_is_put_in_place_is_what_joining_leaves() -> None:
    """The short cut for large clusters against the real thing: the same load and the same detection."""
    rates, times = [], []
    for short in (False, True):
        cluster = Cluster(12, seed=4, owning=False)
        if short:
            cluster.start_joined()
        else:
            cluster.start()
        cluster.run(13)
        assert cluster.agreed()
        assert all(s.tier is Tier.SETTLED for n in cluster.nodes.values() for s in n.membership.view().values())
        cluster.forget_history()
        cluster.run(10)
        rates.append(sum(node.sent for node in cluster.nodes.values()) / 120)
        begin = cluster.now
        cluster.power_off("node-3")
        cluster.run(2)
        assert len(cluster.failures()) == 11
        times.append(max(when for when, _, _ in cluster.failures()) - begin)
        assert sum(sum(n.membership.drops().values()) for n in cluster.nodes.values()) <= (150 if not short else 0)
    assert abs(rates[0] - rates[1]) < 1
    assert max(times) <= DETECTION


@pytest.mark.accept
@pytest.mark.parametrize(
    ("size", "crashes", "losses"),
    [
        (3, (1, 2), (0.0, 0.05, 0.1, 0.2)),
        (10, (1, 2, 5, 9), (0.0, 0.05, 0.1, 0.2)),
        (100, (1, 10, 50), (0.0, 0.1, 0.2)),
        (500, (1, 50), (0.1,)),
        (500, (1,), (0.2,)),
    ],
)
def test_detection_at_every_size(size: int, crashes: tuple[int, ...], losses: tuple[float, ...]) -> None:
    """Any number crashes at once, at any loss: when the first and when all survivors know; nobody is accused."""
    rows: list[tuple[object, ...]] = []
    for loss in losses:
        for crashed in crashes:
            cluster = joined(size, size + crashed, loss)
            victims = random.Random(size).sample(list(cluster.nodes), crashed)
            begin = cluster.now
            cluster.power_off(*victims)
            cluster.run(2.5 if crashed <= size // 10 or size > 100 else 6)
            noticed = cluster.failures()
            wrong = sum(whom not in victims for _, _, whom in noticed)
            first = min(when for when, _, _ in noticed) - begin
            worst = max(when for when, _, _ in noticed) - begin
            rows.append((size, crashed, f"{loss:.0%}", f"{first:.2f}", f"{worst:.2f}", wrong))
            assert cluster.agreed()
            assert wrong == 0
            if crashed == 1:
                assert worst <= DETECTION
            elif crashed <= size // 10:
                assert worst <= 1.6
    table(rows, "members", "crashed", "loss", "first knows, s", "all know, s", "false alarms")


@pytest.mark.accept
@pytest.mark.parametrize(("size", "seconds"), [(3, 120), (10, 60), (100, 10), (500, 3)])
def test_quiet_running_at_every_size(size: int, seconds: float) -> None:
    """No false alarm at any loss, and the packets of a member are flat in the number of members."""
    rows: list[tuple[object, ...]] = []
    for loss in (0.0, 0.05, 0.1, 0.2) if size <= 10 else (0.0, 0.1) if size <= 100 else (0.1,):
        cluster = joined(size, size, loss)
        cluster.run(seconds)
        sent = [node.sent / seconds for node in cluster.nodes.values()]
        octets = sum(node.sent_bytes for node in cluster.nodes.values()) / size / seconds
        wrong = len(cluster.failures())
        mean = sum(sent) / size
        rows.append(
            (size, f"{loss:.0%}", seconds, wrong, f"{mean:.1f}", f"{max(sent):.1f}", f"{octets * 8 / 1000:.1f}")
        )
        assert wrong == 0
        assert mean <= {0.0: 37, 0.05: 40, 0.1: 44, 0.2: 56}[loss]
    table(rows, "members", "loss", "seconds", "false alarms", "packets/s, mean", "most", "kbit/s")


@pytest.mark.accept
@pytest.mark.parametrize("size", [3, 10, 100, 500])
def test_lame_links_and_stopped_processes_at_every_size(size: int) -> None:
    """Links that lose one direction are no failures; a stopped process is one, and is alive again when it goes on."""
    rng, rows = random.Random(size), []
    names = [f"node-{i}" for i in range(size)]
    cluster = joined(size, size, 0.05)
    cluster.deaf = {(a, b) for a, b in (rng.sample(names, 2) for _ in range(max(1, size // 5)))}
    cluster.run(20 if size <= 10 else 5 if size <= 100 else 3)
    rows.append((size, f"{len(cluster.deaf)} one-way links", "-", len(cluster.failures())))
    assert cluster.failures() == []
    cluster.deaf = set()
    for stopped in (0.2, 1.0, 5.0) if size <= 100 else (0.2, 1.0):
        cluster.forget_history()
        victim, begin = rng.choice(names), cluster.now
        cluster.pause(victim)
        cluster.run(stopped)
        cluster.resume(victim)
        cluster.run(2)
        noticed = cluster.failures()
        wrong = sum(whom != victim for _, _, whom in noticed)
        worst = max((when for when, _, _ in noticed), default=begin) - begin
        rows.append((size, f"stopped for {stopped} s", f"{worst:.2f}", wrong))
        assert wrong == 0
        assert bool(noticed) == (stopped >= 1.0)
        assert cluster.agreed()
    table(rows, "members", "what", "all know, s", "false alarms")
