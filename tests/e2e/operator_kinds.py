"""The Prometheus Operator's kinds, as far as the chart uses them: closed, so that a wrong field is refused.

They stand in for the operator's own definitions in a cluster that lacks these.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
DURATION: Schema = {
    "type": "string",
    "pattern": "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$",
}


def closed(required: list[str] | None = None, **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return schema | ({"required": required} if required else {})


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items}


RELABELING = closed(
    sourceLabels=many(TEXT),
    separator=TEXT,
    targetLabel=TEXT,
    regex=TEXT,
    replacement=TEXT,
    action={"type": "string", "enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep", "hashmod"]},
)
ENDPOINT = closed(
    port=TEXT,
    path=TEXT,
    scheme={"type": "string", "enum": ["http", "https"]},
    interval=DURATION,
    scrapeTimeout=DURATION,
    relabelings=many(RELABELING),
    metricRelabelings=many(RELABELING),
)
SELECTION = {
    "jobLabel": TEXT,
    "selector": closed(matchLabels=LABELS),
    "namespaceSelector": closed(any={"type": "boolean"}, matchNames=many(TEXT)),
}
RULE = closed(
    ["expr"],
    alert=TEXT,
    record=TEXT,
    expr={"x-kubernetes-int-or-string": True},
    labels=LABELS,
    annotations=LABELS,
    **{"for": DURATION},
)

SPECS = {
    "PodMonitor": closed(["selector", "podMetricsEndpoints"], podMetricsEndpoints=many(ENDPOINT), **SELECTION),
    "ServiceMonitor": closed(["selector", "endpoints"], endpoints=many(ENDPOINT), **SELECTION),
    "PrometheusRule": closed(groups=many(closed(["name"], name=TEXT, interval=DURATION, rules=many(RULE)))),
}


def definition(kind: str, spec: Schema) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    schema = closed(["spec"], apiVersion=TEXT, kind=TEXT, metadata={"type": "object"}, spec=spec)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


DEFINITIONS = [definition(kind, spec) for kind, spec in SPECS.items()]
