"""Layer 2 alone, as a process: owns the addresses of its arguments until SIGTERM; takes orders on stdin.

The loop is the announcer's, without the rest of it. Prints `ready` when the interfaces are known, each
event, and `done` after each order.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import sys
import time

from metallb_common.obs import logs
from metallb_speaker.announcer.edge.layer2 import Layer2Edge
from metallb_speaker.announcer.layer2.api import Event, InterfacesChanged, OwnedGroup


class Loop:
    def __init__(self, no_check: bool) -> None:
        self.check = not no_check
        self.selector = selectors.DefaultSelector()
        self.layer2 = Layer2Edge(
            lambda fd, handler: self.selector.register(fd, selectors.EVENT_READ, handler) and None,
            lambda fd: self.selector.unregister(fd) and None,
        )
        self.running = True

    def own(self, addresses: list[str], now: float) -> None:
        self.layer2.set({a: OwnedGroup(a, (a,), check=self.check) for a in addresses}, now)

    def order(self, now: float) -> None:
        line = os.read(0, 1 << 20).decode()
        if not line:
            self.running = False
        for order in line.splitlines():
            verb, *words = order.split()
            if verb == "own":
                self.own(words, now)
            elif verb == "members":
                self.layer2.set_members(words)
            elif verb == "probe":
                self.layer2.probe(words[0], now)
            elif verb == "status":
                counters = {f"{metric} {ip}": count for (metric, ip), count in self.layer2.counters().items()}
                drops = {f"{name} {reason}": count for (name, reason), count in self.layer2.drops().items()}
                print(
                    "status", json.dumps({**self.layer2.status(), "counters": counters, "drops": drops}, default=dict)
                )
            print("done", verb, flush=True)

    def handle(self, event: Event) -> None:
        if isinstance(event, InterfacesChanged):
            print("interfaces", *event.interfaces, flush=True)
        else:
            print(type(event).__name__, event, flush=True)

    def run(self, addresses: list[str]) -> None:
        now = time.monotonic()
        self.selector.register(0, selectors.EVENT_READ, self.order)
        self.layer2.open(now)
        self.own(addresses, now)
        known = False
        while self.running:
            wait = min(max(self.layer2.deadline() - time.monotonic(), 0), 3600)
            for key, _ in self.selector.select(wait):
                key.data(time.monotonic())
            now = time.monotonic()
            if self.layer2.deadline() <= now:
                self.layer2.on_deadline(now)
            for event in self.layer2.events():
                self.handle(event)
                if isinstance(event, InterfacesChanged) and not known:
                    known = True
                    print("ready", flush=True)

    def stop(self, *_: object) -> None:
        self.layer2.close()
        sys.exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("addresses", nargs="*")
    arguments = parser.parse_args()
    logs.configure("error")
    loop = Loop(arguments.no_check)
    signal.signal(signal.SIGTERM, loop.stop)
    loop.run(arguments.addresses)
    loop.layer2.close()


if __name__ == "__main__":
    main()
