"""The adj-RIB-out of one neighbour: what should be advertised, what was, and the difference as UPDATEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .settings import Address, Negotiated
from .wire import update
from .wire.attributes import PathAttributes
from .wire.capabilities import Family
from .wire.prefix import Prefix, family_of

#: RFC 8326: routes with it are about to go; a receiver prefers any other.
GRACEFUL_SHUTDOWN = (65535, 0)


@dataclass(frozen=True, slots=True)
class RouteAttributes:
    """What is configured for a route, before it meets a neighbour."""

    local_pref: int = 0
    communities: tuple[tuple[int, int], ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()
    left_out: int = 0  # communities that had no room in a message


class RibOut:
    """Desired against sent, by prefix. Only differences are ever sent: nothing flaps by itself."""

    def __init__(self) -> None:
        self._desired: dict[Prefix, RouteAttributes] = {}
        self._sent: dict[Prefix, RouteAttributes] = {}
        self._dirty: dict[Prefix, None] = {}  # in order of change
        self._again: set[Prefix] = set()  # dirty ones that are to be sent though nothing about them has changed

    def set(self, desired: Mapping[Prefix, RouteAttributes]) -> None:
        """Replace the whole desired set."""
        for prefix in self._desired.keys() - desired.keys():
            self.remove(prefix)
        for prefix, attributes in desired.items():
            self.upsert(prefix, attributes)

    def upsert(self, prefix: Prefix, attributes: RouteAttributes) -> None:
        if self._desired.get(prefix) != attributes:
            self._desired[prefix] = attributes
            self._dirty[prefix] = None

    def remove(self, prefix: Prefix) -> None:
        if self._desired.pop(prefix, None) is not None:
            self._dirty[prefix] = None

    def restart(self) -> None:
        """A new session knows nothing: everything desired is to be sent."""
        self._sent.clear()
        self._again.clear()
        self._dirty = dict.fromkeys(self._desired)

    def resend(self, family: Family) -> None:
        """Everything of a family again (RFC 2918).

        All of it stays known as sent: it may have to be withdrawn before a slow peer lets it be sent again.
        """
        self._again.update(n for n in self._desired if family_of(n) == family)
        self.review(family)

    def review(self, family: Family) -> None:
        """Look again whether routes of a family can be sent: those that cannot any more are withdrawn."""
        self._dirty.update(dict.fromkeys(n for n in self._desired if family_of(n) == family))

    @property
    def desired(self) -> int:
        """Prefixes that should be advertised."""
        return len(self._desired)

    @property
    def advertised(self) -> int:
        """Prefixes that were handed to the session."""
        return len(self._sent)

    @property
    def dirty(self) -> bool:
        return bool(self._dirty)

    def flush(
        self, negotiated: Negotiated, my_asn: int, next_hops: Mapping[Family, Address | None], *, leaving: bool = False
    ) -> list[bytes]:
        """UPDATEs that make the peer's view what is desired: withdrawals first, then routes by attributes.

        A route of a family that was not agreed, or has no next hop, is not sent, or withdrawn if it was, and stays
        out of `advertised`.
        `leaving` adds GRACEFUL_SHUTDOWN to everything.
        """
        gone: dict[Family, list[Prefix]] = {"ipv4": [], "ipv6": []}
        # By identity first: attributes are shared by most routes, and comparing costs more than sending does.
        new: dict[tuple[Family, int], tuple[RouteAttributes, list[Prefix]]] = {}
        usable = {family: family in negotiated.families and bool(next_hops.get(family)) for family in gone}
        desired, sent, again = self._desired, self._sent, self._again
        for prefix in self._dirty:
            attributes, old = desired.get(prefix), sent.get(prefix)
            family = family_of(prefix)
            if attributes is None or not usable[family]:
                if old is not None:
                    gone[family].append(prefix)
                    del sent[prefix]
            elif leaving or (attributes is not old and attributes != old) or prefix in again:
                group = new.get((family, id(attributes)))
                if group is None:
                    group = new[family, id(attributes)] = (attributes, [])
                group[1].append(prefix)
                sent[prefix] = attributes
        self._dirty.clear()
        again.clear()
        groups: dict[tuple[Family, RouteAttributes], list[Prefix]] = {}
        for (family, _), (attributes, prefixes) in new.items():
            groups.setdefault((family, attributes), []).extend(prefixes)
        out: list[bytes] = []
        for family, prefixes in gone.items():
            out += update.withdraw(family, prefixes, maximum=negotiated.maximum)
        for (family, attributes), prefixes in groups.items():
            out += self._announce(family, prefixes, attributes, negotiated, my_asn, next_hops, leaving)
        return out

    @staticmethod
    def _announce(
        family: Family,
        prefixes: Sequence[Prefix],
        attributes: RouteAttributes,
        negotiated: Negotiated,
        my_asn: int,
        next_hops: Mapping[Family, Address | None],
        leaving: bool,
    ) -> list[bytes]:
        next_hop = next_hops[family]
        if next_hop is None:
            return []
        if leaving:
            attributes = replace(attributes, communities=tuple(sorted({*attributes.communities, GRACEFUL_SHUTDOWN})))
        path = PathAttributes(
            as_path=() if negotiated.internal else (my_asn,),
            local_pref=attributes.local_pref if negotiated.internal else None,
            communities=attributes.communities,
            large_communities=attributes.large_communities,
        )
        return update.announce(
            family, prefixes, next_hop, path, four_octet=negotiated.four_octet, maximum=negotiated.maximum
        )

    def mark_leaving(self) -> None:
        """Everything sent is to be sent once more, with GRACEFUL_SHUTDOWN (RFC 8326)."""
        self._dirty.update(dict.fromkeys(self._sent))
