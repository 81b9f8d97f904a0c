"""The adj-RIB-out of one neighbour: what should be advertised, what was, and the difference as UPDATEs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .settings import Address, Negotiated
from .wire import update
from .wire.attributes import PathAttributes
from .wire.capabilities import Family
from .wire.update import Network

#: RFC 8326: routes with it are about to go; a receiver prefers any other.
GRACEFUL_SHUTDOWN = (65535, 0)


@dataclass(frozen=True, slots=True)
class RouteAttributes:
    """What is configured for a route, before it meets a neighbour."""

    local_pref: int = 0
    communities: tuple[tuple[int, int], ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()


class RibOut:
    """Desired against sent, by prefix. Only differences are ever sent: nothing flaps by itself."""

    def __init__(self) -> None:
        self._desired: dict[Network, RouteAttributes] = {}
        self._sent: dict[Network, RouteAttributes] = {}
        self._dirty: dict[Network, None] = {}  # in order of change

    def set(self, desired: Mapping[Network, RouteAttributes]) -> None:
        """Replace the whole desired set."""
        for network in self._desired.keys() - desired.keys():
            self.remove(network)
        for network, attributes in desired.items():
            self.upsert(network, attributes)

    def upsert(self, network: Network, attributes: RouteAttributes) -> None:
        if self._desired.get(network) != attributes:
            self._desired[network] = attributes
            self._dirty[network] = None

    def remove(self, network: Network) -> None:
        if self._desired.pop(network, None) is not None:
            self._dirty[network] = None

    def restart(self) -> None:
        """A new session knows nothing: everything desired is to be sent."""
        self._sent.clear()
        self._dirty = dict.fromkeys(self._desired)

    def resend(self, family: Family) -> None:
        """Everything of a family again (RFC 2918)."""
        for network in list(self._sent):
            if update.family_of(network) == family:
                del self._sent[network]
        self._dirty.update(dict.fromkeys(n for n in self._desired if update.family_of(n) == family))

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

        A route of a family that was not agreed, or has no next hop, is not sent and stays out of `advertised`.
        `leaving` adds GRACEFUL_SHUTDOWN to everything.
        """
        gone: dict[Family, list[Network]] = {}
        new: dict[tuple[Family, RouteAttributes], list[Network]] = {}
        for network in self._dirty:
            attributes, old = self._desired.get(network), self._sent.get(network)
            family = update.family_of(network)
            if attributes is None:
                if old is not None:
                    gone.setdefault(family, []).append(network)
                    del self._sent[network]
            elif (attributes != old or leaving) and family in negotiated.families and next_hops.get(family):
                new.setdefault((family, attributes), []).append(network)
                self._sent[network] = attributes
        self._dirty.clear()
        out: list[bytes] = []
        for family, networks in gone.items():
            out += update.withdraw(family, networks, maximum=negotiated.maximum)
        for (family, attributes), networks in new.items():
            out += self._announce(family, networks, attributes, negotiated, my_asn, next_hops, leaving)
        return out

    @staticmethod
    def _announce(
        family: Family,
        networks: Iterable[Network],
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
            family, networks, next_hop, path, four_octet=negotiated.four_octet, maximum=negotiated.maximum
        )

    def mark_leaving(self) -> None:
        """Everything sent is to be sent once more, with GRACEFUL_SHUTDOWN (RFC 8326)."""
        self._dirty.update(dict.fromkeys(self._sent))
