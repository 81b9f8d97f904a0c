"""The corpus of configuration documents: `config/accept` and `config/reject`, one case per file.

Comment lines at the head of a file say what is expected:
    path, reason, hint     (reject) what a user gets from the parser; `reason` is a part of it
    also                   (reject) a further part of the fix
    warn                   (accept) a part of a warning that must be there; without it, there is none
    helm                   who refuses it when Helm renders the chart: `schema` (the default for
                           reject), `validate` (templates), `yaml` (its YAML reader), `quote` (the
                           schema, because Helm re-types the scalar), or `none: why`
    helm-path, helm-hint   where Helm's words differ from `path` and `hint`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "config"


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    head: dict[str, str]

    def get(self, key: str, default: str = "") -> str:
        return self.head.get(key, default)


def cases(kind: str) -> list[Case]:
    """All cases of `accept` or `reject`, by name."""
    out = []
    for path in sorted((CORPUS / kind).glob("*.yaml")):
        text = path.read_text("utf-8")
        head = {}
        for line in text.splitlines():
            if not line.startswith("# "):
                break
            key, _, value = line[2:].partition(": ")
            head[key.removesuffix(":")] = value
        out.append(Case(path.stem, text, head))
    return out
