"""Runs the BGP and BFD machines with their real edges, ordered about by JSON lines on standard input.

Orders: ``{"peers": [...], "routes": [...], "timers": [...]}`` replaces everything (values are the
fields of `desired.BgpPeer`, `BgpRoute`, `BfdTimers`); ``{"status": true}`` asks for one line of status;
``{"stop": "text"}`` leaves in order and ends; ``{"leave_wait": seconds}`` lets that take as long as it takes to
be seen through a router's command line.
"""

from __future__ import annotations

import ipaddress
import json
import os
import selectors
import sys
import time
from collections.abc import Callable
from typing import Any

from metallb_speaker.announcer.bgp import neighbor
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.edge.addresses import NextHops
from metallb_speaker.announcer.edge.bfd import BfdEdge
from metallb_speaker.announcer.edge.bgp import BgpEdge
from metallb_speaker.announcer.edge.onlink import on_link
from metallb_speaker.desired import AnnouncedAddress, BfdTimers, BgpPeer, BgpRoute


def main() -> None:
    selector = selectors.DefaultSelector()

    def watch(fd: int, handler: Callable[[float], None]) -> None:
        selector.register(fd, selectors.EVENT_READ, handler)

    speaker = BgpSpeaker(ipaddress.IPv4Address(sys.argv[1]), on_link=on_link)
    bgp = BgpEdge(speaker, watch, selector.unregister, next_hops=NextHops())
    bfd = BfdEdge(speaker, watch, selector.unregister)
    history: list[dict[str, Any]] = []
    held: set[str] = set()
    stopping = False
    buffer = b""

    def order(now: float) -> None:
        nonlocal buffer, stopping
        data = os.read(0, 1 << 20)
        if not data:
            os._exit(1)
        buffer += data
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            wish = json.loads(line)
            if "peers" in wish:
                peers = [
                    BgpPeer(**{**p, "address_families": tuple(p.get("address_families", ()))}) for p in wish["peers"]
                ]
                speaker.set_peers(peers, [BfdTimers(**t) for t in wish.get("timers", ())], now)
                wanted = {f"{r['prefix']}{r.get('localpref', 0)}": r for r in wish["routes"]}
                for key in held - wanted.keys():
                    speaker.drop_route(key)
                for key, r in wanted.items():
                    address = AnnouncedAddress(r["prefix"].split("/")[0], ("default/web",))
                    communities = tuple(tuple(c) for c in r.get("communities", ()))
                    speaker.put_route(
                        BgpRoute(
                            key,
                            r["prefix"],
                            r.get("localpref", 0),
                            communities,
                            tuple(r.get("peers", ())),
                            (address,),
                        )
                    )
                held.clear()
                held.update(wanted)
                speaker.flush(now)
                bgp.listen_for({p["address"]: p.get("password", "") for p in wish["peers"] if p.get("listen")})
            if "status" in wish:
                print(
                    json.dumps(
                        {
                            "status": speaker.status(),
                            "history": history,
                            "listen_errors": bgp.listen_errors,
                            "bfd_errors": bfd.errors,
                        }
                    ),
                    flush=True,
                )
            if "leave_wait" in wish:
                neighbor.LEAVE_WAIT = wish["leave_wait"]
            if "stop" in wish:
                stopping = True
                speaker.stop(now, wish["stop"])

    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ, order)
    while not (stopping and speaker.stopped):
        now = time.monotonic()
        for key, _ in selector.select(max(0.0, min(speaker.deadline() - now, 1.0))):
            key.data(time.monotonic())
        now = time.monotonic()
        if now >= speaker.deadline():
            speaker.on_deadline(now)
        for event in speaker.follow(now):
            history.append({"at": now, "peer": event.peer, "name": event.name, "reason": event.reason})
        bgp.act(now)
        bfd.follow(now)


if __name__ == "__main__":
    main()
