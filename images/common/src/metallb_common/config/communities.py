"""BGP communities as text -> values (RFC 1997, RFC 8092)."""

from __future__ import annotations

import json
import re

from metallb_common.config.model import Community

#: IANA's well-known communities: RFC 1997, 3765, 7611, 7999, 8326 and 9494.
WELL_KNOWN = {
    "graceful-shutdown": Community((65535, 0)),
    "accept-own": Community((65535, 1)),
    "llgr-stale": Community((65535, 6)),
    "no-llgr": Community((65535, 7)),
    "blackhole": Community((65535, 666)),
    "no-export": Community((65535, 65281)),
    "no-advertise": Community((65535, 65282)),
    "no-export-subconfed": Community((65535, 65283)),
    "no-peer": Community((65535, 65284)),
}

_NUMBER = re.compile(r"[0-9]{1,20}\Z")


def parse_community(text: str) -> Community:
    """`a:b`, `large:a:b:c` or a well-known name. Raises ValueError with the reason."""
    known = WELL_KNOWN.get(text)
    if known is not None:
        return known
    large = text.startswith("large:")
    parts = text.removeprefix("large:").split(":")
    limit = 0xFFFFFFFF if large else 0xFFFF
    if len(parts) != (3 if large else 2) or not all(_NUMBER.match(p) for p in parts):
        raise ValueError(f"invalid community string {json.dumps(text, ensure_ascii=False)}")
    numbers = tuple(int(p) for p in parts)
    for number in numbers:
        if number > limit:
            raise ValueError(f'invalid community string "{text}": {number} is above {limit}')
    return Community(numbers)
