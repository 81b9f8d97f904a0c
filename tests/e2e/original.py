"""The objects of a release of the original chart 0.12.1, as far as an upgrade from it is concerned.

Names, labels, selectors, RBAC, arguments, environment and ports are the original's (its public contract); the images
are ours, which run under them as its own do. What differs from our chart's objects is on purpose: one container in
the speaker's pod, RBAC without Leases and without an object for the accepted configuration, grace period 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

NAME = "metallb"
VERSION = "0.12.1"

Object = dict[str, Any]


def labels(component: str = "") -> dict[str, str]:
    return selector(component) | {
        "helm.sh/chart": f"{NAME}-{VERSION}",
        "app.kubernetes.io/version": f"v{VERSION}",
        "app.kubernetes.io/managed-by": "Helm",
    }


def selector(component: str = "") -> dict[str, str]:
    found = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME}
    return found | ({"app.kubernetes.io/component": component} if component else {})


def thing(api: str, kind: str, name: str, component: str = "", **rest: Any) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels(component)}, **rest}


def allow(group: str, resources: str, verbs: str, *names: str) -> Object:
    rule: Object = {"apiGroups": [group], "resources": resources.split(), "verbs": verbs.split()}
    return rule | ({"resourceNames": list(names)} if names else {})


def rbac(namespace: str) -> list[Object]:
    group = "rbac.authorization.k8s.io"
    api = f"{group}/v1"
    events = allow("", "events", "create patch")
    cluster = {
        "controller": [
            allow("", "services", "get list watch"),
            allow("", "services/status", "update"),
            events,
        ],
        "speaker": [
            allow("", "services endpoints nodes", "get list watch"),
            allow("discovery.k8s.io", "endpointslices", "get list watch"),
            events,
        ],
    }
    local = {
        f"{NAME}-config-watcher": ([allow("", "configmaps", "get list watch")], ("controller", "speaker")),
        f"{NAME}-pod-lister": ([allow("", "pods", "list")], ("speaker",)),
        f"{NAME}-controller": (
            [
                allow("", "secrets", "create"),
                allow("", "secrets", "list", f"{NAME}-memberlist"),
                allow("apps", "deployments", "get", f"{NAME}-controller"),
            ],
            ("controller",),
        ),
    }

    def subjects(*components: str) -> list[Object]:
        return [{"kind": "ServiceAccount", "name": f"{NAME}-{c}", "namespace": namespace} for c in components]

    found = []
    for component, rules in cluster.items():
        name = f"{NAME}:{component}"
        reference = {"apiGroup": group, "kind": "ClusterRole", "name": name}
        found.append(thing(api, "ClusterRole", name, rules=rules))
        found.append(thing(api, "ClusterRoleBinding", name, roleRef=reference, subjects=subjects(component)))
    for name, (rules, components) in local.items():
        reference = {"apiGroup": group, "kind": "Role", "name": name}
        found.append(thing(api, "Role", name, rules=rules))
        found.append(thing(api, "RoleBinding", name, roleRef=reference, subjects=subjects(*components)))
    return found


def probe() -> Object:
    return {
        "httpGet": {"path": "/metrics", "port": "monitoring"},
        "initialDelaySeconds": 10,
        "periodSeconds": 10,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


def field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def container(component: str, image: str, **rest: Any) -> Object:
    return {
        "name": component,
        "image": image,
        "args": ["--port=7472", f"--config={NAME}", "--log-level=info"],
        "livenessProbe": probe(),
        "readinessProbe": probe(),
        **rest,
    }


def workloads(images: dict[str, str]) -> list[Object]:
    monitoring = {"name": "monitoring", "containerPort": 7472}
    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    controller = container(
        "controller",
        images["controller"],
        env=[
            {"name": "METALLB_ML_SECRET_NAME", "value": f"{NAME}-memberlist"},
            {"name": "METALLB_DEPLOYMENT", "value": f"{NAME}-controller"},
        ],
        ports=[monitoring],
        securityContext=locked | {"capabilities": {"drop": ["ALL"]}},
    )
    speaker = container(
        "speaker",
        images["speaker"],
        env=[
            field("METALLB_NODE_NAME", "spec.nodeName"),
            field("METALLB_HOST", "status.hostIP"),
            field("METALLB_ML_BIND_ADDR", "status.podIP"),
            {
                "name": "METALLB_ML_LABELS",
                "value": f"app.kubernetes.io/name={NAME},app.kubernetes.io/component=speaker",
            },
            {"name": "METALLB_ML_BIND_PORT", "value": "7946"},
            {
                "name": "METALLB_ML_SECRET_KEY",
                "valueFrom": {"secretKeyRef": {"name": f"{NAME}-memberlist", "key": "secretkey"}},
            },
        ],
        ports=[
            monitoring,
            {"name": "memberlist-tcp", "containerPort": 7946, "protocol": "TCP"},
            {"name": "memberlist-udp", "containerPort": 7946, "protocol": "UDP"},
        ],
        securityContext=locked | {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}},
    )
    common = {"terminationGracePeriodSeconds": 0, "nodeSelector": {"kubernetes.io/os": "linux"}}

    def spec(component: str, one: Object, **rest: Any) -> Object:
        pod = common | {"serviceAccountName": f"{NAME}-{component}", "containers": [one]} | rest
        return {
            "selector": {"matchLabels": selector(component)},
            "template": {"metadata": {"labels": selector(component)}, "spec": pod},
        }

    account = {"runAsNonRoot": True, "runAsUser": 65534, "fsGroup": 65534}
    master = [{"key": "node-role.kubernetes.io/master", "effect": "NoSchedule", "operator": "Exists"}]
    return [
        thing(
            "apps/v1",
            "Deployment",
            f"{NAME}-controller",
            "controller",
            spec=spec("controller", controller, securityContext=account),
        ),
        thing(
            "apps/v1",
            "DaemonSet",
            f"{NAME}-speaker",
            "speaker",
            spec=spec("speaker", speaker, hostNetwork=True, tolerations=master),
        ),
    ]


def objects(namespace: str, config: dict[str, Any], images: dict[str, str]) -> list[Object]:
    """Everything that `helm install metallb` of the original gives, but for its PodSecurityPolicies."""
    accounts = [thing("v1", "ServiceAccount", f"{NAME}-{c}", c) for c in ("controller", "speaker")]
    document = thing("v1", "ConfigMap", NAME, data={"config": yaml.safe_dump(config)})
    return [*accounts, *rbac(namespace), document, *workloads(images)]


def chart(folder: Path, namespace: str, config: dict[str, Any], images: dict[str, str]) -> Path:
    """A chart in `folder` that installs them, under the original's name and version."""
    (folder / "templates").mkdir(parents=True)
    about = {"apiVersion": "v2", "name": NAME, "version": VERSION, "appVersion": f"v{VERSION}", "type": "application"}
    (folder / "Chart.yaml").write_text(json.dumps(about))
    (folder / "values.yaml").write_text("{}\n")
    rendered = yaml.safe_dump_all(objects(namespace, config, images))
    (folder / "templates" / "all.yaml").write_text(rendered)
    return folder
