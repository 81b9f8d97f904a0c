"""The cluster half's side: brings the announcer to what is desired, and reads its reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from metallb_speaker.desired import Item
from metallb_speaker.stream import codec
from metallb_speaker.stream.frames import FrameReader, StreamError, frame
from metallb_speaker.stream.messages import REPORTS, Again, Key, Upstream, read_hello, read_report

#: Items of a `put`: few enough to take in within about a millisecond, so that it delays no answer to a packet.
ITEMS_PER_FRAME = 12
KEYS_PER_FRAME = 240
#: Lists of names that are remembered; past it the sender begins anew with a snapshot.
MAX_NAMES = 4096


class DesiredWriter:
    """Holds what is desired and gives the frames that bring the announcer there.

    Changes coalesce until they are taken: a slow reader costs memory for the dirty keys only.
    """

    def __init__(self) -> None:
        self.items: dict[Key, Item] = {}
        self.version = 0
        self._dirty: dict[Key, None] = {}
        self._why: dict[str, str] = {}
        self._names: dict[tuple[str, ...], int] = {}
        self._snapshot = True
        #: Kinds that a snapshot speaks of; None: all. What the receiver holds of other kinds stays.
        self.kinds: tuple[str, ...] | None = None

    def change(self, put: Iterable[Item], drop: Iterable[Key] = (), why: Mapping[str, str] | None = None) -> None:
        """Take changes over; what is equal already is no change."""
        for key in drop:
            if self.items.pop(key, None) is not None:
                self._dirty[key] = None
        for item in put:
            key = (type(item).__name__, item.key)
            if self.items.get(key) != item:
                self.items[key] = item
                self._dirty[key] = None
        self._why.update(why or {})

    def again(self) -> None:
        """The next transaction is a snapshot: a new connection, or `again` was received."""
        self._snapshot = True

    @property
    def waiting(self) -> bool:
        """Whether `take` has anything to give."""
        return self._snapshot or bool(self._dirty)

    def take(self) -> Iterator[bytes]:
        """The frames of one transaction; nothing when nothing changed. Exhaust it, or call `again`."""
        if not self.waiting:
            return
        if len(self._names) > MAX_NAMES:
            self._snapshot = True
        base = 0 if self._snapshot else self.version
        if self._snapshot:
            self._names.clear()
        dropped = [] if self._snapshot else [key for key in self._dirty if key not in self.items]
        put = (
            list(self.items.items()) if self._snapshot else [(k, self.items[k]) for k in self._dirty if k in self.items]
        )
        why, self._why = self._why, {}
        self._dirty.clear()
        self._snapshot = False
        self.version += 1
        yield frame({"t": "begin", "base": base, "version": self.version, "why": why, "kinds": self.kinds})
        for start in range(0, len(put), ITEMS_PER_FRAME):
            entries = []
            for key, item in put[start : start + ITEMS_PER_FRAME]:
                value = codec.encode(item)
                for name in ("candidates", "fallback", "last"):
                    if len(value.get(name, ())) > 1:
                        names = value[name]
                        if names not in self._names:
                            self._names[names] = len(self._names)
                            yield frame({"t": "names", "id": self._names[names], "names": names})
                        value[name] = self._names[names]
                entries.append([key[0], value])
            yield frame({"t": "put", "items": entries})
        # Last, so that an address that goes from one group to another is never in none.
        for start in range(0, len(dropped), KEYS_PER_FRAME):
            yield frame({"t": "drop", "keys": dropped[start : start + KEYS_PER_FRAME]})
        yield frame({"t": "end", "version": self.version})


class UpstreamReader:
    """Reads, in the cluster half, what the announcer sends."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._greeted = False

    def receive(self, data: bytes) -> list[Upstream]:
        """Raises StreamError."""
        self._frames.feed(data)
        out: list[Upstream] = []
        while (message := self._frames.next()) is not None:
            kind = message["t"]
            if kind == "hello":
                self._greeted = True
                out.append(read_hello(message))
            elif not self._greeted:
                raise StreamError("no hello")
            elif kind == "again":
                out.append(Again())
            elif kind in REPORTS:
                out.append(read_report(kind, message))
            # an unknown kind is one of a later version
        return out
