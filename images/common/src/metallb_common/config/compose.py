"""YAML text -> nodes with line and column.

The events come from libyaml; the tree is built here, because the library's own composer recurses in
C without a bound (a few thousand brackets end the process), and forgets duplicate keys. Scalars
keep their source text: what they mean depends on what the schema wants (`scalars`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from metallb_common.config.errors import REDACTED, ConfigError, Path, format_path, hushed, secret

#: Deeper than any real manifest; bounds the recursion of everybody who walks the tree.
MAX_DEPTH = 100
#: Nodes after merge keys have been expanded. A ConfigMap holds 1 MiB, and a node takes two bytes.
MAX_MERGED = 200_000


@dataclass(slots=True)
class Scalar:
    value: str
    line: int
    column: int
    plain: bool  # written without quotes: may mean a number, a boolean or nothing
    tag: str = ""  # explicit tag, in full
    literal: bool = False  # written as |: line N of its text is N lines below


@dataclass(slots=True)
class Sequence:
    items: list[Node]
    line: int
    column: int
    tag: str = ""


@dataclass(slots=True)
class Mapping:
    items: dict[str, tuple[Scalar, Node]]
    line: int
    column: int
    tag: str = ""


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Document:
    root: Node | None  # None: nothing but comments
    line: int  # where it starts
    errors: list[ConfigError] = field(default_factory=list)  # duplicate keys and the like


class _Refused(Exception):
    def __init__(self, line: int, column: int, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.error = ConfigError("", line, column, reason, fix)


def compose(text: str | bytes) -> tuple[list[Document], ConfigError | None]:
    """All documents up to the first syntax error, and that error. Never raises."""
    documents: list[Document] = []
    try:
        source = _decode(text)
        composer = _Composer(source)
        composer.next()  # stream start
        while True:
            event = composer.next()
            if isinstance(event, yaml.StreamEndEvent):
                return documents, None
            documents.append(composer.document(event))
    except _Refused as refused:
        return documents, refused.error
    except yaml.YAMLError as error:
        failure = _syntax_error(error)
        if len(documents) == 1 and "<document start>" in failure.reason:
            documents.clear()  # text after the first document that no `---` announces: a wrong indent
        return documents, failure


def _decode(text: str | bytes) -> str:
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            line = text.count("\n", 0, error.start) + 1
            raise _Refused(line, 1, "could not parse config: not valid Unicode text") from None
        return text.removeprefix("\ufeff")
    encoding = "utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return text.decode(encoding)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise _Refused(line, 1, "could not parse config: not UTF-8 text", "save the file as UTF-8") from None


def _syntax_error(error: yaml.YAMLError) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    said = f"{problem} {context}" if context else str(problem)
    return ConfigError(
        path="",
        line=mark.line + 1 if mark else 1,
        column=mark.column + 1 if mark else 1,
        reason=f"could not parse config: yaml: {said}",
        fix=_syntax_fix(str(problem)),
    )


def _syntax_fix(problem: str) -> str:
    if "mapping values are not allowed" in problem or "did not find expected" in problem or "document start" in problem:
        return "check the indentation here and on the line before"
    if "cannot start any token" in problem:
        return "indent with spaces, and put text that starts with a special character in quotes"
    if "could not find expected ':'" in problem:
        return "a key needs a colon and a space; is a template not rendered?"
    return ""


class _Composer:
    """Builds nodes of events; one object per text."""

    def __init__(self, text: str) -> None:
        self.next = yaml.CSafeLoader(text).get_event
        self.anchors: dict[str, Node] = {}
        self.merged = 0
        self.key = ""  # the last one
        self.twice: list[tuple[Mapping, Scalar]] = []  # keys that their mapping has already

    def document(self, start: Any) -> Document:
        self.anchors = {}
        self.twice = []
        event = self.next()
        line = start.start_mark.line + 1
        root: Node | None = self.node(event, 0)
        if isinstance(root, Scalar) and root.plain and not root.value and not root.tag:
            root = None
        self.next()  # document end
        return Document(root, line, _duplicates(root, self.twice) if root and self.twice else [])

    def node(self, event: Any, depth: int) -> Node:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        kind = type(event)
        if kind is yaml.AliasEvent:
            known = self.anchors.get(event.anchor)
            if known is None:
                anchor = "unknown anchor" if secret([self.key]) else f"unknown anchor '{event.anchor}'"
                raise _Refused(line, column, f"could not parse config: yaml: {anchor} referenced")
            return known
        if depth > MAX_DEPTH:
            raise _Refused(line, column, f"could not parse config: nested more than {MAX_DEPTH} levels deep")
        node: Node
        if kind is yaml.ScalarEvent:
            style = event.style
            plain = style is None or style == ""
            tag = event.tag or ""
            if tag == "!":  # "not to be resolved": text
                tag, plain = "", False
            node = Scalar(event.value, line, column, plain, tag, style == "|")
            if event.anchor:
                self.anchors[event.anchor] = node
        elif kind is yaml.SequenceStartEvent:
            node = Sequence([], line, column, event.tag or "")
            if event.anchor:
                self.anchors[event.anchor] = node
            add = node.items.append
            while type(event := self.next()) is not yaml.SequenceEndEvent:
                add(self.node(event, depth + 1))
        else:
            node = Mapping({}, line, column, event.tag or "")
            if event.anchor:
                self.anchors[event.anchor] = node
            self.fill(node, depth)
        return node

    def fill(self, node: Mapping, depth: int) -> None:
        items = node.items
        merges: list[tuple[Scalar, Node]] = []
        while type(event := self.next()) is not yaml.MappingEndEvent:
            key = self.node(event, depth + 1)
            self.key = key.value if isinstance(key, Scalar) else ""
            value = self.node(self.next(), depth + 1)
            if not isinstance(key, Scalar):
                raise _Refused(
                    key.line,
                    key.column,
                    "could not parse config: a key must be text, not a list or a mapping",
                    "is a template not rendered? text that starts with { or [ must be in quotes",
                )
            if key.plain and key.value == "<<":
                merges.append((key, value))
            elif key.value in items:
                self.twice.append((node, key))
            else:
                items[key.value] = (key, value)
        for key, value in merges:
            sources = value.items if isinstance(value, Sequence) else [value]
            for source in sources:
                if not isinstance(source, Mapping) or source is node:
                    raise _Refused(
                        key.line, key.column, "could not parse config: yaml: only mappings can be merged by <<"
                    )
                self.merged += len(source.items)
                if self.merged > MAX_MERGED:
                    raise _Refused(key.line, key.column, "could not parse config: yaml: excessive merging by <<")
                for name, pair in source.items.items():
                    items.setdefault(name, pair)


def _duplicates(root: Node, twice: list[tuple[Mapping, Scalar]]) -> list[ConfigError]:
    """Errors for keys that stand twice in their mapping, with the paths found now."""
    paths: dict[int, Path] = {}
    pending: list[tuple[Node, Path]] = [(root, ())]
    while pending:
        node, path = pending.pop()
        if isinstance(node, Scalar) or id(node) in paths:
            continue
        paths[id(node)] = path
        children = enumerate(node.items) if isinstance(node, Sequence) else ((k, v[1]) for k, v in node.items.items())
        pending.extend((child, (*path, step)) for step, child in children)
    return [_twice(paths.get(id(mapping), ()), mapping, key) for mapping, key in twice[:100]]


def _twice(path: Path, mapping: Mapping, key: Scalar) -> ConfigError:
    name = REDACTED if secret(path) else hushed(key.value)
    return ConfigError(
        format_path((*path, name)),
        key.line,
        key.column,
        f"could not parse config: key {name!r} is already set in line {mapping.items[key.value][0].line}",
        "remove one of the two, or join what they hold",
    )
