"""The announcer's process: opens the edges, runs the loop, ends in order.

HTTP is up first, then what was kept from before a restart, then everything else: a probe is answered
while the rest is still being imported.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metallb_common import app
from metallb_common.obs import logs
from metallb_common.obs.metrics import Registry
from metallb_speaker import __version__
from metallb_speaker.announcer.edge.output import Output
from metallb_speaker.announcer.edge.web import Page, WebEdge
from metallb_speaker.announcer.loop import Loop, Priority

if TYPE_CHECKING:
    from metallb_speaker.announcer.edge.udp import Udp
    from metallb_speaker.announcer.membership.api import Members
    from metallb_speaker.announcer.routing import Routing

#: Seconds that an ordered stop may take in all: hand-over takes one at most, and the last datagrams.
STOP_WAIT = 1.5
#: Seconds between two writings of what is desired, at least.
KEEP_EVERY = 2.0
#: Where the cluster half leaves the membership's key, beside the socket, and how often it is looked for.
KEY_FILE = "memberlist.key"
KEY_LOOK = 0.1
#: Seconds between two looks for cyclic garbage, and new objects that one may cost at most (half a millisecond).
TIDY_EVERY = 20.0
TIDY_MOST = 5000


def run(options: app.Options, stop: app.Stop, argv: Sequence[str]) -> int:
    """Run until stopped; gives the exit code."""
    output = Output()
    logs.configure(options.text("log-level"), output)
    try:
        return _run(options, stop, argv, output)
    finally:
        output.drain(patience=0.2)
        logs.configure(options.text("log-level"))


def _run(options: app.Options, stop: app.Stop, argv: Sequence[str], output: Output) -> int:
    loop = Loop()
    now = loop.clock()
    registry = Registry()
    starting: dict[str, Any] = {
        "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", registry.chunks()),
        "/livez": lambda: (200, "text/plain; charset=utf-8", iter([b"ok\n"])),
        "/readyz": lambda: (503, "text/plain; charset=utf-8", iter([b"starting\n"])),
    }
    pages: dict[str, Any] = dict(starting)
    web = WebEdge(loop, options.text("host"), options.number("port"), pages)
    web.open(now)
    loop.turn(0.0)
    output.drain()

    options = with_key(loop, options, stop)
    process = Process(loop, registry, options, argv)
    try:
        process.open()
    except OSError as failure:
        logs.error(op="startup", msg="cannot open what the announcer needs", error=_explain(failure))
        return 1
    pages.clear()
    pages.update(process.pages())
    logs.info(op="startup", msg="announcer running", version=__version__, node=options.text("node-name"))
    # A collection of everything would stop the loop for milliseconds: `_tidy` looks at what is new only.
    gc.disable()
    _tidy(loop, loop.clock(), most=1 << 62)
    loop.watch(stop.fileno(), lambda now: process.stop(now, stop), Priority.SIGNAL)
    while not process.finished:
        loop.turn()
        output.drain()
    process.close()
    web.close()
    loop.close()
    logs.info(op="shutdown", msg="stopped")
    return 0


def _tidy(loop: Loop, now: float, most: int = TIDY_MOST) -> None:
    """Collect cyclic garbage among the objects that are new, then never look at the others again.

    Items of `Desired` hold no cycles and go by their reference counts, so a large load is just taken as lasting.
    """
    if gc.get_count()[0] < most:
        gc.collect()
    gc.freeze()
    loop.at(now + TIDY_EVERY, lambda now: _tidy(loop, now))


def with_key(loop: Loop, options: app.Options, stop: app.Stop) -> app.Options:
    """The options with the membership's key, once the cluster half has handed it over (`cluster/memberkey.py`).

    Waits only where that was asked for and the environment has no key: the pod started before the Secret was made.
    """
    wanted = options.text("mode") == "announcer" and options.text("ml-bindaddr") and options.text("ml-labels")
    if not wanted or options.text("ml-secret-key") or not options.text("ml-secret-name"):
        return options
    path = os.path.join(os.path.dirname(options.text("socket")), KEY_FILE)
    said = False
    while not stop.asked:
        try:
            with open(path, encoding="utf-8") as file:
                return options.with_text("ml-secret-key", file.read())
        except OSError as failure:
            if not said:
                said = True
                logs.info(op="members", msg="waiting for the membership key", reason=str(failure))
        loop.turn(KEY_LOOK)
    return options


def _explain(failure: OSError) -> str:
    if isinstance(failure, PermissionError):
        return f"{failure}: the announcer needs the capability NET_RAW"
    return str(failure)


class Process:
    """The parts of one run."""

    def __init__(self, loop: Loop, registry: Registry, options: app.Options, argv: Sequence[str]) -> None:
        self._loop, self._registry, self._options = loop, registry, options
        self.finished = False
        self._child: Any = None
        self._keeping = False

        from random import SystemRandom

        from metallb_speaker import stream
        from metallb_speaker.announcer.announcer import Announcer
        from metallb_speaker.announcer.edge.layer2 import Layer2Edge
        from metallb_speaker.announcer.edge.link import LinkEdge
        from metallb_speaker.announcer.membership.swim import Membership
        from metallb_speaker.announcer.ownership.machine import Ownership
        from metallb_speaker.announcer.pages import Collector
        from metallb_speaker.announcer.state import StateFile

        now = loop.clock()
        node = options.text("node-name")
        keyring, self._address, self._port = membership_settings(options)
        self._udp: Udp | None = None
        membership: Members = Membership(
            node, keyring, rng=SystemRandom(), now=now, address=self._address, port=self._port
        )
        self._layer2 = Layer2Edge(loop.at_priority(Priority.LAYER2), loop.unwatch)
        self._reader = stream.DesiredReader()
        self._membership_on = bool(keyring)
        self.announcer = Announcer(
            node,
            self._reader,
            self._layer2,
            membership,
            Ownership(node, now),
            registry,
            send=self._send,
            report=self._report,
        )
        self.announcer.make_routing = self._make_routing
        self._link = LinkEdge(loop, self._reader, self.announcer.on_stream)
        self._link.on_connected = self.announcer.connected
        self._state = StateFile(options.text("state-dir"))
        Collector(self.announcer, loop).register(registry)
        self._argv = argv

    def _make_routing(self) -> Routing:
        """The first peer or route of BGP is wanted."""
        from metallb_speaker import stream
        from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
        from metallb_speaker.announcer.edge.onlink import on_link
        from metallb_speaker.announcer.edge.routing import RoutingEdge
        from metallb_speaker.announcer.routing import Routing, router_id

        loop, node = self._loop, self.announcer.node
        machine = BgpSpeaker(router_id(node, self._options.text("host")), on_link=on_link)
        watch_bgp, watch_bfd = loop.at_priority(Priority.BGP), loop.at_priority(Priority.BFD)
        edge = RoutingEdge(machine, watch_bgp, watch_bfd, loop.unwatch)

        def warn(reason: str, message: str) -> None:
            self._report(stream.Warned("Node", node, reason, message))

        routing = Routing(machine, edge, self.announcer.record, warn)
        loop.source(routing)
        self._registry.collector(routing.metrics)
        return routing

    def pages(self) -> dict[str, Any]:
        from metallb_speaker.announcer.pages import pages

        return dict(pages(self.announcer, self._registry, self._loop, self._more))

    def open(self) -> None:
        """Open every edge. Raises OSError."""
        loop, announcer = self._loop, self.announcer
        now = loop.clock()
        self._layer2.open(now)
        announcer.membership.set_macs(self._layer2.own_macs(), now)
        announcer.membership.set_prefixes(self._layer2.prefixes(), now)
        if self._membership_on:
            self._open_membership(now)
        for event in self._state.load(self._reader):
            announcer.on_stream(event, now)
        loop.first = self._first
        loop.last = self._last
        loop.source(self._layer2)
        loop.source(announcer.membership)
        loop.source(announcer.ownership)
        loop.source(announcer)
        if self._options.text("mode") == "both":
            from metallb_speaker.announcer.edge.child import Child

            self._child = Child(loop, self._argv, self._link.attach)
            self._child.start(now)
        else:
            self._link.listen(self._options.text("socket"))

    def _open_membership(self, now: float) -> None:
        """The port may be held for a moment by the speaker that this one replaces: try again."""
        from metallb_speaker.announcer.edge.udp import UdpEdge

        try:
            self._udp = UdpEdge(self._address, self._port)
        except (OSError, ValueError) as failure:
            message = f"the membership port {self._port} on {self._address!r} cannot be opened: {failure}"
            if self.announcer.problems.get("membership port") != message:
                self.announcer.problems["membership port"] = message
                logs.error(op="members", msg=message)
            self._loop.at(now + 1.0, self._open_membership)
            return
        self.announcer.problems.pop("membership port", None)
        self._loop.watch(self._udp.fileno(), self._datagrams, Priority.MEMBERSHIP)

    def _datagrams(self, now: float) -> None:
        if self._udp is not None:
            for data, source in self._udp.receive():
                self.announcer.membership.receive(data, source, now)

    def _send(self, data: bytes, target: tuple[str, int]) -> None:
        if self._udp is not None:
            self._udp.send(data, target)

    def _report(self, report: Any) -> bool:
        if not self._link.connected:
            return False
        self._link.report(report)
        return True

    def _first(self, now: float) -> None:
        if self.announcer.membership.turn(now):
            # Stopped for a while: whatever waits in the sockets was meant for the owner that we were.
            if self._udp is not None:
                self._udp.drain()
            self._layer2.drain(now)
            # Before any timer of layer 2: a frame of a stale owner would move neighbours' caches back to us.
            self.announcer.settle(now)

    def _last(self, now: float) -> None:
        self.announcer.settle(now)
        if self.announcer.dirty and not self._keeping and self._state.path:
            self._keeping = True
            self._loop.at(now + KEEP_EVERY, self._keep)
        if self.announcer.left:
            self._finish(now)

    def _keep(self, now: float) -> None:
        self._keeping = self.announcer.dirty = False
        self._loop.job(self._state.save(self._reader))

    def stop(self, now: float, stop: app.Stop) -> None:
        """The first signal: hand over in order, within STOP_WAIT."""
        self._loop.unwatch(stop.fileno())
        logs.info(op="shutdown", msg="handing over", signal=stop.signal, announced=len(self.announcer.record.services))
        self.announcer.leave(now)
        self._loop.at(now + STOP_WAIT, self._finish)

    def _finish(self, now: float) -> None:
        if not self.finished:
            self.announcer.depart(now)
            self.finished = True

    def close(self) -> None:
        self._layer2.close()
        self._link.close()
        if self._udp is not None:
            self._udp.close()
        if self._child is not None:
            self._child.close(self._loop.clock)

    def _more(self) -> dict[str, Any]:
        return {
            "mode": self._options.text("mode"),
            "turns": self._loop.turns,
            "child": {"pid": self._child.pid, "restarts": self._child.restarts} if self._child else None,
            "reports_dropped": self._link.dropped_reports,
            "python": sys.version.split()[0],
            "host": socket.gethostname(),
        }


def membership_settings(options: app.Options) -> tuple[Any, str, int]:
    """Keys, address and port of the membership; no keys when it is off, and that is said."""
    from metallb_speaker.announcer.membership.keys import NO_KEYS, BadKeyring, Keyring

    address, port = options.text("ml-bindaddr"), options.number("ml-bindport")
    missing = [name for name in ("ml-bindaddr", "ml-labels", "ml-secret-key") if not options.text(name)]
    if missing:
        logs.warn(
            op="members",
            msg="membership is off: failover waits for Kubernetes to see that a node is gone",
            missing=", ".join(f"--{name}" for name in missing),
        )
        return NO_KEYS, address, port
    try:
        return Keyring.from_text(options.text("ml-secret-key")), address, port
    except BadKeyring as failure:
        logs.error(op="members", msg="membership is off: the secret key is not usable", error=str(failure))
        return NO_KEYS, address, port


__all__ = ["Page", "Process", "run"]
