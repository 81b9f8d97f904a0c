"""What is wrong with a document: where, why, and what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Steps from the document's root: keys and list indices.
Path = tuple[str | int, ...]


#: In place of a password, or of what may be one.
REDACTED = "<redacted>"

_PASSWORD = re.compile(r"(?is)(password(?:[-_]?secret)?+).+")
_QUOTED = re.compile(r'(?i)"[^"]*password[^"]*"')


def secret(path: Iterable[str | int]) -> bool:
    """Whether what stands there may be a password, in whatever wrong shape: no message quotes it."""
    return any(isinstance(step, str) and "password" in step.lower() for step in path)


def hushed(text: str) -> str:
    """The text without what follows the word password: a key and its value that have run together, or more of them."""
    return _PASSWORD.sub(r"\1...", text)


def _quotes_hushed(text: str) -> str:
    return _QUOTED.sub(lambda quote: hushed(quote[0][:-1]) + '"', text)


def printable(text: str) -> str:
    """The text with what cannot be seen escaped as in JSON: line breaks, control sequences, changes of direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One error or warning. `line` and `column` count from 1; 0 means that there is no position."""

    path: str  # such as address-pools[0].addresses[1]; empty for the document itself
    line: int
    column: int
    reason: str
    fix: str = ""  # what to write instead, or empty

    def __post_init__(self) -> None:
        """What it quotes may be anything: it must make no second line, no terminal do something, tell no password."""
        for field in ("reason", "fix"):
            object.__setattr__(self, field, _quotes_hushed(printable(getattr(self, field))))

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        if self.path:
            where += f"{self.path}: "
        return where + self.reason + (f" ({self.fix})" if self.fix else "")


def format_path(path: Iterable[str | int]) -> str:
    """Keys joined by dots, indices in brackets; a key that holds a dot or bracket is quoted."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
            continue
        step = hushed(step)
        if not step or any(c in step for c in '.[]" ') or not step.isprintable():
            escaped = printable(step.replace("\\", "\\\\").replace('"', '\\"'))
            out += f'["{escaped}"]'
        else:
            out += f".{step}" if out else step
    return out
