"""Addresses, CIDRs and ranges, as text -> values. Raise Refusal with a reason and what to write."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from metallb_common.net.ranges import BITS, Address, AddressRange, Version, to_address

_PREFIX = re.compile(r"[0-9]{1,9}\Z")
_V4 = re.compile(r"[0-9.]{7,15}\Z")
_V6 = re.compile(r"[0-9A-Fa-f:.]{2,45}\Z")
_SHORT_END = re.compile(r"[0-9]{1,3}\Z")

#: An IPv4 range written with a dash that holds more than this is more likely a typo than a wish.
LARGE_RANGE = 1 << 16
#: An IPv4 CIDR shorter than this is more than any site owns.
SHORT_PREFIX = 8


class Refusal(ValueError):
    """Why a text is refused, and what to write instead."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


def parse_address(text: str) -> Address:
    """An IPv4 or IPv6 address; an IPv4-mapped one (RFC 4291 section 2.5.5.2) is given as IPv4."""
    try:
        if ":" in text:
            if not _V6.match(text):
                raise ValueError
            v6 = IPv6Address(text)
            return v6.ipv4_mapped or v6
        if not _V4.match(text):
            raise ValueError
        return IPv4Address(text)
    except ValueError:
        raise Refusal(f'"{text}" is no IP address') from None


def parse_range(text: str) -> tuple[AddressRange, str]:
    """A CIDR or `low-high` -> the range, and a warning or an empty string."""
    if "-" in text:
        return _parse_dash(text)
    base, slash, length = text.partition("/")
    if not slash:
        raise _no_prefix(text)
    try:
        address = parse_address(base)
    except Refusal:
        raise Refusal(f'"{base}" before the slash is no IP address', _trim_fix(text)) from None
    version = _version(address)
    bits = BITS[version]
    if not _PREFIX.match(length):
        raise Refusal(f'"{length}" after the slash is no prefix length')
    prefix = int(length)
    if version == 4 and ":" in base:
        prefix -= 96
    if not 0 <= prefix <= bits:
        raise Refusal(f"the prefix length of an IPv{version} CIDR is from 0 to {bits}")
    size = 1 << (bits - prefix)
    value = int(address)
    first = value & ~(size - 1)
    found = AddressRange(version, first, first + size - 1)
    if value != first:
        low, high = to_address(version, found.first), to_address(version, found.last)
        return found, (f'"{text}" has host bits set: it is taken as the whole network {low}/{prefix}, {low} to {high}')
    if version == 4 and prefix < SHORT_PREFIX:
        return found, f'"{text}" holds {size:,} addresses'
    return found, ""


def _version(address: Address) -> Version:
    return 4 if address.version == 4 else 6


def _parse_dash(text: str) -> tuple[AddressRange, str]:
    low, high = (part.strip(" \t") for part in text.split("-", 1))
    try:
        first = parse_address(low)
    except Refusal:
        raise Refusal(f'invalid start IP "{low}"') from None
    try:
        last = parse_address(high)
    except Refusal:
        fix = ""
        if first.version == 4 and _SHORT_END.match(high):
            fix = f"write both ends in full: {low}-{low.rpartition('.')[0]}.{high}"
        raise Refusal(f'invalid end IP "{high}"', fix) from None
    if first.version != last.version or (":" in low) != (":" in high):
        raise Refusal("it mixes an IPv4 and an IPv6 address", "write one range for each family")
    if int(first) > int(last):
        raise Refusal(f'start IP "{low}" is after the end IP "{high}"', f"write {high}-{low}")
    found = AddressRange(_version(first), int(first), int(last))
    if found.version == 4 and found.size > LARGE_RANGE:
        return found, f'"{text}" holds {found.size:,} addresses: is one end mistyped?'
    return found, ""


def _no_prefix(text: str) -> Refusal:
    stripped = text.strip()
    try:
        address = parse_address(stripped)
    except Refusal:
        parts = stripped.split()
        if len(parts) == 2:
            return Refusal("neither a CIDR nor a range", f"write a dash between both ends: {parts[0]}-{parts[1]}")
        if any(mark in text for mark in ("${", "$(", "{{", "<<", "%s")):
            return Refusal("neither a CIDR nor a range", "it looks like a template that was not rendered")
        return Refusal("neither a CIDR nor a range")
    return Refusal("an address without a prefix length", f"write {address}/{BITS[_version(address)]}")


def _trim_fix(text: str) -> str:
    return f'write it without spaces: "{text.strip()}"' if text != text.strip() else ""
