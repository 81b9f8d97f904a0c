"""docs/configuration.md from schema/config.schema.yaml: every key with its type, default, meaning and an example."""

from __future__ import annotations

from typing import Any

import yaml

Schema = dict[str, Any]

_HEAD = """\
<!-- Made by schema/build.py from schema/config.schema.yaml: edit that file, then run `make generate`. -->
# Configuration

The configuration is one YAML document. It stands

- under the key `config` of a ConfigMap: `config` in the namespace `metallb-system` with the plain manifests, or the
  one that the chart's value `existingConfigMap` names;
- or under `configInline` of the chart's values, from which the chart makes that ConfigMap.

It is watched: a change takes effect at once and restarts nothing. A document with a mistake changes nothing at all: a
Warning event on the ConfigMap says where the mistake is and what to write instead, and
`metallb_k8s_client_config_stale_bool` is 1 until it is corrected. To know before, run
[`metallb-config check`](metallb-config.md).

```yaml
address-pools:
- name: default
  protocol: layer2
  addresses:
  - 192.0.2.10-192.0.2.99
  - 2001:db8::/120
```

## How it is read

- Unknown keys, keys that stand twice, and values of another type are refused. A key without a value is the same as no
  key.
- Where text is wanted, a number or a boolean without quotes counts as the text that it is written as: `name: 0123` is
  the name 0123. In the chart's values it does not: Helm turns `0123` into 83 and `yes` into `true` before anybody else
  sees them, so the chart refuses such a value and asks for quotes. Helm's reader also keeps the last of two equal keys,
  drops YAML tags, and reads the first document of a file only, all without a word: what is refused or warned about
  elsewhere, the chart cannot see. `metallb-config check` of the document sees it.
- Whole numbers are whole numbers: `my-asn: 1.10` is refused, it does not mean 1.
- Only the first YAML document counts, and only the key `config`; anything beside them is warned about.
- An address with bits set after the prefix, such as 192.0.2.200/24, means the whole network 192.0.2.0/24. That is
  accepted with a warning. One address is written with its full prefix: 192.0.2.200/32.
- Durations have a unit: `90s`, `1m30s`, `500ms`. Fractions of seconds are cut.

What MetalLB 0.12 accepts is accepted with the same meaning. Refused all the same are mistakes that it takes for
something else without a word: a fraction where a whole number belongs (`my-asn: 1.10` is AS 1 there), a range from an
IPv4 to an IPv6 address (a pool without an address), a hold time above 65535s, a negative keepalive time, an IPv6
address as `router-id`, a password of more than 80 bytes, lines that a wrong indent puts after the document's end (they
are dropped), and YAML tags of one's own.
"""

_EXAMPLES = """\
## Examples

Two pools for layer 2: one that everybody may use but for the router's address, and one that a single namespace may use,
announced on one interface.

```yaml
address-pools:
- name: default
  protocol: layer2
  addresses:
  - 192.0.2.0/26
  exclude-addresses:
  - 192.0.2.1/32
- name: ingress
  protocol: layer2
  addresses:
  - 192.0.2.64-192.0.2.71
  service-allocation:
    priority: 1
    namespaces: [ingress]
  l2-advertisements:
  - interfaces: [eth1]
```

Two routers, one for each rack, with BFD and the passwords in Secrets (under `configInline`; elsewhere the speakers must
be allowed to read these, see [`password-secret`](#password-secret)). They get one route for each address, which goes no
further than their own AS, and one route for the whole pool, marked with a community.

```yaml
peers:
- name: rack1
  my-asn: 64512
  peer-asn: 64601
  peer-address: 198.51.100.1
  bfd-profile: fast
  password-secret: {name: bgp-rack1}
  node-selectors:
  - match-labels: {example.com/rack: "1"}
- name: rack2
  my-asn: 64512
  peer-asn: 64602
  peer-address: 2001:db8:2::1
  bfd-profile: fast
  password-secret: {name: bgp-rack2}
  node-selectors:
  - match-labels: {example.com/rack: "2"}
bfd-profiles:
- name: fast
  receive-interval: 100
  transmit-interval: 100
bgp-communities:
  backup: "64512:20"
address-pools:
- name: default
  protocol: bgp
  addresses:
  - 203.0.113.0/24
  - 2001:db8:1::/64
  bgp-advertisements:
  - aggregation-length: 32
    aggregation-length-v6: 128
    communities: [no-export]
  - aggregation-length: 24
    aggregation-length-v6: 64
    communities: [backup]
```

To take a pool out of use, write `disabled: true`, wait until no Service holds an address of it any more, then remove
it.
"""

_TYPES = {"string": "text", "integer": "number", "boolean": "true or false", "array": "list", "object": "mapping"}
_FORMATS = {
    "address-range": "CIDR or range",
    "address": "IP address",
    "ipv4-address": "IPv4 address",
    "go-duration": "duration",
    "community": "community",
}


def render(schema: Schema) -> str:
    """The whole page."""
    return _Reference(schema).page()


class _Reference:
    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.definitions: Schema = schema["definitions"]
        self.done: set[str] = set()
        self.pending: list[tuple[str, Schema]] = []

    def page(self) -> str:
        parts = [_HEAD, "## Document\n", self.table(self.schema)]
        while self.pending:
            title, found = self.pending.pop(0)
            parts += [f"## {title}\n", _sentence(found.get("description", "")) + "\n", self.table(found)]
        parts += [self.formats(), _EXAMPLES]
        return "\n".join(parts)

    def resolve(self, schema: Schema) -> Schema:
        """A property with what it refers to; its own words go first."""
        ref = schema.get("$ref")
        if not ref:
            return schema
        return {**self.definitions[ref.removeprefix("#/definitions/")], **schema}

    def table(self, found: Schema) -> str:
        required = found.get("required", [])
        lines = ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
        for key, raw in found["properties"].items():
            schema = self.resolve(raw)
            default = "**required**" if key in required else self.default(schema)
            lines.append(f"| `{key}` | {self.type_of(key, schema)} | {default} | {self.meaning(schema)} |")
        return "\n".join(lines) + "\n"

    def meaning(self, schema: Schema) -> str:
        text = _sentence(schema["description"])
        if "minimum" in schema and "integer" in schema["type"]:
            text += f" From {schema['minimum']} to {schema['maximum']}."
        for example in schema.get("examples", [])[:1]:
            text += f" Example: `{_flow(example)}`."
        return text.replace("|", "\\|")

    @staticmethod
    def default(schema: Schema) -> str:
        return f"`{_flow(schema['default'])}`" if schema.get("default") not in (None, []) else ""

    def type_of(self, key: str, schema: Schema) -> str:
        if "enum" in schema:
            return " or ".join(f"`{value}`" for value in schema["enum"] if value is not None)
        kinds = [kind for kind in _as_list(schema["type"]) if kind != "null"]
        return " or ".join(self.kind_of(key, schema, kind) for kind in kinds)

    def kind_of(self, key: str, schema: Schema, kind: str) -> str:
        if kind == "array":
            item = self.resolve(schema["items"])
            if "properties" in item:
                return f"list of {self.link(key, item)}"
            return f"list of {self.type_of(key, item)}"
        if kind == "object":
            if "properties" in schema:
                return self.link(key, schema)
            return f"mapping of names to {self.type_of(key, self.resolve(schema['additionalProperties']))}"
        if kind == "string" and schema.get("pattern") == "^(internal|external)$":
            return "`internal` or `external`"
        return _FORMATS.get(schema.get("format", ""), _TYPES[kind])

    def link(self, key: str, found: Schema) -> str:
        """A link to the section of an object, which is written once."""
        title = found.get("title") or key
        if title not in self.done:
            self.done.add(title)
            self.pending.append((title[0].upper() + title[1:] if found.get("title") else f"`{title}`", found))
        return f"[{title}](#{title.lower().replace(' ', '-')})"

    def formats(self) -> str:
        wellknown = self.definitions["community"]["pattern"].rpartition("|(")[2].removesuffix("))$")
        names = ", ".join(f"`{name}`" for name in wellknown.split("|"))
        return f"""\
## Notations

| What | How it is written |
|---|---|
| CIDR or range | {_sentence(self.definitions["addressRange"]["hint"])} |
| IP address | {_sentence(self.definitions["address"]["hint"])} |
| duration | {_sentence(self.definitions["duration"]["hint"])} |
| community | {_sentence(self.definitions["community"]["hint"])} |
| well-known community | {names} |
"""


def _as_list(kinds: Any) -> list[str]:
    return kinds if isinstance(kinds, list) else [kinds]


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).removesuffix("\n").removesuffix("\n...")
