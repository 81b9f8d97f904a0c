"""What is wrong with a document: where, why, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Steps from the document's root: keys and list indices.
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One error or warning. `line` and `column` count from 1; 0 means that there is no position."""

    path: str  # such as address-pools[0].addresses[1]; empty for the document itself
    line: int
    column: int
    reason: str
    fix: str = ""  # what to write instead, or empty

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
        elif not step or any(c in step for c in '.[]" \n'):
            escaped = step.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            out += f'["{escaped}"]'
        else:
            out += f".{step}" if out else step
    return out
