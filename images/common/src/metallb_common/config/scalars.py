"""What a plain YAML scalar means, by the rules of the Go library that MetalLB 0.11/0.12 reads with.

Where the schema wants text, the source text counts and none of this is asked: `0123` stays `0123`.
"""

from __future__ import annotations

import re
from typing import Final

from metallb_common.config.compose import Scalar

_TRUE: Final = frozenset(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE: Final = frozenset(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))

_DECIMAL = re.compile(r"[-+]?[0-9]+\Z")
_RADIX = re.compile(r"([-+]?)0([xXoObB])([0-9A-Fa-f]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_BASE = {"x": 16, "o": 8, "b": 2}

STR_TAG = "tag:yaml.org,2002:str"
_TAGS: Final = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null"))


def is_null(node: Scalar) -> bool:
    """Nothing: an empty plain scalar, `~` or `null`."""
    return (node.plain and node.value in _NULL and node.tag != STR_TAG) or node.tag == "tag:yaml.org,2002:null"


def known_tag(node: Scalar) -> bool:
    """No explicit tag, or one of the core schema."""
    return not node.tag or node.tag in _TAGS


def as_bool(node: Scalar) -> bool | None:
    """The boolean, or None when the scalar is none (also when quoted)."""
    if not node.plain or node.tag == STR_TAG:
        return None
    if node.value in _TRUE:
        return True
    return False if node.value in _FALSE else None


def as_number(node: Scalar) -> int | float | None:
    """The number, or None when the scalar is none (also when quoted).

    A whole float such as 64512.0 is given as int. A leading zero means octal, as there.
    """
    if (not node.plain and node.tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")) or node.tag == STR_TAG:
        return None
    text = node.value.replace("_", "")
    if len(text) > 64:  # int() of a long text costs time; no number here has as many digits
        return None
    if _DECIMAL.match(text):
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0" and all(c in "01234567" for c in digits):
            value = int(digits, 8)
            return -value if text[0] == "-" else value
        return int(text)
    if match := _RADIX.match(text):
        try:
            value = int(match[3], _BASE[match[2].lower()])
        except ValueError:
            return None
        return -value if match[1] == "-" else value
    if _FLOAT.match(text):
        number = float(text)
        return int(number) if number.is_integer() else number
    return float("nan") if _SPECIAL.match(text) else None


def retyped(node: Scalar) -> str:
    """What Helm makes of this scalar instead of text: `a number`, `a boolean`, or empty if it stays text."""
    if not known_tag(node) or node.tag == STR_TAG:
        return ""
    if as_bool(node) is not None:
        return "a boolean"
    return "a number" if as_number(node) is not None else ""
