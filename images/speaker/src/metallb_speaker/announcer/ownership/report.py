"""What ownership shows of itself: a group as layer 2 wants it, and `/status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metallb_speaker.announcer.layer2.api import OwnedGroup
from metallb_speaker.announcer.lazy import Lazy
from metallb_speaker.announcer.ownership.groups import Groups
from metallb_speaker.announcer.ownership.neighbours import Neighbours
from metallb_speaker.announcer.ownership.states import State
from metallb_speaker.announcer.ownership.wirecheck import WireCheck
from metallb_speaker.desired import Layer2Group


def owned_group(group: Layer2Group, *, check: bool) -> OwnedGroup:
    """The group for `Layer2.set`; `check` False where it is known who answers until now."""
    addresses = tuple(address.ip for address in group.addresses)
    return OwnedGroup(group.key, addresses, group.interfaces, group.exclude_interfaces, check)


def describe(
    groups: Groups,
    states: Mapping[str, State],
    wire: WireCheck,
    neighbours: Neighbours,
    *,
    ready: bool,
    leaving: bool,
) -> dict[str, Any]:
    """See `api.Owner.status`. The groups are described as they are read."""

    def group(key: str) -> dict[str, Any] | None:
        entry = groups.entries.get(key)
        if entry is None:
            return None
        return {
            "owner": entry.owner,
            "state": states.get(key, State.IDLE).value,
            "addresses": [address.ip for address in entry.group.addresses],
            "preferred": entry.group.preferred,
        }

    return {
        "ready": ready,
        "leaving": leaving,
        "kept": {node: dict(zip(("address", "mac"), wire.evidence(node), strict=True)) for node in wire.kept()},
        "macsByWire": neighbours.all(),
        "groups": Lazy(groups.entries, group),
    }
