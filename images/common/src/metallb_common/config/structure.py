"""The schema, compiled into functions that read YAML nodes: structure, types, bounds and hints.

One pass gives plain values (dicts, lists, text, numbers, and what `FORMATS` makes of text) and the
errors, each with its node's position and the schema's own hint. Walking nodes rather than loaded
data is what keeps positions, source text and duplicate keys; and it is several times faster and
smaller than a general validator, which the tests use as the second opinion.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

from metallb_common.config.addresses import Refusal
from metallb_common.config.compose import Mapping, Node, Scalar, Sequence
from metallb_common.config.errors import REDACTED, ConfigError, format_path, hushed, secret
from metallb_common.config.scalars import as_bool, as_number, is_null, known_tag, retyped

Schema = dict[str, Any]
#: Text -> value, or Refusal. The walk is given to add warnings to, and to know the path.
Format = Callable[[str, Scalar, "Walk"], Any]
Check = Callable[[Node, "Walk"], Any]

#: What the walk may visit: a ConfigMap holds 1 MiB, and an entry takes two bytes. Aliases let a
#: small text stand for a tree of any size.
MAX_VISITS = 500_000
#: After this many errors the walk ends: nobody reads more, and each costs time and memory.
MAX_ERRORS = 200
#: Warnings beyond this many are dropped.
MAX_WARNINGS = 200

#: Keywords that mean something here. Any other in the schema is a mistake, but for those in _ELSEWHERE.
_KNOWN: Final = frozenset(
    (
        *("type", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength"),
        *("items", "minItems", "maxItems"),
        *("properties", "required", "additionalProperties", "propertyNames", "$ref"),
        *("title", "hint", "missing", "misspelt"),
    )
)
#: Keywords whose rule `pools`, `peers` and `selectors` check, with better words.
_ELSEWHERE: Final = frozenset(("$schema", "$id", "definitions", "allOf", "not", "uniqueItems"))


class _Invalid:
    """In place of a value that was refused."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final[Any] = _Invalid()


class TooMuch(Exception):
    """The document, with its aliases expanded, is larger than any real one."""


class TooManyErrors(Exception):
    """MAX_ERRORS have been found: the rest is not looked at."""


@dataclass(slots=True)
class Walk:
    """One validation: where it is, and what it found."""

    root: Node
    helm: bool = False  # scalars are re-typed by Helm before anybody sees them
    path: list[str | int] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)
    warnings: list[ConfigError] = field(default_factory=list)
    visits: int = MAX_VISITS

    def refuse(self, node: Node, reason: str, fix: str = "") -> Any:
        self.errors.append(ConfigError(format_path(self.path), node.line, node.column, reason, fix))
        if len(self.errors) >= MAX_ERRORS:
            raise TooManyErrors
        return INVALID

    def warn(self, node: Node, reason: str, fix: str = "") -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(ConfigError(format_path(self.path), node.line, node.column, reason, fix))

    def visit(self, count: int) -> None:
        self.visits -= count
        if self.visits < 0:
            raise TooMuch


def shown(text: str, limit: int = 60) -> str:
    """A value in a message: quoted, cut, and without a password."""
    text = hushed(text)
    return json.dumps(text if len(text) <= limit else text[:limit] + "...", ensure_ascii=False)


def describe(node: Node, quote: bool = True) -> str:
    """What a node is, for "X where Y is wanted"."""
    if not isinstance(node, Scalar):
        return "a list" if isinstance(node, Sequence) else "a mapping"
    if is_null(node):
        return "nothing"
    value = " " + shown(node.value) if quote else ""
    if as_bool(node) is not None:
        return "the boolean" + value
    number = as_number(node)
    if number is not None:
        return ("the number" if isinstance(number, int) else "the fraction") + value
    return "the text" + value


_WANTED: Final = {
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


class Compiler:
    """Schema -> Check, each definition once."""

    def __init__(self, schema: Schema, formats: dict[str, Format]) -> None:
        self.definitions: dict[str, Schema] = schema.get("definitions", {})
        self.formats = formats
        self.compiled: dict[str, Check] = {}
        self.homes = _homes(schema)
        self.root = self.check(schema)

    def resolve(self, schema: Schema) -> Schema:
        """The schema itself, or the definition it refers to."""
        ref = schema.get("$ref")
        return self.definitions[ref.removeprefix("#/definitions/")] if ref else schema

    def check(self, schema: Schema) -> Check:
        ref = schema.get("$ref")
        if ref:
            name = ref.removeprefix("#/definitions/")
            if name not in self.compiled:
                self.compiled[name] = self.check(self.definitions[name])
            return self.compiled[name]
        unknown = set(schema) - _KNOWN - _ELSEWHERE
        if unknown:
            raise ValueError(f"schema keywords without a meaning here: {sorted(unknown)}")
        return self.dispatch(schema)

    def dispatch(self, schema: Schema) -> Check:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        nullable = "null" in kinds
        hint = schema.get("hint", "")
        wanted = " or ".join(_WANTED[k] for k in kinds if k != "null")
        on_map = self.mapping(schema, hint) if "object" in kinds else None
        on_list = self.sequence(schema, hint) if "array" in kinds else None
        on_scalar = _scalar(schema, kinds, hint, wanted, self.formats)

        def check(node: Node, walk: Walk) -> Any:
            if type(node) is Scalar:
                if nullable and is_null(node):
                    return None
                return on_scalar(node, walk)
            if type(node) is Mapping and on_map is not None:
                return on_map(node, walk)
            if type(node) is Sequence and on_list is not None:
                return on_list(node, walk)
            return _mismatch(node, walk, wanted, hint)

        return check

    def sequence(self, schema: Schema, hint: str) -> Check:
        item = self.check(schema["items"])
        least, most = schema.get("minItems", 0), schema.get("maxItems")

        def check(node: Sequence, walk: Walk) -> Any:
            items = node.items
            walk.visit(len(items))
            if len(items) < least or (most is not None and len(items) > most):
                return walk.refuse(node, f"{len(items)} entries", hint)
            path = walk.path
            out = []
            for i, child in enumerate(items):
                path.append(i)
                out.append(item(child, walk))
                path.pop()
            return out

        return check  # type: ignore[return-value]

    def mapping(self, schema: Schema, hint: str) -> Check:
        properties = {key: self.check(sub) for key, sub in schema.get("properties", {}).items()}
        missing = {key: sub["missing"] for key, sub in schema.get("properties", {}).items() if "missing" in sub}
        required = tuple(schema.get("required", ()))
        others = schema.get("additionalProperties")
        other = self.check(others) if isinstance(others, dict) else None
        names = self.check(schema["propertyNames"]) if "propertyNames" in schema else None
        suggest = _suggester(schema, self.homes)

        def check(node: Mapping, walk: Walk) -> Any:
            items = node.items
            walk.visit(len(items))
            path = walk.path
            out: dict[str, Any] = {}
            for key, (key_node, child) in items.items():
                path.append(key)
                sub = properties.get(key, other)
                if sub is None:
                    path[-1] = name = hushed(key) if not secret(path[:-1]) else REDACTED
                    walk.refuse(key_node, f"could not parse config: unknown key {shown(name)}", suggest(key))
                else:
                    if names is not None:
                        names(Scalar(key, key_node.line, key_node.column, plain=False), walk)
                    value = sub(child, walk)
                    if value is INVALID and key in missing and _empty(child):
                        walk.errors[-1] = ConfigError(
                            format_path(path), child.line, child.column, missing[key], walk.errors[-1].fix
                        )
                    if value is not None or key not in properties:
                        out[key] = value
                path.pop()
            for key in required:
                if key not in items:
                    path.append(key)
                    walk.refuse(
                        node,
                        missing.get(key, f"missing {key}"),
                        self.resolve(schema["properties"][key]).get("hint", ""),
                    )
                    path.pop()
            return out

        return check  # type: ignore[return-value]


def _empty(node: Node) -> bool:
    if isinstance(node, Scalar):
        return is_null(node) or node.value == "" or as_number(node) == 0
    return not node.items


def _mismatch(node: Node, walk: Walk, wanted: str, hint: str) -> Any:
    found = describe(node, quote=not secret(walk.path))
    return walk.refuse(node, f"could not parse config: {found} where {wanted} is wanted", hint)


def _scalar(schema: Schema, kinds: list[str], hint: str, wanted: str, formats: dict[str, Format]) -> Check:
    readers: list[Callable[[Scalar, Walk], Any]] = []
    if "boolean" in kinds:
        readers.append(lambda node, walk: as_bool(node))
    if "integer" in kinds:
        readers.append(_integer(schema, hint))
    if "string" in kinds:
        readers.append(_text(schema, kinds, hint, formats))

    def check(node: Scalar, walk: Walk) -> Any:
        if node.tag and not known_tag(node):
            tag = "YAML tag " + shown(node.tag) if not secret(walk.path) else "its YAML tag"
            return walk.refuse(node, f"could not parse config: {tag} is not supported", hint)
        for read in readers:
            value = read(node, walk)
            if value is not None:
                return value
        return _mismatch(node, walk, wanted, hint)

    return check  # type: ignore[return-value]


def _integer(schema: Schema, hint: str) -> Callable[[Scalar, Walk], Any]:
    low, high = schema["minimum"], schema["maximum"]

    def read(node: Scalar, walk: Walk) -> Any:
        number = as_number(node)
        if number is None:
            return None
        if not isinstance(number, int):
            return None  # a fraction, or not finite: no whole number
        if not low <= number <= high:
            return walk.refuse(node, f"invalid value {number}, must be in {low}-{high} range", hint)
        return number

    return read


def _text(schema: Schema, kinds: list[str], hint: str, formats: dict[str, Format]) -> Callable[[Scalar, Walk], Any]:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
    enum = frozenset(schema["enum"]) if "enum" in schema else None
    pattern = re.compile(schema["pattern"]) if "pattern" in schema else None
    form = formats[schema["format"]] if "format" in schema else None
    optional = "null" in kinds
    also_number = "integer" in kinds

    def read(node: Scalar, walk: Walk) -> Any:
        text = node.value
        if also_number and as_number(node) is not None:
            return None
        if node.plain:
            if is_null(node):
                return None
            if walk.helm and (changed := retyped(node)):
                name = "the password" if secret(walk.path) else shown(text)
                return walk.refuse(
                    node, f"could not parse config: Helm reads {name} as {changed}, not as text", "quote it"
                )
        if form is not None:
            if optional and not text:
                return ""
            try:
                return form(text, node, walk)
            except Refusal as refusal:
                fix = f"{refusal.fix}; {hint}" if refusal.fix else hint
                return walk.refuse(node, refusal.reason, fix)
        if (
            len(text) < shortest
            or (longest is not None and len(text) > longest)
            or (enum is not None and text not in enum)
            or (pattern is not None and not pattern.search(text))
        ):
            return walk.refuse(node, _not_allowed(walk, text), hint)
        return text

    return read


def _not_allowed(walk: Walk, text: str) -> str:
    key = next((step for step in reversed(walk.path) if isinstance(step, str)), "")
    if key == "protocol":
        return f'unknown protocol "{text}"'
    if key == "password":
        return "invalid password: it is too long"
    if secret(walk.path):
        return f"invalid {hushed(key)}"
    if key == "peer-asn":
        return f"could not parse config: the text {shown(text)} where an AS number is wanted"
    return f"invalid {key} {shown(text)}"


def kebab(key: str) -> str:
    """`peerASN`, `peer_asn`, `PeerAsn` -> `peer-asn`."""
    split = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", lambda m: f"{m[1] or m[3]}-{m[2] or m[4]}", key)
    return split.replace("_", "-").lower()


def _homes(schema: Schema) -> dict[str, str]:
    """Key -> title of the object it belongs to, for keys that went astray by a wrong indent."""
    homes: dict[str, str] = {}
    for definition in schema.get("definitions", {}).values():
        for key in definition.get("properties", ()):
            homes.setdefault(key, definition.get("title", ""))
    return homes


def _suggester(schema: Schema, homes: dict[str, str]) -> Callable[[str], str]:
    keys = list(schema.get("properties", ()))
    misspelt: dict[str, str] = schema.get("misspelt", {})
    squashed = {key.replace("-", ""): key for key in keys}

    def suggest(key: str) -> str:
        known = misspelt.get(key) or misspelt.get(kebab(key)) or squashed.get(kebab(key).replace("-", ""))
        if known:
            return f"it is spelt {known}"
        home = homes.get(key) or homes.get(kebab(key))
        if home:
            return f"{kebab(key)} is a key of {'an' if home[0] in 'aeio' else 'a'} {home}: check the indentation"
        if schema.get("title") == "label selector":
            return str(schema["hint"])
        close = difflib.get_close_matches(kebab(key)[:100], keys, 1, 0.7)
        return f"it is spelt {close[0]}" if close else f"the keys here are {', '.join(keys)}"

    return suggest


@cache
def schema() -> Schema:
    """The bundled schema (made by schema/build.py)."""
    text = resources.files(__package__).joinpath("config.schema.json").read_text("utf-8")
    loaded: Schema = json.loads(text)
    return loaded
