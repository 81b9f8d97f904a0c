"""A prefix as octets: what ten thousand Services are kept, compared and sent as.

One octet of family (4 or 6), then the form of the wire: the length in bits, and as many octets as it takes
(RFC 4271 section 4.3). Bits behind the length are zero. `ipaddress` would cost several times as much.
"""

from __future__ import annotations

import ipaddress

from .capabilities import Family

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Prefix = bytes

_V4, _V6 = b"\x04", b"\x06"


def prefix_of(network: Network) -> Prefix:
    length = network.prefixlen
    return bytes((network.version, length)) + network.network_address.packed[: (length + 7) // 8]


def parse(text: str) -> Prefix:
    """Of ``ADDRESS/LENGTH``. Raises ValueError when there is no such prefix."""
    address, _, bits = text.partition("/")
    # The prefixes of almost all Services: whole addresses. An IPv6 prefix can be 32 bits long, too.
    if bits == "32" and ":" not in address:
        octets = bytes(map(int, address.split(".")))
        if len(octets) == 4:
            return b"\x04\x20" + octets
    return prefix_of(ipaddress.ip_network(text))


def text_of(prefix: Prefix) -> str:
    """As ADDRESS/LENGTH, for people."""
    address = prefix[2:].ljust(4 if prefix[0] == 4 else 16, b"\0")
    return f"{ipaddress.ip_address(address)}/{prefix[1]}"


def family_of(prefix: Prefix) -> Family:
    return "ipv4" if prefix[0] == 4 else "ipv6"
