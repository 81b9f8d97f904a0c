"""What is news, and how often it has been passed on: bounded, infection-style (SWIM, section 4.1)."""

from __future__ import annotations

import math

from metallb_speaker.announcer.membership.messages import Record
from metallb_speaker.announcer.membership.wire import encode_message


class Gossip:
    """At most one record per member; newer words replace older ones."""

    __slots__ = ("_factor", "_items")

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._items: dict[str, tuple[int, bytes]] = {}  # name -> (times sent, encoded)

    def add(self, record: Record) -> None:
        """Pass this on, from the start; what was said of the member before is dropped."""
        self._items.pop(record.name, None)
        self._items[record.name] = (0, encode_message(record))

    def __bool__(self) -> bool:
        return bool(self._items)

    def take(self, room: int, most: int, members: int) -> list[bytes]:
        """Up to `most` encoded records of together at most `room` octets, the least sent first; counts them as sent."""
        if not self._items:
            return []
        limit = self._factor * math.ceil(math.log2(members + 1))
        chosen: list[bytes] = []
        order = (
            sorted(self._items.items(), key=lambda item: item[1][0]) if len(self._items) > 1 else [*self._items.items()]
        )
        for name, (sent, encoded) in order:
            if len(chosen) == most:
                break
            if len(encoded) > room:
                continue
            room -= len(encoded)
            chosen.append(encoded)
            if sent + 1 >= limit:
                del self._items[name]
            else:
                self._items[name] = (sent + 1, encoded)
        return chosen
