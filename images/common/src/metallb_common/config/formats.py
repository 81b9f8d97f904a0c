"""The schema's `format` names: text of the document -> values, with the reasons for a refusal.

A value that came from text keeps that text beside it, for messages of later checks.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from metallb_common.config.addresses import Refusal, parse_address, parse_range
from metallb_common.config.communities import parse_community
from metallb_common.config.compose import Mapping, Node, Scalar, Sequence
from metallb_common.config.durations import parse_duration
from metallb_common.config.model import Community
from metallb_common.config.structure import Format, Walk, shown
from metallb_common.net.ranges import Address, AddressRange

#: How the reason begins, by key (contract section 5).
_ADDRESS_OF = {
    "peer-address": "invalid peer IP",
    "source-address": "invalid source IP",
    "router-id": "invalid router ID",
}
_DURATION_OF = {"hold-time": "invalid hold time", "keepalive-time": "invalid keepaliveTime"}


def _key(walk: Walk) -> str:
    return next((step for step in reversed(walk.path) if isinstance(step, str)), "")


def _pool_name(walk: Walk) -> str:
    """The name of the pool that the walk is in, as far as it can be read."""
    node: Node | None = walk.root
    for step in (*walk.path[:2], "name"):
        if isinstance(node, Mapping) and step in node.items:
            node = node.items[str(step)][1]
        elif isinstance(node, Sequence) and isinstance(step, int):
            node = node.items[step]
        else:
            return ""
    return node.value if isinstance(node, Scalar) else ""


def address_range(text: str, node: Scalar, walk: Walk) -> tuple[AddressRange, str]:
    try:
        found, warning = parse_range(text)
    except Refusal as refusal:
        kind = f"invalid IP range {shown(text)}: " if "-" in text else ""
        reason = f"invalid CIDR {shown(text)} in pool {shown(_pool_name(walk))}: {kind}{refusal.reason}"
        raise Refusal(reason, refusal.fix) from None
    if warning:
        walk.warn(node, warning, f"if that is meant, write {found}" if "host bits" in warning else "")
    return found, text


def address(text: str, node: Scalar, walk: Walk) -> Address:
    try:
        return parse_address(text)
    except Refusal:
        key = _key(walk)
        raise Refusal(f"{_ADDRESS_OF.get(key, f'invalid {key}')} {shown(text)}") from None


def ipv4_address(text: str, node: Scalar, walk: Walk) -> IPv4Address:
    found = address(text, node, walk)
    if not isinstance(found, IPv4Address):
        key = _key(walk)
        raise Refusal(f"{_ADDRESS_OF.get(key, f'invalid {key}')} {shown(text)}: it is 32 bits long, as an IPv4 address")
    return found


def go_duration(text: str, node: Scalar, walk: Walk) -> tuple[int, str]:
    key = _key(walk)
    try:
        nanoseconds = parse_duration(text)
        if nanoseconds < 0:
            raise ValueError("it is negative")
    except ValueError as error:
        fix = f"write {text}s" if text.isascii() and text.isdigit() else ""
        raise Refusal(f"{_DURATION_OF.get(key, f'invalid {key}')} {shown(text)}: {error}", fix) from None
    return nanoseconds, text


def community(text: str, node: Scalar, walk: Walk) -> Community:
    try:
        return parse_community(text)
    except ValueError as error:
        raise Refusal(f"parsing community {shown(str(walk.path[-1]))}: {error}") from None


FORMATS: dict[str, Format] = {
    "address-range": address_range,
    "address": address,
    "ipv4-address": ipv4_address,
    "go-duration": go_duration,
    "community": community,
}
