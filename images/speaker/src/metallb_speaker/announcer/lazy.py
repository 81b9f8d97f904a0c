"""Mappings whose values are made one by one while they are read: thousands of entries of `/status`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lazy(Mapping[str, V], Generic[K, V]):
    """`make(key)` under `name(key)` for each of `keys`; an entry of which `make` gives None has gone meanwhile."""

    def __init__(self, keys: Iterable[K], make: Callable[[K], V | None], name: Callable[[K], str] = str) -> None:
        self._keys, self._make, self._name = list(keys), make, name

    def entries(self) -> Iterator[tuple[str, V]]:
        """All of them, each made when it is asked for."""
        for key in self._keys:
            value = self._make(key)
            if value is not None:
                yield self._name(key), value

    def __getitem__(self, name: str) -> V:
        for key in self._keys:
            if self._name(key) == name and (value := self._make(key)) is not None:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.entries())

    def __len__(self) -> int:
        return len(self._keys)
