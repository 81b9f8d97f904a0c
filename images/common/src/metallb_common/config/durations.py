"""Durations as Go writes them: `1m30s`, `250ms`, `1.5h`."""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_MAX = (1 << 63) - 1

SECOND = 1_000_000_000


def parse_duration(text: str) -> int:
    """Nanoseconds, cut below one. Raises ValueError with the reason."""
    sign, rest = 1, text
    if rest[:1] in ("+", "-"):
        sign, rest = (-1 if rest[0] == "-" else 1), rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'invalid duration "{text}"')
    total, position = 0, 0
    while position < len(rest):
        match = _PART.match(rest, position)
        if match is None or not (match[1] or match[3]):
            raise ValueError(_why(text, rest[position:]))
        if len(match[1]) > 20:
            raise ValueError(f'invalid duration "{text}"')
        unit = _UNITS[match[4]]
        total += int(match[1] or 0) * unit
        if match[3]:
            digits = match[3][:20]
            total += int(digits) * unit // 10 ** len(digits)
        if total > _MAX:
            raise ValueError(f'invalid duration "{text}": longer than 292 years')
        position = match.end()
    return sign * total


def _why(text: str, rest: str) -> str:
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", rest):
        return f'missing unit in duration "{text}"'
    if match := re.match(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]+)", rest):
        return f'unknown unit "{match[1]}" in duration "{text}"'
    return f'invalid duration "{text}"'


def format_duration(nanoseconds: int) -> str:
    """As Go prints it for whole seconds: `0s`, `30s`, `1m30s`, `1h0m0s`."""
    if nanoseconds < 0:
        return "-" + format_duration(-nanoseconds)
    seconds, rest = divmod(nanoseconds, SECOND)
    if rest:
        return f"{nanoseconds / SECOND:.9f}".rstrip("0") + "s"
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
