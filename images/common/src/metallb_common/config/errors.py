"""What is wrong with a document: where, why, and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

#: Steps from the document's root: keys and list indices.
Path = tuple[str | int, ...]


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
        """What it quotes may be anything: it must not make a second line, or a terminal do something."""
        for field in ("reason", "fix"):
            object.__setattr__(self, field, printable(getattr(self, field)))

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
        elif not step or any(c in step for c in '.[]" ') or not step.isprintable():
            escaped = printable(step.replace("\\", "\\\\").replace('"', '\\"'))
            out += f'["{escaped}"]'
        else:
            out += f".{step}" if out else step
    return out
