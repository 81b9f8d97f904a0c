"""One member as a process: the real UDP edge, membership and ownership; events as JSON lines with the monotonic time.

``python -m tests.integration.membership_node NAME ADDRESS NAME=ADDRESS...``; the environment has the key.
TERM leaves in order.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import selectors
import signal
import sys
import time

from metallb_speaker.announcer.edge.udp import UdpEdge
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.announcer.ownership import Ownership
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.desired import AnnouncedAddress, Layer2Group, Member

GROUPS = [f"192.0.2.{n}" for n in range(1, 31)]


def say(event: object) -> None:
    fields = dataclasses.asdict(event) if dataclasses.is_dataclass(event) and not isinstance(event, type) else {}
    print(json.dumps({"at": time.monotonic(), "event": type(event).__name__, **fields}, default=str), flush=True)


def main(argv: list[str]) -> int:
    name, address, *others = argv
    seeds = [Member(key, (place,), alive=True) for key, _, place in (other.partition("=") for other in others)]
    udp = UdpEdge(address, 7946)
    now = time.monotonic()
    keys = Keyring.from_text(os.environ["METALLB_ML_SECRET_KEY"])
    membership = Membership(name, keys, rng=random.SystemRandom(), now=now, address=address)
    ownership = Ownership(name, now)
    leaving: list[bool] = []
    gone = False
    signal.signal(signal.SIGTERM, lambda *_: leaving.append(True))
    membership.set(seeds, now)
    nodes = tuple(sorted(seed.key for seed in seeds))
    ownership.replace([Layer2Group(ip, (AnnouncedAddress(ip, ("d/s",)),), nodes) for ip in GROUPS], now)
    with selectors.DefaultSelector() as selector:
        selector.register(udp, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if membership.turn(now):
                udp.drain()
            for data, source in udp.receive():
                membership.receive(data, source, now)
            if leaving == [True]:
                leaving.append(True)
                membership.leave(now)
                ownership.leave(now)
            if membership.deadline() <= now:
                membership.on_deadline(now)
            for heard in ownership.follow(membership, now):
                if type(heard).__name__ != "Received":
                    say(heard)
            for event in ownership.events():
                say(event)
                if isinstance(event, o.Probe):
                    ownership.probe_result(event.address, (), now)
                if isinstance(event, o.HandedOver):
                    membership.depart(now)
                    gone = True
            for data, target in membership.pending():
                udp.send(data, target)
            if gone:
                return 0
            selector.select(max(0.0, min(membership.deadline(), ownership.deadline()) - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
