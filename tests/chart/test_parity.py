"""Schema, values and templates know the same keys; every value is described; null is no crash."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.tools import CHART, template

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

#: Kept for users' files and for parent charts; nothing that is rendered depends on them (NOTES tell of speaker.frr).
UNREAD = {"enabled", "speaker.frr"}
#: Whole maps and lists of the user's, which templates pass on.
OPEN = re.compile(r"(labels|Labels|annotations|Annotations|securityContext|strategy|Strategy|configInline)$")


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Dotted keys of values.yaml down to what a user sets as one thing."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value and not OPEN.search(here):
            yield from leaves(value, here)
        else:
            yield here


def keys(values: Any, path: str = "") -> Iterator[str]:
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        yield here
        if isinstance(value, dict):
            yield from keys(value, here)


def properties(node: Any) -> dict[str, Any]:
    """The properties of a schema node: its own, behind $ref, and in allOf."""
    found: dict[str, Any] = {}
    if "$ref" in node:
        target: Any = SCHEMA
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        found |= properties(target)
    for part in [*node.get("allOf", []), *([node["if"]] if "if" in node else [])]:
        found |= properties(part)
    return found | {k: v for k, v in node.get("properties", {}).items() if not refused(v)}


def refused(node: Any) -> bool:
    """Whether the property is there only to refuse a misspelt or foreign key with a hint."""
    return node is False or (isinstance(node, dict) and "const" in node and "type" not in node)


def schema_at(key: str) -> Any:
    node: Any = SCHEMA
    for step in key.split("."):
        found = properties(node)
        if step not in found:
            return None
        node = found[step]
    return node


def test_every_value_is_in_the_schema(tally: Callable[[str, int], None]) -> None:
    tally("parity: values that schema, templates and README know", len(list(leaves(VALUES))))
    assert [key for key in leaves(VALUES) if schema_at(key) is None] == []


def test_every_key_of_the_schema_is_a_value() -> None:
    def walk(node: Any, values: Any, path: str) -> Iterator[str]:
        for key, sub in properties(node).items():
            here = f"{path}.{key}" if path else key
            if not isinstance(values, dict) or key not in values:
                yield here
            elif isinstance(values[key], dict) and values[key] and not OPEN.search(here):
                yield from walk(sub, values[key], here)

    # A component's own `image` has a digest; the one of speaker.frr has none, for it has no effect.
    assert sorted(set(walk(SCHEMA, VALUES, "")) - {"speaker.frr.image.digest"}) == []


#: What Helm itself gives to a template.
BUILT_IN = {
    *("Values", "Chart", "Name", "Version", "AppVersion", "Files", "Get"),
    *("Release", "Service", "Namespace", "Capabilities", "APIVersions", "Has"),
}


def actions(text: str) -> Iterator[str]:
    """The actions of a template, in order, without comments; a text in one may hold braces."""
    bare = re.sub(r"{{-? ?/[*].*?[*]/ ?-?}}", "", text, flags=re.DOTALL)
    yield from re.findall(r"""{{-?((?:"(?:\\.|[^"\\])*"|`[^`]*`|[^"`])*?)-?}}""", bare)


def reads(text: str) -> Iterator[str]:
    """Dotted keys that a template reads by way of .Values, or of a variable that holds a part of it."""
    held: dict[str, str] = {}
    for action in actions(text):
        bare = re.sub(r'"(?:\\.|[^"\\])*"|`[^`]*`', '""', action)
        for variable, rest in re.findall(r"([$]\w*)((?:[.]\w+)+)", bare):
            steps = rest[1:].split(".")
            if variable in held:
                yield ".".join(filter(None, [held[variable], *steps]))
        for rest in re.findall(r"[.]Values((?:[.]\w+)+)", bare):
            yield rest[1:]
        assigned = re.match(
            r"\s*([$]\w+) :?= (?:[$]\w*)?(?:[.]root)?[.]Values((?:[.]\w+)*)( [|] default dict)?\s*$", bare
        )
        if assigned:
            held[assigned[1]] = assigned[2][1:]
        for variable in re.findall(r"([$]\w+)[^$]* :?= ", bare):
            if not (assigned and variable == assigned[1]):
                held.pop(variable, None)


def sources() -> list[str]:
    return [p.read_text() for p in (CHART / "templates").rglob("*") if p.is_file()]


def test_every_value_that_a_template_reads_is_there() -> None:
    """`.Values.a.b`, `$section.b`: a misspelt key would silently be empty."""
    known = set(keys(VALUES))
    used = {key for text in sources() for key in reads(text)}
    assert len(used) > 80
    assert sorted(used - known) == []


def test_every_field_that_a_template_reads_is_known() -> None:
    """Inside `with` and helpers: a step of some value, an argument that a template passes, or Helm's own."""
    thresholds = VALUES["prometheus"]["prometheusRule"]["addressPoolUsage"]["thresholds"]
    steps = {step for key in keys(VALUES) for step in key.split(".")} | set(thresholds[0])
    read, passed = set(), set()
    for action in (a for text in sources() for a in actions(text)):
        passed |= set(re.findall(r'"(\w+)"', action))
        read |= set(re.findall(r"[.]([A-Za-z]\w*)", re.sub(r'"(?:\\.|[^"\\])*"|`[^`]*`', "", action)))
    assert len(read) > 80
    assert sorted(read - steps - passed - BUILT_IN) == []


def test_every_value_is_described() -> None:
    """Each leaf has a comment `# --` right above it; helm-docs makes the README of these."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    node = yaml.compose((CHART / "values.yaml").read_text(), Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    blank = []

    def visit(mapping: yaml.MappingNode, path: str, described: bool) -> None:
        for key, value in mapping.value:
            here = f"{path}.{key.value}" if path else key.value
            above = key.start_mark.line - 1
            while above >= 0 and lines[above].strip().startswith("#") and "# --" not in lines[above]:
                above -= 1
            own = above >= 0 and re.fullmatch(r"\s*# -- \S.{5,}", lines[above]) is not None
            if isinstance(value, yaml.MappingNode) and value.value:
                visit(value, here, described or own)
            elif not own and not described:
                blank.append(here)

    visit(node, "", False)
    assert blank == []


#: Everything on, so that templates read what they would otherwise pass over.
ALL_ON: dict[str, Any] = {
    "prometheus": {
        k: {"enabled": True} for k in ("podMonitor", "serviceMonitor", "prometheusRule", "grafanaDashboard")
    },
    "networkPolicy": {"enabled": True},
    "controller": {"podDisruptionBudget": {"enabled": True}},
}


def without(key: str, values: Any) -> Any:
    """A copy of the values without the key: what Helm makes of `key: null`."""
    out = copy.deepcopy(values)
    here = out
    *steps, last = key.split(".")
    for step in steps:
        if step not in here:
            return out
        here = here[step]
    here.pop(last, None)
    return out


def with_null(keys_: list[str]) -> Any:
    values = copy.deepcopy(ALL_ON)
    for key in keys_:
        here = values
        *steps, last = key.split(".")
        for step in steps:
            here = here.setdefault(step, {})
        here[last] = None
    return values


CHECKER = jsonschema.Draft7Validator(SCHEMA)
EMPTIABLE = [key for key in sorted(keys(VALUES)) if CHECKER.is_valid(without(key, VALUES))]


def test_null_is_taken_wherever_the_schema_allows_it() -> None:
    """`key:` with nothing behind it takes the default away, a thing that people's files are full of."""
    shallow_first = sorted(EMPTIABLE, key=lambda key: -key.count("."))
    inner = [
        k
        for k in shallow_first
        if not k.endswith((".enabled", ".create")) and not any(o.startswith(f"{k}.") for o in EMPTIABLE)
    ]
    told = template(with_null(inner))
    assert told.returncode == 0, told.stderr
    assert len(list(yaml.safe_load_all(told.stdout))) > 20


@pytest.mark.parametrize("key", [k for k in EMPTIABLE if isinstance(without(k, VALUES), dict) and "." not in k])
def test_null_for_a_whole_section(key: str) -> None:
    told = template(with_null([key]))
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    "key", [k for k in EMPTIABLE if k.count(".") and any(o.startswith(f"{k}.") for o in keys(VALUES))]
)
def test_null_for_an_inner_section(key: str) -> None:
    told = template(with_null([key]))
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    "key", ["controller", "speaker", "prometheus", "rbac", "controller.image", "speaker.memberlist"]
)
def test_null_for_what_is_needed_is_refused_by_name(key: str) -> None:
    assert key not in EMPTIABLE
    told = template(with_null([key]))
    assert told.returncode != 0
    assert f"missing property '{key.rpartition('.')[2]}'" in told.stderr


@pytest.mark.parametrize(
    ("typo", "right"),
    [
        ("configInLine", "configInline"),
        ("fullNameOverride", "fullnameOverride"),
        ("existingConfigmap", "existingConfigMap"),
        ("loadbalancerClass", "loadBalancerClass"),
    ],
)
def test_misspelt_key_is_refused_with_the_right_one(typo: str, right: str) -> None:
    told = template({typo: "x"})
    assert told.returncode != 0
    assert right in told.stderr
