"""Finds configurations in files as they lie in a repository: bare, in a ConfigMap, in Helm values,
in a Flux HelmRelease, in an Argo CD Application, and in Lists of these.

Line numbers always are the file's, also for a document that is text inside another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metallb_common.config.compose import Document, Mapping, Node, Scalar, Sequence, compose
from metallb_common.config.errors import ConfigError
from metallb_common.config.parse import Parsed, from_config_map, parse, parse_node
from metallb_common.config.structure import shown

#: Kinds of our own, for files that name none.
BARE, VALUES, UNKNOWN = "Config", "HelmValues", "unknown"

_CONFIG_KEYS = frozenset(("address-pools", "peers", "bgp-communities", "bfd-profiles"))
_VALUES_KEYS = frozenset(
    ("controller", "speaker", "prometheus", "rbac", "psp", "existingConfigMap", "global", "fullnameOverride")
)
_INLINE = "configInline"


@dataclass(frozen=True, slots=True)
class Found:
    """One document of a file."""

    number: int  # from 1; every item of a List, and every source of an Application, counts as one
    kind: str
    parsed: Parsed | None  # None: skipped
    line: int
    note: str = ""  # why it was skipped


def find(text: str | bytes) -> Iterator[Found]:
    """Every document of one file, in order."""
    documents, failure = compose(text)
    number = 0
    for document in documents:
        if document.root is None and len(documents) > 1:
            continue  # nothing between two document markers
        for kind, parsed, node, note in _document(document):
            number += 1
            yield Found(number, kind, parsed, node.line if node else document.line, note)
    if failure is not None:
        yield Found(number + 1, UNKNOWN, Parsed(None, (failure,)), failure.line)
    elif number == 0:
        yield Found(1, BARE, parse(""), 1)


_Judged = tuple[str, Parsed | None, Node | None, str]


def _document(document: Document) -> Iterator[_Judged]:
    root = document.root
    for kind, parsed, node, note in _node(root):
        if document.errors and parsed is not None:
            twice = tuple(document.errors)
            parsed = Parsed(None, (*twice, *parsed.errors), parsed.warnings)
        yield kind, parsed, node, note


def _node(node: Node | None) -> Iterator[_Judged]:
    if not isinstance(node, Mapping):
        yield BARE, parse_node(node) if node else parse(""), node, ""
        return
    kind = _text(node, "kind")
    if not kind or not _text(node, "apiVersion"):
        yield _without_kind(node)
    elif kind == "List" or (kind.endswith("List") and isinstance(_get(node, "items"), Sequence)):
        items = _get(node, "items")
        for item in items.items if isinstance(items, Sequence) else ():
            yield from _node(item)
    elif kind == "ConfigMap":
        yield _config_map(node)
    elif kind == "HelmRelease":
        yield from _holder(kind, node, [[_get(node, "spec", "values")]])
    elif kind == "Application" and _text(node, "apiVersion").startswith("argoproj.io/"):
        yield from _holder(kind, node, _argo_values(node))
    else:
        yield kind, None, node, _skipped(node, "holds no configuration of this kind")


def _without_kind(node: Mapping) -> _Judged:
    if _inline_of(node):
        return VALUES, _values(node), node, ""
    if _CONFIG_KEYS.intersection(node.items):
        return BARE, parse_node(node), node, ""
    if values := _holding(node):
        return VALUES, _values(values), node, ""
    if _VALUES_KEYS.intersection(node.items):
        return VALUES, None, node, f"skipped: Helm values without {_INLINE}"
    return BARE, parse_node(node), node, ""


def _config_map(node: Mapping) -> _Judged:
    data = _get(node, "data")
    entries = data.items if isinstance(data, Mapping) else {}
    config = entries.get("config")
    if config is not None:
        value = config[1]
        if not isinstance(value, Scalar):
            error = ConfigError(
                "", value.line, value.column, "could not parse config: data.config must be text", "write config: |"
            )
            return "ConfigMap", Parsed(None, (error,)), node, ""
        return "ConfigMap", _inside(value, parse), node, ""
    other = next((key for key in ("config.yaml", "config.yml") if key in entries), None)
    if other is None:
        return "ConfigMap", None, node, _skipped(node, "has no key config")
    parsed = from_config_map({other: ""})
    line = entries[other][0].line
    return (
        "ConfigMap",
        Parsed(parsed.config, (), tuple(dataclasses.replace(w, line=line) for w in parsed.warnings)),
        node,
        "",
    )


def _holder(kind: str, node: Mapping, sources: list[list[Node | None]]) -> Iterator[_Judged]:
    """Each source's first values that hold a configuration; a note when none does."""
    found = False
    for parsed in filter(None, map(_first, sources)):
        found = True
        yield kind, parsed, node, ""
    if not found:
        yield kind, None, node, _skipped(node, f"holds no values with {_INLINE}")


def _first(values: list[Node | None]) -> Parsed | None:
    for candidate in values:
        if isinstance(candidate, Scalar) and candidate.value:
            parsed = _inside(candidate, _values_text)
            if parsed.config is not None or parsed.errors:
                return parsed
        if isinstance(candidate, Mapping) and (holding := _holding(candidate)):
            return _values(holding)
    return None


def _argo_values(node: Mapping) -> list[list[Node | None]]:
    sources = _get(node, "spec", "sources")
    every = [_get(node, "spec", "source"), *(sources.items if isinstance(sources, Sequence) else ())]
    return [[_get(source, "helm", key) for key in ("valuesObject", "values")] for source in every]


def _holding(values: Mapping) -> Mapping | None:
    """The values that hold configInline: these, or those for a dependency of a parent chart."""
    child = _get(values, "metallb")
    return next((v for v in (values, child) if isinstance(v, Mapping) and _inline_of(v)), None)


def _inline_of(values: Mapping) -> str:
    return next((k for k in values.items if k.replace("_", "").replace("-", "").lower() == _INLINE.lower()), "")


def _values(values: Mapping) -> Parsed:
    """Helm values: what stands under configInline, read as Helm passes it on."""
    if _INLINE in values.items:
        return parse_node(values.items[_INLINE][1], helm=True)
    wrong = _inline_of(values)
    key = values.items[wrong][0]
    error = ConfigError(
        wrong, key.line, key.column, f"could not parse config: unknown key {shown(wrong)}", f"it is spelt {_INLINE}"
    )
    return Parsed(None, (error,))


def _values_text(text: str) -> Parsed:
    """Helm values as text; without configInline there is neither a configuration nor an error."""
    documents, failure = compose(text)
    if failure is not None:
        return Parsed(None, (failure,))
    root = documents[0].root if documents else None
    holding = _holding(root) if isinstance(root, Mapping) else None
    if holding is None:
        return Parsed(None)
    parsed = _values(holding)
    if documents[0].errors:
        return Parsed(None, (*documents[0].errors, *parsed.errors), parsed.warnings)
    return parsed


def _inside(holder: Scalar, read: Callable[[str], Parsed]) -> Parsed:
    """Read a text that stands in a scalar, and move the lines to where they are in the file.

    Only a literal block (`|`) keeps its lines; for any other the line of the scalar is given.
    """
    parsed = read(holder.value)

    def moved(found: tuple[ConfigError, ...]) -> tuple[ConfigError, ...]:
        return tuple(
            dataclasses.replace(e, line=holder.line + e.line if holder.literal and e.line else holder.line)
            for e in found
        )

    return Parsed(parsed.config, moved(parsed.errors), moved(parsed.warnings))


def _get(node: Node | None, *keys: str) -> Node | None:
    for key in keys:
        if not isinstance(node, Mapping) or key not in node.items:
            return None
        node = node.items[key][1]
    return node


def _text(node: Mapping, key: str) -> str:
    value = _get(node, key)
    return value.value if isinstance(value, Scalar) else ""


def _skipped(node: Mapping, why: str) -> str:
    name = _get(node, "metadata", "name")
    named = f" {name.value}" if isinstance(name, Scalar) else ""
    return f"skipped: {_text(node, 'kind')}{named} {why}"
