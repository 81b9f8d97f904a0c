"""Addresses on their way from one Service to another: never shown on both.

A decision frees an address at once, the server shows it a little longer: until the Service that had it
was written. Here is who may still show an address that it gave up, and who waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metallb_common.net.ranges import Address


class Handovers:
    """Mutable, pure. A Service lingers on the addresses that the server may show on it and that it gave up."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Address, ...]] = {}
        self._on: dict[Address, set[str]] = {}
        self._waiting: dict[Address, set[str]] = {}
        self._held_back: set[str] = set()

    def of(self, key: str) -> tuple[Address, ...]:
        """The addresses that Service `key` lingers on."""
        return self._of.get(key, ())

    def on(self, address: Address) -> Iterable[str]:
        """The Services that linger on this address."""
        return self._on.get(address, ())

    def put(self, key: str, addresses: tuple[Address, ...]) -> set[str]:
        """Service `key` lingers on these from now on. Returns who waited for those that it has left."""
        before = self._of.get(key, ())
        if before == addresses:
            return set()
        if addresses:
            self._of[key] = addresses
        else:
            del self._of[key]
        left = [a for a in before if a not in addresses]
        for address in left:
            self._on[address].discard(key)
            if not self._on[address]:
                del self._on[address]
        for address in addresses:
            self._on.setdefault(address, set()).add(key)
        return self._woken(left)

    def wait(self, key: str, address: Address) -> None:
        """Service `key` is to be looked at again when somebody has left this address."""
        self._waiting.setdefault(address, set()).add(key)
        self._held_back.add(key)

    def proceed(self, key: str) -> None:
        """Service `key` is looked at, or gone: it is held back no longer."""
        self._held_back.discard(key)

    def held_back(self, key: str) -> bool:
        """Whether `key` was found to have to wait, and nothing has changed for it since."""
        return key in self._held_back

    def awaited(self, key: str) -> bool:
        """Whether anybody waits for what `key` lingers on."""
        return any(a in self._waiting for a in self._of.get(key, ()))

    def nudge(self, key: str) -> set[str]:
        """Who waits for what `key` lingers on: it will not be written."""
        return self._woken(self._of.get(key, ()))

    def _woken(self, addresses: Iterable[Address]) -> set[str]:
        out: set[str] = set()
        for address in addresses:
            out |= self._waiting.pop(address, set())
        self._held_back -= out
        return out

    @property
    def waiting(self) -> int:
        """Addresses that somebody waits for."""
        return len(self._waiting)


def circle(key: str, waits_for: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """Services that wait for each other, `key` among them, in order; empty when there is no such circle."""
    path: list[str] = [key]
    branches = [iter(tuple(waits_for(key)))]
    seen: set[str] = set()
    while branches:
        step = next(branches[-1], None)
        if step is None:
            branches.pop()
            path.pop()
        elif step == key:
            return tuple(path)
        elif step not in seen:
            seen.add(step)
            path.append(step)
            branches.append(iter(tuple(waits_for(step))))
    return ()
