"""Writes docs/values-from-metallb.md: each value of the original's charts, and what ours does with it.

From official-values.yaml and the comments of chart/values.yaml. ``--check`` compares instead of writing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "values-from-metallb.md"

WORDS = {
    "same": "the same",
    "default": "the same, with another default",
    "more": "the same, and more",
    "no-effect": "accepted without effect",
}

HEAD = """\
# Values of MetalLB's chart, and what ours does with them

Made by `schema/values_table.py`; edit `schema/official-values.yaml`.

Every value of the charts of MetalLB 0.11.0 and 0.12.1 is accepted, with the effect that it had there. A values file
for those charts needs no change, unless it has keys that they never had: those they passed over in silence, and here
they are refused, with the right name or the keys that there are. What ours has beyond them is in the
[chart's README](../chart/README.md).

| Value | What it is | Default there | Default here | Here it is |
|---|---|---|---|---|
"""


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def at(values: Any, key: str) -> Any:
    """The value at a dotted key. Raises KeyError."""
    for step in key.split("."):
        values = values[step]
    return values


def descriptions() -> dict[str, str]:
    """Dotted key -> what the comment `# --` above it in chart/values.yaml says."""
    text = (ROOT / "chart" / "values.yaml").read_text("utf-8")
    lines = text.splitlines()
    out: dict[str, str] = {}

    def visit(node: yaml.Node | None, path: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            here = f"{path}.{key.value}" if path else key.value
            words: list[str] = []
            for line in reversed(lines[: key.start_mark.line]):
                comment = line.strip()
                if not comment.startswith("#"):
                    break
                words.insert(0, comment.removeprefix("# -- ").removeprefix("# "))
                if comment.startswith("# --"):
                    out[here] = " ".join(words)
                    break
            visit(value, here)

    visit(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return out


def cell(value: Any) -> str:
    """A value as JSON in code quotes."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def build() -> str:
    official = load("schema/official-values.yaml")
    told = descriptions()
    values = load("chart/values.yaml")
    lines = []
    for key, entry in official.items():
        there = cell(entry["default"])
        if "default-0.11" in entry:
            there += f" (0.11.0: {cell(entry['default-0.11'])})"
        if "since" in entry:
            there += " (0.12 only)"
        ours = WORDS[entry["ours"]] + "."
        if note := entry.get("note", "").strip():
            ours += " " + note
        what = told.get(key) or told[f"{key}.severity"]  # labels are described one by one
        lines.append(f"| `{key}` | {what} | {there} | {cell(at(values, key))} | {ours} |")
    return HEAD + "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    text = build()
    if arguments == ["--check"]:
        if not TARGET.exists() or TARGET.read_text("utf-8") != text:
            print(f"{TARGET.relative_to(ROOT)} is not fresh: run `make generate`", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print(f"usage: {Path(__file__).name} [--check]", file=sys.stderr)
        return 2
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
