"""The announcer's pages: /metrics, /livez, /readyz and /status, and the metrics collected when asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from metallb_common.obs import http
from metallb_common.obs.metrics import CONFIG_LOADED, CONFIG_STALE, UPDATE_ERRORS, UPDATES, Family, Labels, Registry
from metallb_speaker import __version__
from metallb_speaker.announcer.announcer import Announcer
from metallb_speaker.announcer.layer2.api import METRICS
from metallb_speaker.announcer.lazy import Lazy
from metallb_speaker.announcer.loop import Loop

Page = tuple[int, str, Iterator[bytes]]

#: Addresses that are counted in one turn of the loop.
SLICE = 128
#: Characters of /status that are made in one turn, at least: about a quarter of a millisecond's work.
PIECE = 4096

_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode

#: In the order of `layer2.api.METRICS`.
_LAYER2 = (
    "Number of layer2 requests received for owned IPs",
    "Number of layer2 responses sent for owned IPs in response to requests",
    "Number of gratuitous layer2 packets sent for owned IPs as a result of failovers",
)


class Collector:
    """Families made at scrape time."""

    def __init__(self, announcer: Announcer, loop: Loop) -> None:
        self._announcer, self._loop = announcer, loop

    def register(self, registry: Registry) -> None:
        for collect in (self.cluster, self.layer2, self.members, self.loop):
            registry.collector(collect)

    def cluster(self) -> Iterator[Family]:
        """The cluster half's numbers as it pushed them last: it is never asked during a scrape."""
        announcer, now = self._announcer, self._loop.clock()
        state = announcer.state
        if state is None:
            for (name, help), kind, value in (
                (UPDATES, "counter", 0.0),
                (UPDATE_ERRORS, "counter", 0.0),
                (CONFIG_LOADED, "gauge", 0.0),
                (CONFIG_STALE, "gauge", 1.0),
            ):
                yield Family(name, help, kind, (), {(): value})
        else:
            for name, help, kind, labels, series in state.numbers:
                yield Family(name, help, kind, labels, dict(series))
            yield Family(
                "metallb_speaker_cluster_age_seconds",
                "Seconds since the cluster half was heard last.",
                "gauge",
                (),
                {(): round(now - announcer.state_at, 3)},
            )
        alive = state is not None and announcer.cluster_alive(now)
        yield Family(
            "metallb_speaker_cluster_up",
            "1 if the cluster half is heard; without it, what is announced stays as it is.",
            "gauge",
            (),
            {(): float(alive)},
        )

    def layer2(self) -> Iterator[Family]:
        layer2 = self._announcer.layer2
        ips = layer2.owned_ips()
        for at, (metric, help) in enumerate(zip(METRICS, _LAYER2, strict=True)):
            for start in range(0, len(ips) or 1, SLICE):  # thousands of addresses must not hold up a turn
                counts = layer2.counts(ips[start : start + SLICE])
                series: dict[Labels, float] = {(ip,): values[at] for ip, values in counts.items()}
                yield Family(f"metallb_layer2_{metric}", help, "counter", ("ip",), series, more=start > 0)
        yield Family(
            "metallb_layer2_frames_dropped",
            "Number of layer2 frames that were let in and not answered, by reason",
            "counter",
            ("interface", "reason"),
            {key: float(count) for key, count in layer2.drops().items()},
        )
        yield Family(
            "metallb_layer2_address_conflict",
            "1 while another host answers for an owned IP",
            "gauge",
            ("ip", "interface", "mac"),
            {(ip, interface, mac): 1.0 for (ip, interface), mac in layer2.conflicts().items()},
        )
        yield Family(
            "metallb_speaker_ipvs_arp_conflict",
            "1 if kube-proxy's IPVS mode makes this node answer ARP for every address: strictARP is off",
            "gauge",
            (),
            {(): float(bool(layer2.ipvs_conflict()))},
        )

    def members(self) -> Iterator[Family]:
        membership = self._announcer.membership
        counts: dict[tuple[str, ...], float] = {}
        for standing in membership.view().values():
            name = "suspect" if standing.suspect else standing.tier.name.lower()
            counts[(name,)] = counts.get((name,), 0.0) + 1
        yield Family("metallb_speaker_members", "Speakers known, by their standing.", "gauge", ("standing",), counts)
        yield Family(
            "metallb_speaker_membership_dropped",
            "Number of datagrams on the membership port that were dropped, by reason.",
            "counter",
            ("reason",),
            {(reason,): float(count) for reason, count in membership.drops().items()},
        )

    def loop(self) -> Iterator[Family]:
        yield Family(
            "metallb_speaker_loop_longest_seconds",
            "Longest turn of the announcer's loop since the last scrape.",
            "gauge",
            (),
            {(): self._loop.take_longest()},
        )


def pages(
    announcer: Announcer, registry: Registry, loop: Loop, more: Callable[[], dict[str, Any]]
) -> Mapping[str, Callable[[], Page]]:
    """What each path answers. `more` adds to /status."""

    def metrics() -> Page:
        return 200, http.PROMETHEUS, registry.chunks()

    def livez() -> Page:
        return 200, http.TEXT, iter([b"ok\n"])  # it answers: its loop runs

    def readyz() -> Page:
        why = announcer.unready(loop.clock())
        return (503 if why else 200), http.TEXT, iter(["".join(f"{w}\n" for w in why or ["ok"]).encode()])

    def status() -> Page:
        now = loop.clock()
        state = announcer.state
        parts: dict[str, Callable[[], Any]] = {
            "node": lambda: announcer.node,
            "version": lambda: __version__,
            "ready": lambda: announcer.unready(now) or True,
            "problems": lambda: [
                *filter(None, [announcer.layer2.ipvs_conflict()]),
                *announcer.problems.values(),
                *(announcer.routing.problems() if announcer.routing else ()),
                *(state.problems if state else ()),
            ],
            "cluster_half": lambda: {
                "heard_seconds_ago": round(now - announcer.state_at, 1) if state else None,
                "synced": bool(state and state.synced),
                "version": announcer.reader.version,
            },
            "membership": announcer.membership.status,
            "election": announcer.ownership.status,
            "layer2": announcer.layer2.status,
            "bgp": lambda: announcer.routing.status() if announcer.routing else [],
            "process": more,
        }
        return 200, http.JSON, _slices(parts)

    return {"/metrics": metrics, "/livez": livez, "/readyz": readyz, "/status": status}


def _slices(parts: Mapping[str, Callable[[], Any]]) -> Iterator[bytes]:
    """An object's members one by one, each in pieces: thousands of groups must not be encoded in one turn."""
    held = ""
    for piece in _pieces(Lazy(parts, lambda name: _Made(parts[name]())), 0):
        held += piece
        if len(held) > PIECE:
            yield held.encode()
            held = ""
    yield (held + "\n").encode()


class _Made:
    """A value that may be None."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """JSON text: objects have a line per member down to the third level, all else is one line."""
    if isinstance(value, _Made):
        value = value.value
    if not isinstance(value, Mapping) or (depth > 2 and not isinstance(value, Lazy)):
        yield _encode(value)
        return
    lead = "{"
    for name, entry in value.entries() if isinstance(value, Lazy) else value.items():
        yield f"{lead}\n{' ' * (depth + 1)}{_encode(name)}: "
        yield from _pieces(entry, depth + 1)
        lead = ","
    yield "{}" if lead == "{" else f"\n{' ' * depth}}}"
