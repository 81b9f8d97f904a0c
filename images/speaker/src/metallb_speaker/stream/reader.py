"""The announcer's side: holds what is desired, from a stream that may end and begin anew at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from metallb_speaker.desired import Item
from metallb_speaker.stream import codec
from metallb_speaker.stream.frames import FrameReader, StreamError, number, texts
from metallb_speaker.stream.messages import Change, Complete, Event, Key, read_hello, read_state
from metallb_speaker.stream.writer import ITEMS_PER_FRAME, MAX_NAMES

#: Keys looked at, at the end of a snapshot, for one event.
LOOKED_AT = 1000


class DesiredReader:
    """Reads, in the announcer, what the cluster half sends, and holds what is desired.

    `items` outlives a connection: call `connected()` for each new one.
    """

    def __init__(self) -> None:
        self.items: dict[Key, Item] = {}
        self._ready: deque[Event] = deque()  # outlives a connection: what it says has been applied
        self._ending: Iterator[Event] = iter(())  # of a snapshot: does not, since the next one looks again
        self.connected()

    def connected(self) -> None:
        """A new connection: half a transaction of the last one is forgotten, what was applied stays."""
        self._frames = FrameReader()
        self._greeted = False
        self._names: dict[int, tuple[str, ...]] = {}
        self._open: int | None = None  # version of the transaction that is being received and applied
        self._ignoring = False
        self._seen: set[Key] | None = None  # of a snapshot
        self._kinds: tuple[str, ...] | None = None  # that the snapshot speaks of
        self._why: Mapping[str, str] = {}
        self._asks = False
        self._ending = iter(())
        self.version = 0

    def asks(self) -> bool:
        """Whether to send `again` now; true once for each time that it is needed."""
        asks, self._asks = self._asks, False
        return asks

    def feed(self, data: bytes) -> None:
        self._frames.feed(data)

    def next(self) -> Event | None:
        """The next event; None when more bytes are needed. Decodes about ITEMS_PER_FRAME items. Raises StreamError."""
        if self._ready:
            return self._ready.popleft()
        if (event := next(self._ending, None)) is not None:
            return event
        while (message := self._frames.next()) is not None:
            kind = message["t"]
            if kind != "hello" and not self._greeted:
                raise StreamError("no hello")
            event = self._message(kind, message)
            if event is not None:
                return event
        return None

    def receive(self, data: bytes) -> list[Event]:
        """All events of these bytes at once."""
        self.feed(data)
        out = []
        while (event := self.next()) is not None:
            out.append(event)
        return out

    def _message(self, kind: str, message: Mapping[str, Any]) -> Event | None:
        match kind:
            case "hello":
                self._greeted = True
                return read_hello(message)
            case "state":
                return read_state(message)
            case "begin":
                self._begin(message)
            case "names":
                self._remember(message)
            case "put" if not self._ignoring:
                return self._put(message)
            case "drop" if not self._ignoring:
                return self._drop(message)
            case "end":
                return self._end(message)
        return None

    def _begin(self, message: Mapping[str, Any]) -> None:
        base, version = number(message, "base"), number(message, "version")
        if self._open is not None:
            raise StreamError("a transaction inside a transaction")
        self._open = version
        self._ignoring = base not in (0, self.version) or (base != 0 and self.version == 0)
        if self._ignoring:
            self._asks = True
            return
        why = message.get("why")
        self._why = why if type(why) is dict and all(type(v) is str for v in why.values()) else {}
        self._seen = set() if base == 0 else None
        self._kinds = None if message.get("kinds") is None else texts(message["kinds"])
        if base == 0:
            self._names = {}

    def _remember(self, message: Mapping[str, Any]) -> None:
        if len(self._names) > MAX_NAMES + 1024:  # one transaction may pass the sender's limit a little
            raise StreamError("too many lists of names")
        self._names[number(message, "id")] = texts(message.get("names"))

    def _put(self, message: Mapping[str, Any]) -> Change | None:
        if self._open is None:
            raise StreamError("items outside a transaction")
        entries = message.get("items")
        if type(entries) is not list:
            raise StreamError("no list of items")
        put = []
        for entry in entries:
            if type(entry) is not list or len(entry) != 2 or type(entry[0]) is not str or type(entry[1]) is not dict:
                raise StreamError("not an item")
            kind, value = entry
            for name in ("candidates", "fallback", "last"):
                if type(value.get(name)) is int:
                    if value[name] not in self._names:
                        raise StreamError("a list of names that was not sent")
                    value[name] = self._names[value[name]]  # one tuple for all items that share it
            try:
                item = codec.decode(kind, value)
            except codec.DecodeError as failure:
                raise StreamError(str(failure)) from None
            key = (kind, item.key)
            if self._seen is not None:
                self._seen.add(key)
            if self.items.get(key) != item:
                self.items[key] = item
                put.append(item)
        return Change(put=tuple(put), why=self._why) if put else None

    def _drop(self, message: Mapping[str, Any]) -> Event | None:
        if self._open is None:
            raise StreamError("keys outside a transaction")
        keys = message.get("keys")
        if type(keys) is not list:
            raise StreamError("no list of keys")
        gone = []
        for key in keys:
            if type(key) is not list or len(key) != 2 or type(key[0]) is not str or type(key[1]) is not str:
                raise StreamError("not a key")
            if self.items.pop((key[0], key[1]), None) is not None:
                gone.append((key[0], key[1]))
        for start in range(0, len(gone), ITEMS_PER_FRAME):  # a withdrawal is as much work as an announcement
            self._ready.append(Change(drop=tuple(gone[start : start + ITEMS_PER_FRAME]), why=self._why))
        return self._ready.popleft() if gone else None

    def _end(self, message: Mapping[str, Any]) -> Event | None:
        version = number(message, "version")
        if self._open != version:
            raise StreamError("the end of another transaction")
        self._open = None
        if self._ignoring:
            self._ignoring = False
            return None
        if self._seen is None:
            self.version = version
            return Complete(version, snapshot=False)
        self._ending = self._finish(version, self._seen, self._kinds)
        self._seen = None
        return next(self._ending)

    def _finish(self, version: int, seen: set[Key], kinds: tuple[str, ...] | None) -> Iterator[Event]:
        """Drop what a snapshot did not name, some at a time; the version is held when that is done."""
        gone: list[Key] = []
        for at, key in enumerate(list(self.items), 1):
            if key not in seen and (kinds is None or key[0] in kinds):
                del self.items[key]
                gone.append(key)
            if len(gone) == ITEMS_PER_FRAME or at % LOOKED_AT == 0:
                yield Change(drop=tuple(gone), why=self._why)
                gone = []
        if gone:
            yield Change(drop=tuple(gone), why=self._why)
        self.version = version
        yield Complete(version, snapshot=True)
