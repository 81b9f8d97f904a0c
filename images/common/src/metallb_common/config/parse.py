"""The document as text -> `Parsed`. Any bytes give a result; nothing raises."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from functools import cache

from metallb_common.config import compose
from metallb_common.config.assemble import assemble
from metallb_common.config.errors import ConfigError
from metallb_common.config.formats import FORMATS
from metallb_common.config.model import Config
from metallb_common.config.report import Report
from metallb_common.config.structure import INVALID, MAX_ERRORS, Check, Compiler, TooManyErrors, TooMuch, Walk, schema

#: The only key of the ConfigMap that is read.
KEY = "config"
_OTHER_KEYS = ("config.yaml", "config.yml", "configInline", "metallb.yaml", "Config", "CONFIG")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Guarantee: `config` is None if, and only if, there are errors."""

    config: Config | None
    errors: tuple[ConfigError, ...] = ()
    warnings: tuple[ConfigError, ...] = ()


def parse(text: str | bytes) -> Parsed:
    """Read one configuration document. Empty text is a valid, empty configuration, with a warning."""
    documents, failure = compose.compose(text)
    if not documents:
        return Parsed(None, (failure,)) if failure else _empty(1)
    parsed = parse_document(documents[0])
    if len(documents) == 1 and failure is None:
        return parsed
    line = documents[1].line if len(documents) > 1 else failure.line if failure else 0
    if parsed.config == Config() and len(documents) > 1 and documents[1].root is not None:
        # 0.12 takes the first document, even an empty one; surely not what was meant.
        fix = "remove the '---' line before it"
    else:
        fix = "put everything into one document"
    extra = ConfigError("", line, 1, "only the first YAML document is read: from here on nothing has any effect", fix)
    return Parsed(parsed.config, parsed.errors, (*parsed.warnings, extra))


def from_config_map(data: MappingOf[str, str] | None) -> Parsed:
    """Read the data of a ConfigMap: its key `config`, and a warning when there is only a look-alike."""
    data = data or {}
    if KEY in data:
        return parse(data[KEY] or "")
    other = next((key for key in _OTHER_KEYS if key in data), None) or next(iter(data), None)
    reason = f"the ConfigMap has no key {KEY!r}, so the configuration is empty"
    if other is None:
        fix = f"put the configuration under the key {KEY!r}"
    else:
        fix = f"only the key {KEY!r} is read, not {other!r}: rename it"
    return Parsed(Config(), (), (ConfigError("data", 0, 0, reason, fix),))


def parse_document(document: compose.Document, helm: bool = False) -> Parsed:
    """Read a document that is composed already."""
    if document.root is None:
        return _empty(document.line)
    parsed = parse_node(document.root, helm=helm)
    if document.errors:
        return Parsed(None, _ordered([*document.errors, *parsed.errors]), parsed.warnings)
    return parsed


def parse_node(root: compose.Node, helm: bool = False) -> Parsed:
    """Read one node. `helm`: as Helm would pass it on, which re-types scalars that are not quoted."""
    walk = Walk(root, helm=helm)
    try:
        values = _compiled()(root, walk)
    except TooMuch:
        walk.errors.append(ConfigError("", root.line, root.column, "could not parse config: it is too large"))
        values = INVALID
    except TooManyErrors:
        walk.errors.append(ConfigError("", 0, 0, f"more than {MAX_ERRORS} errors: the rest was not looked at"))
        values = INVALID
    if walk.errors:
        return Parsed(None, tuple(walk.errors), tuple(walk.warnings))
    if values is None:
        return _empty(root.line)
    report = Report(root)
    config = assemble(values, report)
    warnings = _ordered([*walk.warnings, *report.warnings])
    if report.errors:
        return Parsed(None, _ordered(report.errors), warnings)
    if not values:
        return Parsed(config, (), (*warnings, *_empty(root.line).warnings))
    return Parsed(config, (), warnings)


@cache
def _compiled() -> Check:
    return Compiler(schema(), FORMATS).root


def _ordered(found: list[ConfigError]) -> tuple[ConfigError, ...]:
    return tuple(sorted(found, key=lambda e: (e.line, e.column)))


def _empty(line: int) -> Parsed:
    warning = ConfigError("", line, 1, "the configuration is empty: no addresses are given out", "add address-pools")
    return Parsed(Config(), (), (warning,))
