"""Items of `desired` as JSON values, and back: one generic codec, driven by the field types.

A field that holds its default is left out; an unknown field is ignored, so that a half of version N
understands N-1 and N+1 as long as fields are only added. Decoding checks every type: any JSON value
decodes to an item or raises DecodeError.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

from metallb_speaker.desired import KINDS, Item


class DecodeError(ValueError):
    """Not an item; the text says where."""


Decoder = Callable[[Any], Any]


def encode(item: Item) -> dict[str, Any]:
    """The item's fields by name, without those at their default."""
    return _encode(item)


def decode(kind: str, value: Any) -> Item:
    """The item of this kind. Raises DecodeError."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise DecodeError(f"no kind {kind!r}")
    item: Item = decoder(value)
    return item


def _encode(value: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, default in _FIELDS[type(value)]:
        field = getattr(value, name)
        if field == default:
            continue
        if isinstance(field, tuple) and field and type(field[0]) in _FIELDS:
            field = [_encode(entry) for entry in field]
        out[name] = field
    return out


def _decoder(hint: Any) -> Decoder:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (str, int, bool):
        return _exact(hint)
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union([_decoder(argument) for argument in arguments])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _tuple(_decoder(arguments[0]))
    if dataclasses.is_dataclass(hint):
        return _record(typing.cast(type, hint))
    raise TypeError(f"no codec for {hint!r}")


def _exact(kind: type) -> Decoder:
    def decode_exact(value: Any) -> Any:
        if type(value) is not kind:
            raise DecodeError(f"{kind.__name__} expected, not {type(value).__name__}")
        return value

    return decode_exact


def _literal(allowed: tuple[Any, ...]) -> Decoder:
    def decode_literal(value: Any) -> Any:
        if not isinstance(value, str | int) or value not in allowed:
            raise DecodeError(f"one of {allowed} expected")
        return value

    return decode_literal


def _union(decoders: list[Decoder]) -> Decoder:
    def decode_union(value: Any) -> Any:
        for decoder in decoders:
            try:
                return decoder(value)
            except DecodeError:
                continue
        raise DecodeError(f"{type(value).__name__} is of none of the types here")

    return decode_union


def _tuple(inner: Decoder) -> Decoder:
    def decode_tuple(value: Any) -> Any:
        if type(value) is tuple:
            return value  # never from JSON: a list of names that the reader has checked already
        if type(value) is not list:
            raise DecodeError(f"list expected, not {type(value).__name__}")
        return tuple([inner(entry) for entry in value])

    return decode_tuple


def _record(kind: type) -> Decoder:
    hints = typing.get_type_hints(kind)
    decoders = {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(kind)}
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def decode_record(value: Any) -> Any:
        if type(value) is not dict:
            raise DecodeError(f"{kind.__name__}: object expected, not {type(value).__name__}")
        missing = needed - value.keys()
        if missing:
            raise DecodeError(f"{kind.__name__}: {', '.join(sorted(missing))} missing")
        try:
            return kind(**{name: decoders[name](field) for name, field in value.items() if name in decoders})
        except DecodeError as failure:
            raise DecodeError(f"{kind.__name__}: {failure}") from None

    return decode_record


def _defaults(kind: type) -> list[tuple[str, Any]]:
    return [(field.name, field.default) for field in dataclasses.fields(kind)]


def _all_records(kinds: list[type]) -> dict[type, list[tuple[str, Any]]]:
    """Every dataclass that the kinds reach, with its fields and their defaults."""
    out: dict[type, list[tuple[str, Any]]] = {}
    queue: list[Any] = list(kinds)
    while queue:
        hint = queue.pop()
        queue += typing.get_args(hint)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in out:
            out[hint] = _defaults(hint)
            queue += typing.get_type_hints(hint).values()
    return out


_FIELDS = _all_records(list(KINDS.values()))
_DECODERS: dict[str, Decoder] = {name: _record(kind) for name, kind in KINDS.items()}
