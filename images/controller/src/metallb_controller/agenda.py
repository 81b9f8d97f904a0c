"""Which Services are to be planned: the oldest first, whatever the order in which the changes came."""

from __future__ import annotations

from collections.abc import Iterable, Set
from heapq import heapify, heappop, heappush

from metallb_common.kube.views import Service


def seniority(view: Service) -> tuple[str, str]:
    """Older Services come first, also when addresses are short."""
    return (view.created, view.key)


class Agenda:
    """Mutable, pure. Who has changed, and who is woken: it waits, and something was freed.

    One order for both: a Service that has just come must not be planned before an older one that waits
    for the same address.
    """

    def __init__(self) -> None:
        self._created: dict[str, str] = {}  # of everybody who is in it
        self._changed: set[str] = set()
        self._heap: list[tuple[str, str]] = []  # also what has left since: `pop` passes it over

    def __bool__(self) -> bool:
        return bool(self._created)

    @property
    def keys(self) -> Set[str]:
        return self._created.keys()

    def changed(self, key: str) -> bool:
        """Whether the Service is to be planned because it, or what it depends on, has changed."""
        return key in self._changed

    def change(self, view: Service) -> None:
        self._changed.add(view.key)
        self.wake(view)

    def change_all(self, views: Iterable[Service]) -> None:
        self._heap = [seniority(view) for view in views]
        heapify(self._heap)
        self._created = {key: created for created, key in self._heap}
        self._changed = set(self._created)

    def wake(self, view: Service) -> None:
        if view.key not in self._created:
            self._created[view.key] = view.created
            heappush(self._heap, seniority(view))

    def drop(self, key: str) -> None:
        self._created.pop(key, None)
        self._changed.discard(key)

    def pop(self) -> tuple[str, bool] | None:
        """The oldest, and whether it has changed; None when there is nobody left."""
        while self._heap:
            created, key = heappop(self._heap)
            if self._created.get(key) == created:  # else it is gone, or made anew and younger
                changed = key in self._changed
                self.drop(key)
                return key, changed
        return None
