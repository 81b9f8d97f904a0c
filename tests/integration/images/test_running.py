"""The images, run under runc as confined as the chart confines them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import images, oci

pytestmark = pytest.mark.root

COMMON = ["--port=7472", "--namespace=metallb-system"]
ROLES = {
    "controller": ("controller", COMMON, "", []),
    "announcer": ("speaker", [*COMMON, "--mode=announcer", "--node-name=node1"], "", ["CAP_NET_RAW"]),
    "cluster": ("speaker", [*COMMON, "--mode=cluster", "--node-name=node1"], "65534:65534", []),
    "both": ("speaker", [*COMMON, "--node-name=node1"], "", ["CAP_NET_RAW"]),
}


@pytest.fixture
def role(request: pytest.FixtureRequest, archives: dict[str, Path]) -> Iterator[oci.Container]:
    """A running role; all but the announcer have a ServiceAccount's token. The API server cannot be reached."""
    which, limits = request.param if isinstance(request.param, tuple) else (request.param, {})
    name, arguments, user, capabilities = ROLES[which]
    env, files = oci.pod()
    if which == "announcer":
        files = {}
    with oci.Container(
        archives[name], arguments, env=env, files=files, user=user, capabilities=capabilities, **limits
    ) as container:
        yield container


@pytest.mark.parametrize("name", images.NAMES)
def test_every_module_of_ours_loads(archives: dict[str, Path], name: str) -> None:
    """With what was left out of the libraries: a module that needs it would not load."""
    code = f"""
import importlib, pkgutil, metallb_common, metallb_{name}
count = 0
for package in (metallb_common, metallb_{name}):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config, load_incluster_config
import yaml
assert yaml.__with_libyaml__
print("loaded", count)
"""
    with oci.Container(archives[name], ["-OO", "-c", code], entrypoint=["/usr/bin/python3"]) as container:
        assert container.exit_code(60) == 0, container.output()
        assert int(container.output().split("loaded ")[1]) > 20


@pytest.mark.parametrize("role", ["controller", "announcer", "both"], indirect=True)
def test_metrics_come_up_without_an_api_server(role: oci.Container) -> None:
    """How soon is a target, which `make accept` and `make images` hold."""
    role.wait_http("/metrics", 7472, timeout=60)
    assert "metallb_k8s_client_config_loaded_bool" in role.get("/metrics", 7472)


@pytest.mark.parametrize("role", ["controller", "announcer"], indirect=True)
def test_runs_with_no_more_than_it_needs(role: oci.Container) -> None:
    role.wait_http("/metrics", 7472, timeout=60)
    controller = role.image.user != "0:0"
    assert role.status("Uid").split() == ["65534" if controller else "0"] * 4
    assert int(role.status("CapEff"), 16) == (0 if controller else 1 << 13)  # CAP_NET_RAW
    assert role.status("NoNewPrivs") == "1"


@pytest.mark.parametrize("role", ["cluster"], indirect=True)
def test_the_cluster_half_needs_no_privilege(role: oci.Container) -> None:
    role.wait_output("{", timeout=60)
    assert role.running(), role.output()
    assert role.status("Uid").split() == ["65534"] * 4
    assert int(role.status("CapEff"), 16) == 0


@pytest.mark.parametrize("role", ["controller", "announcer", "both"], indirect=True)
def test_ends_in_order_on_sigterm(role: oci.Container) -> None:
    role.wait_http("/metrics", 7472, timeout=60)
    role.signal("TERM")
    assert role.exit_code(60) == 0, role.output()


LIMITS = {"cpu": 0.1, "memory": 100 << 20}


@pytest.mark.parametrize("role", [("controller", LIMITS), ("announcer", LIMITS)], ids=lambda p: p[0], indirect=True)
def test_alive_at_the_limits_that_real_values_files_set(role: oci.Container) -> None:
    """100m CPU and 100Mi of memory per container."""
    role.wait_http("/livez", 7472, timeout=120)
    role.get("/metrics", 7472)
    assert role.running()


@pytest.mark.parametrize("name", images.NAMES)
def test_metallb_config_is_in_both(archives: dict[str, Path], name: str) -> None:
    good = "address-pools:\n- {name: a, protocol: layer2, addresses: [192.0.2.0/24]}\n"
    bad = good.replace("layer2", "arp")
    for text, code in ((good, 0), (bad, 1)):
        with oci.Container(
            archives[name], ["check", "/config.yaml", "--json"], entrypoint=["metallb-config"], user="65534:65534",
            files={"/config.yaml": text},
        ) as container:  # fmt: skip
            assert container.exit_code(60) == code, container.output()
            said = json.loads(container.output())
            assert ("address-pools[0].protocol" in json.dumps(said)) is bool(code)


@pytest.mark.parametrize("name", images.NAMES)
def test_version(archives: dict[str, Path], name: str) -> None:
    with oci.Container(archives[name], ["--version"]) as container:
        assert container.exit_code(60) == 0, container.output()
        assert images.version().removeprefix("v") in container.output()
