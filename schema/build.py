"""Bundles the schemas, and writes what is made of them. `--check`: only prove that all is fresh.

schema/config.schema.yaml  ->  images/common/src/metallb_common/config/config.schema.json
schema/values.schema.yaml  ->  chart/values.schema.json (with the former inside)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

import reference

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "schema"

Schema = dict[str, Any]

#: Words that only build.py and the images read: Helm must not see them.
OWN = ("hint", "missing", "misspelt", "refused", "examples", "format")
#: An unknown key is answered with the list of those that there are, up to this many; a longer list hides the answer.
LISTED = 20
#: Keywords that say what a value must be, as opposed to what is inside it.
VALUE = (
    *("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "uniqueItems", "not", "const", "allOf", "propertyNames"),
)


def load(name: str) -> Schema:
    """A source schema with its fragments written out."""
    schema: Schema = yaml.safe_load((SOURCE / name).read_text("utf-8"))
    fragments: dict[str, str] = schema.pop("fragments", {})
    for _ in range(4):  # fragments are made of fragments
        fragments = {key: expand(text, fragments) for key, text in fragments.items()}
    expanded: Schema = walk(schema, lambda key, value: expand(value, fragments) if key == "pattern" else value)
    return expanded


def expand(text: str, fragments: dict[str, str]) -> str:
    return re.sub(r"<([a-z0-9]+)>", lambda m: fragments[m[1]], text)


def walk(value: Any, change: Any, key: str = "") -> Any:
    """The same tree with `change(key, leaf)` for every leaf."""
    if isinstance(value, dict):
        return {k: walk(v, change, k) for k, v in value.items()}
    if isinstance(value, list):
        return [walk(v, change, key) for v in value]
    return change(key, value)


def subschemas(schema: Schema, change: Any) -> Schema:
    """The schema with `change` applied to each schema directly inside."""
    out = dict(schema)
    for key in ("properties", "definitions"):
        if key in schema:
            out[key] = {name: change(sub) for name, sub in schema[key].items()}
    for key in ("items", "additionalProperties", "propertyNames", "not", "if", "then", "else"):
        if isinstance(schema.get(key), dict):
            out[key] = change(schema[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            out[key] = [change(sub) for sub in schema[key]]
    return out


def for_images(schema: Schema) -> Schema:
    """Without prose."""
    out = {k: v for k, v in subschemas(schema, for_images).items() if k not in ("description", "default", "examples")}
    return {k: v for k, v in out.items() if k != "title" or "properties" in schema}


def for_helm(schema: Schema) -> Schema:
    """Without our own words, hints turned into what Helm prints, and misspelt keys refused by name."""
    out = subschemas(schema, for_helm)
    misspelt = {**out.get("misspelt", {}), **other_spellings(schema.get("properties", {}))}
    if "properties" in out and schema.get("additionalProperties") is False:
        for wrong, right in misspelt.items():
            out["properties"].setdefault(wrong, {"const": f"it is spelt {right}"})
        for wrong, why in out.get("refused", {}).items():
            out["properties"][wrong] = {"const": why}
    hint = out.get("hint")
    if hint:
        condition = {k: out.pop(k) for k in VALUE if k in out}
        if "required" in out and condition["type"] == "object":
            condition["required"] = out["required"]  # says which key is missing; the hint says what it is
        out |= {"if": condition, "else": {"const": hint}}
    if "properties" in out and schema.get("additionalProperties") is False:
        # Beside "additional properties not allowed", which names the key and says nothing of what to do.
        known = {"propertyNames": {"enum": list(out["properties"])}}
        told = {"if": known, "else": {"const": known_keys(sorted(schema["properties"]))}}
        out |= {"allOf": [*out.get("allOf", []), told]} if "if" in out else told
    return {k: v for k, v in out.items() if k not in OWN and not k.startswith("$schema")}


def known_keys(keys: list[str]) -> str:
    """What Helm prints about an object with a key that is not among these."""
    these = "that helm show values lists" if len(keys) > LISTED else ", ".join(keys)
    return f"a mapping with the keys {these}: correct or remove any other"


def other_spellings(properties: Schema) -> dict[str, str]:
    """peer-asn -> peerAsn, peerASN, peer_asn: how the same keys are written elsewhere."""
    out: dict[str, str] = {}
    for key in properties:
        if "-" in key:
            words = key.split("-")
            camel = words[0] + "".join(w.capitalize() for w in words[1:])
            acronyms = re.sub(r"(Asn|Ips|Ip|Id|Ttl|Bgp|Bfd)(?=[A-Z]|$)", lambda m: _ACRONYMS[m[1]], camel)
            for other in (camel, acronyms, key.replace("-", "_")):
                out[other] = key
    return out


_ACRONYMS = {"Asn": "ASN", "Ips": "IPs", "Ip": "IP", "Id": "ID", "Ttl": "TTL", "Bgp": "BGP", "Bfd": "BFD"}


def bundle() -> Schema:
    """The chart's schema: values, and the configuration among its definitions."""
    values, config = load("values.schema.yaml"), load("config.schema.yaml")
    renamed = {name: "config" + name[0].upper() + name[1:] for name in config["definitions"]}

    def rename(key: str, value: Any) -> Any:
        if key == "$ref" and value.startswith("#/definitions/"):
            return "#/definitions/" + renamed[value.removeprefix("#/definitions/")]
        return value

    config = walk(config, rename)
    definitions = {renamed[name]: sub for name, sub in config.pop("definitions").items()}
    config.pop("$schema"), config.pop("$id")
    local = walk(values, lambda k, v: "#/definitions/config" if k == "$ref" and v == "config.schema.yaml" else v)
    local["definitions"] = {**local.get("definitions", {}), "config": config, **definitions}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **for_helm(local)}


def outputs() -> dict[Path, str]:
    """Every generated file and its content."""

    def text(schema: Schema) -> str:
        return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"

    common = ROOT / "images/common/src/metallb_common/config"
    return {
        common / "config.schema.json": text(for_images(load("config.schema.yaml"))),
        ROOT / "chart/values.schema.json": text(bundle()),
        ROOT / "docs/configuration.md": reference.render(load("config.schema.yaml")),
    }


def main(arguments: list[str]) -> int:
    stale = []
    for path, content in outputs().items():
        if path.exists() and path.read_text("utf-8") == content:
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
    for path in stale:
        print(f"schema: {path.relative_to(ROOT)} {'is stale: make generate' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
