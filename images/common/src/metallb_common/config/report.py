"""Errors and warnings of checks that work on values, with the positions found afterwards."""

from __future__ import annotations

from typing import Any

from metallb_common.config.compose import Mapping, Node, Sequence
from metallb_common.config.errors import ConfigError, Path, format_path
from metallb_common.config.structure import MAX_ERRORS, MAX_WARNINGS

#: An object of the document, as `structure` gives it.
Values = dict[str, Any]


class Report:
    """Collects errors and warnings by path, and finds their positions in the document."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []

    def error(self, path: Path, reason: str, fix: str = "") -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(self._make(path, reason, fix))

    def warn(self, path: Path, reason: str, fix: str = "") -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(self._make(path, reason, fix))

    def _make(self, path: Path, reason: str, fix: str) -> ConfigError:
        node = locate(self.root, path)
        return ConfigError(format_path(path), node.line, node.column, reason, fix)


def locate(root: Node, path: Path) -> Node:
    """The node at the path, or the deepest one on the way there."""
    node = root
    for step in path:
        if isinstance(node, Mapping) and step in node.items:
            node = node.items[str(step)][1]
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            break
    return node
