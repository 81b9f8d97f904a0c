"""Membership in virtual time: detection, false alarms and load, by size and loss. Not packets of a real network.

``python -m tests.bench membership [--sizes 3,10,100] [--minutes 1] [--seed 1]``; 500 members take some minutes.
CPU is that of the whole simulation, per member and virtual second: an upper bound for one speaker on this machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterable

from tests.unit.speaker.simulator import Cluster, group

ADDRESSES = [f"192.0.2.{n}" for n in range(1, 31)]
#: The targets of what is printed: a power-off of one member, and any number of false alarms, at default timings.
DETECTION_TARGET = 0.8
LOSSES = (0.0, 0.05, 0.1, 0.2)


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table for people and for Markdown alike."""
    print(f"\n{title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(list(head)))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def settled(size: int, seed: int, loss: float = 0.0, *, owning: bool = False) -> Cluster:
    """A cluster that has joined; the loss begins afterwards."""
    cluster = Cluster(size, seed=seed, owning=owning)
    if owning:
        cluster.groups = [group(ip, cluster.nodes) for ip in ADDRESSES]
    if size > 50:
        cluster.start_joined()
    else:
        cluster.start()
    cluster.run(4)
    if not cluster.agreed():
        raise RuntimeError(f"{size} members have not found each other after 4 s")
    cluster.loss = loss
    cluster.run(2)
    cluster.forget_history()
    return cluster


def detection(size: int, crashed: int, loss: float, seed: int, runs: int) -> tuple[list[float], list[float], int]:
    """Seconds until the first and until the last survivor noticed, of each run; and how many alarms were false."""
    first, last, wrong = [], [], 0
    for run in range(runs):
        cluster = settled(size, seed + run, loss)
        victims = random.Random(seed + run).sample(list(cluster.nodes), crashed)
        begin = cluster.now
        cluster.power_off(*victims)
        cluster.run(6)
        noticed = cluster.failures()
        wrong += sum(whom not in victims for _, _, whom in noticed)
        by_victim = {v: [when - begin for when, _, whom in noticed if whom == v] for v in victims}
        if any(len(times) < size - crashed for times in by_victim.values()):
            raise RuntimeError(f"of {size} members some did not notice that {crashed} are gone")
        first.append(max(min(times) for times in by_victim.values()))
        last.append(max(max(times) for times in by_victim.values()))
    return first, last, wrong


def main(argv: list[str]) -> int:
    """0 if every target is met."""
    parser = argparse.ArgumentParser(prog="tests.bench membership")
    parser.add_argument("--sizes", default="3,10,100")
    parser.add_argument("--minutes", type=float, default=1.0, help="of quiet running, per row of the second table")
    parser.add_argument("--runs", type=int, default=5, help="per row of the first table, fewer for large sizes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    sizes = [int(size) for size in options.sizes.split(",")]
    missed = 0

    rows: list[list[object]] = []
    for size in sizes:
        runs = max(1, min(options.runs, 100 // size))
        for crashed in sorted({1, min(2, size - 1), max(1, size // 3), size // 2}):
            for loss in LOSSES if size <= 10 else (0.0, 0.1):
                first, last, wrong = detection(size, crashed, loss, options.seed, runs)
                target = ("met" if max(last) <= DETECTION_TARGET and not wrong else "MISSED") if crashed == 1 else "-"
                missed += target == "MISSED"
                times = (f"{t:.2f}" for t in (statistics.median(first), max(first), max(last)))
                rows.append([size, crashed, f"{loss:.0%}", runs, *times, wrong, target])
    head = ["members", "crashed", "loss", "runs", "first notices, median s", "worst s", "all have noticed, worst s"]
    table("Detection of crashed members", [*head, "false alarms", f"one: ≤ {DETECTION_TARGET} s"], rows)

    rows, rates = [], {}
    for size in sizes:
        minutes = options.minutes * min(1.0, 20 / size)
        for loss in LOSSES if size <= 10 else (0.0, 0.1):
            cluster = settled(size, options.seed, loss)
            begin = time.process_time()
            cluster.run(60 * minutes)
            seconds = 60 * minutes
            cpu = (time.process_time() - begin) / size / seconds
            sent = [node.sent / seconds for node in cluster.nodes.values()]
            octets = sum(node.sent_bytes for node in cluster.nodes.values()) / size / seconds
            wrong = len(cluster.failures())
            missed += wrong > 0
            rates[size, loss] = max(sent)
            load = (f"{x:.1f}" for x in (statistics.mean(sent), max(sent), octets * 8 / 1000))
            rows.append([size, f"{loss:.0%}", f"{minutes:.2f}", wrong, *load, f"{cpu * 1000:.2f}"])
    head = ["members", "loss", "minutes", "false alarms", "packets/s sent, mean", "max of a member", "kbit/s"]
    table("Quiet running", [*head, "CPU ms/s"], rows)
    large = [rate for (size, loss), rate in rates.items() if size > 5 and loss == 0]
    if len(large) > 1:
        flat = max(large) <= 1.1 * min(large)
        missed += not flat
        print(
            f"\npackets per second flat from {min(s for s in sizes if s > 5)} members on: {'met' if flat else 'MISSED'}"
        )

    rows = []
    for size in [size for size in sizes if size <= 10]:
        cluster = settled(size, options.seed, 0.1, owning=True)
        victim = list(cluster.nodes)[-1]
        before = {item.key: cluster.answering(item.key) for item in cluster.groups}
        cluster.power_off(victim)
        cluster.run(5)
        gap, double = max(cluster.gaps.values()), max(cluster.doubles.values(), default=0.0)
        moved = sum(cluster.answering(key) != names and names != [victim] for key, names in before.items())
        cluster.restart(victim)
        cluster.run(14)
        back = {key: cluster.answering(key) for key in before} == before
        back_double = max(cluster.doubles.values(), default=0.0)
        met = gap <= 1.0 and back_double <= 1.0 and not moved and back
        missed += not met
        rows.append(
            [size, f"{gap:.2f}", f"{double:.3f}", moved, f"{back_double:.3f}", back, "met" if met else "MISSED"]
        )
    head = ["members", "no owner, worst s", "two owners, worst s", "moved needlessly", "two owners at return, s"]
    table(
        "Thirty addresses, power-off of one member at 10 % loss, and its return", [*head, "as before", "target"], rows
    )
    return 1 if missed else 0
