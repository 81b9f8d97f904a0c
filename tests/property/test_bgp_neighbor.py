"""Whatever happens to a neighbour, in whatever order: no exception, and it never stops trying."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from metallb_speaker.announcer.bgp.fsm import State
from metallb_speaker.announcer.bgp.neighbor import Dial, Hangup, Neighbor
from metallb_speaker.announcer.bgp.rib import RouteAttributes
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE, MessageType, frame
from metallb_speaker.announcer.bgp.wire.messages import Notification, RouteRefresh
from metallb_speaker.announcer.bgp.wire.prefix import prefix_of
from tests.unit.speaker.bgp.pair import HOPS_A, settings_b
from tests.unit.speaker.bgp.pair import settings as settings_a

OPENS = [
    settings_b(**more).open().encode() + KEEPALIVE
    for more in (
        {},
        {"graceful_restart": 9},
        {"identifier": ipaddress.IPv4Address("192.0.2.0")},  # lower than ours: the other connection stays
        {"hold_time": 3},
        {"hold_time": 0},
        {"my_asn": 7},
    )
]
BYTES = [
    *OPENS,
    *OPENS,
    KEEPALIVE,
    frame(MessageType.UPDATE, b"\0" * 4),
    RouteRefresh("ipv4").encode(),
    Notification.shutdown("x").encode(),
    b"\xff" * 20,
    None,
]
ROUTES = [
    {prefix_of(ipaddress.ip_network(f"203.0.113.{i}/32")): RouteAttributes() for i in range(n)} for n in (0, 1, 9)
]
VERBS = ("dialed", "dial failed", "call", "octets", "octets", "octets", "sent", "time", "time", "routes")
RARE = ("reset", "bfd", "hurry", "reconfigure", "adjust", "stop", "stop deconfigured", "leave now")


class Driver:
    """The edge's part, played by chance; it holds the machine to what it says."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self.now = 0.0
        self.neighbor = Neighbor(settings_a(graceful_restart=9, restarting=True), random.Random(1))
        self.neighbor.start(0)
        self.dials: list[int] = []
        self.open: list[int] = []
        self.stopping = False

    def pick(self, values: list[int]) -> int:
        return values[self._draw(len(values))]

    def act(self) -> None:
        for action in self.neighbor.actions():
            if isinstance(action, Dial):
                self.dials.append(action.token)
            else:
                assert isinstance(action, Hangup)
                self.dials = [t for t in self.dials if t != action.token]
                self.open = [t for t in self.open if t != action.token]
        self.neighbor.events()

    def do(self, verb: str) -> None:
        n, now = self.neighbor, self.now
        if verb == "dialed" and self.dials:
            token = self.dials.pop(self._draw(len(self.dials)))
            self.open.append(token)
            n.dialed(token, HOPS_A, now)
        elif verb == "dial failed" and self.dials:
            n.dial_failed(self.dials.pop(self._draw(len(self.dials))), "refused", now)
        elif verb == "call":
            called = n.accepted(HOPS_A, now)
            if called is not None:
                self.open.append(called)
        elif verb == "octets" and self.open:
            n.receive(self.pick(self.open), BYTES[self._draw(len(BYTES))], now)
        elif verb == "sent" and self.open:
            token = self.pick(self.open)
            n.sent(token, len(n.pending(token)) // (1 + self._draw(2)), now)
        elif verb == "time":
            self.now = max(now, min(n.deadline(), now + 100.0)) + self._draw(2)
            n.on_deadline(self.now)
        elif verb == "routes":
            n.set_routes(ROUTES[self._draw(len(ROUTES))], now)
        elif verb in ("reset", "bfd"):
            n.reset(now, bfd=verb == "bfd")
        elif verb == "hurry":
            n.hurry(now)
        elif verb == "reconfigure" and not self.stopping:
            n.reconfigure(settings_a(hold_time=30), now)
        elif verb == "adjust":
            n.adjust(settings_a(graceful_restart=9, keepalive_time=5, connect_time=3), now)
        elif verb.startswith("stop"):
            self.stopping = True
            n.stop(now, text="x", deconfigured=verb != "stop")
        elif verb == "leave now":
            n.leave_now(now)

    def check(self) -> None:
        """Hangups are acted on, so what the machine holds is what is open; and it waits for something."""
        n = self.neighbor
        if self.stopping and not self.open and not self.dials:
            assert n.stopped
        if not self.stopping:
            assert n.deadline() < float("inf") or n.state is State.ESTABLISHED, "stuck"
        if n.stopped:
            assert not self.open
            assert not self.dials


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(VERBS + VERBS + VERBS + RARE), st.integers(0, 1 << 16)), max_size=60))
def test_a_neighbour_survives_any_order_of_events(steps: list[tuple[str, int]]) -> None:
    chance = random.Random(0)
    driver = Driver(chance.randrange)
    driver.act()
    for verb, seed in steps:
        chance.seed(seed)
        driver.do(verb)
        driver.act()
        driver.check()
