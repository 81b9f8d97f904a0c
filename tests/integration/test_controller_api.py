"""The controller against a real API server: what it writes, what it keeps, what it survives."""

from __future__ import annotations

import base64
import datetime
import signal
import time
import urllib.error
from collections.abc import Callable, Iterator

import pytest

from tests.controller_lab import LEASE, MAPS, NAMESPACE, Lab, Process, lab, wait

POOLS = """
address-pools:
- {name: default, protocol: layer2, addresses: [172.18.0.200-172.18.0.249, "fc00:f853:ccd:e799::/120"]}
- {name: other, protocol: bgp, addresses: [192.0.2.0/28], auto-assign: false}
"""
ACCEPTED = f"{MAPS}/accepted"


@pytest.fixture(scope="module")
def server_lab() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture
def here(server_lab: Lab) -> Iterator[Lab]:
    yield server_lab
    server_lab.clear()


@pytest.fixture(params=["all rights", "the original's rights"])
def start(request: pytest.FixtureRequest, here: Lab) -> Callable[..., Process]:
    """Starts a controller: once with every right, once with what the original's chart grants."""
    if request.param == "all rights":
        return here.controller
    token = here.original_account()

    def original(*flags: str) -> Process:
        return here.controller(*flags, token=token)

    return original


def test_gives_addresses_and_tells(here: Lab, start: Callable[..., Process]) -> None:
    here.configure(POOLS)
    process = start()
    here.create("web")
    here.create("both", ipFamilyPolicy="RequireDualStack")
    here.create("pooled", annotations={"metallb.universe.tf/address-pool": "other"})
    here.create("asked", loadBalancerIP="172.18.0.240")
    wait(here.all_have_addresses)
    assert here.ip("pooled") == ("192.0.2.0",)
    assert here.ip("asked") == ("172.18.0.240",)
    assert [":" in a for a in here.ip("both")] == [False, True]
    for name in ("web", "both", "pooled", "asked"):
        ips = " ".join(f'"{ip}"' for ip in here.ip(name))
        assert wait(lambda: here.events(name)) == [("Normal", "IPAllocated", f"Assigned IP [{ips}]")]  # noqa: B023
    assert here.services()["default/pooled"]["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"] == "other"
    assert 'metallb_allocator_addresses_in_use_total{pool="default"} 4' in process.page("/metrics")
    assert process.metric("metallb_k8s_client_config_loaded_bool") == 1
    assert process.page("/readyz") == "leading\n"


def test_a_status_write_leaves_the_rest_of_the_object_alone(here: Lab, start: Callable[..., Process]) -> None:
    meta = {
        "name": "rich",
        "labels": {"a": "b"},
        "annotations": {"c": "d", "metallb.io/allow-shared-ip": "k"},
        "finalizers": ["example.com/keep"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"}],
    }
    path = "/api/v1/namespaces/default/services/rich"
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    here.server.create("/api/v1/namespaces/default/services", {"metadata": meta, "spec": spec})
    condition = {
        "type": "example.com/C",
        "status": "True",
        "reason": "R",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    before = here.server.merge(f"{path}/status", {"status": {"conditions": [condition]}})
    here.configure(POOLS)
    start()
    after = wait(lambda: here.ip("rich")) and here.server.get(path)
    assert after["spec"] == before["spec"]
    assert after["status"]["conditions"] == [condition]
    for key in ("labels", "finalizers", "ownerReferences", "uid", "creationTimestamp"):
        assert after["metadata"][key] == before["metadata"][key]
    assert after["metadata"]["annotations"] == meta["annotations"] | {"metallb.io/ip-allocated-from-pool": "default"}


def test_release_and_reuse(here: Lab, start: Callable[..., Process]) -> None:
    here.configure("address-pools:\n- {name: one, protocol: layer2, addresses: [192.0.2.1/32]}\n")
    start()
    here.create("first")
    wait(lambda: here.ip("first"))
    here.create("second")
    wait(lambda: here.events("second"))
    assert here.events("second") == [
        ("Warning", "AllocationFailed", 'Failed to allocate IP for "default/second": no available IPs')
    ]
    here.server.merge("/api/v1/namespaces/default/services/first", {"spec": {"type": "ClusterIP"}})
    assert wait(lambda: here.ip("second")) == ("192.0.2.1",)
    assert here.ip("first") == ()
    here.server.delete("/api/v1/namespaces/default/services/second")
    here.server.merge("/api/v1/namespaces/default/services/first", {"spec": {"type": "LoadBalancer"}})
    assert wait(lambda: here.ip("first")) == ("192.0.2.1",)


def test_a_bad_config_changes_nothing_but_is_told(here: Lab, start: Callable[..., Process]) -> None:
    process = start()
    here.create("web")
    wait(process.leading)
    assert wait(lambda: process.metric("metallb_k8s_client_config_stale_bool")) == 1  # no ConfigMap at all
    here.configure(POOLS)  # works at once, without a restart
    ip = wait(lambda: here.ip("web"))
    stale = "metallb_k8s_client_config_stale_bool"
    wait(lambda: process.metric(stale) == 0)
    here.configure("address-pools:\n- {name: default, protocol: arp, addresses: [172.18.0.200-172.18.0.249]}\n")
    wait(lambda: process.metric(stale) == 1)
    told = wait(lambda: [e for e in here.events("config", "ConfigMap") if e[1] == "ConfigInvalid"])
    assert len(told) == 1
    assert told[0][0] == "Warning"
    assert "address-pools[0].protocol" in told[0][2]
    assert process.metric("metallb_k8s_client_config_loaded_bool") == 1
    here.create("next")  # what was accepted goes on working
    wait(lambda: here.ip("next"))
    assert here.ip("web") == ip
    here.configure(POOLS)
    wait(lambda: process.metric(stale) == 0)


def test_a_config_that_orphans_addresses_is_refused_until_it_fits(here: Lab, start: Callable[..., Process]) -> None:
    here.configure(POOLS)
    process = start()
    here.create("web")
    ip = wait(lambda: here.ip("web"))
    smaller = "address-pools:\n- {name: new, protocol: layer2, addresses: [198.51.100.0/24]}\n"
    here.configure(smaller)
    text = f'new config not compatible with assigned IPs: service "default/web" cannot own "{ip[0]}" under new config'
    wait(lambda: ("Warning", "ConfigStale", text) in here.events("web"))
    wait(lambda: ("Warning", "ConfigStale", text) in here.events("config", "ConfigMap"))
    assert process.metric("metallb_k8s_client_config_stale_bool") == 1
    assert process.status()["config"]["conflicts"] == [{"service": "default/web", "ip": ip[0]}]
    assert here.ip("web") == ip
    here.server.delete("/api/v1/namespaces/default/services/web")  # what was in the way is gone
    wait(lambda: process.metric("metallb_k8s_client_config_stale_bool") == 0)
    here.create("web")
    assert wait(lambda: here.ip("web")) == ("198.51.100.0",)


def test_reallocate_renumbers(here: Lab, start: Callable[..., Process]) -> None:
    here.configure(POOLS)
    process = start("--on-pool-conflict=reallocate")
    here.create("web")
    wait(lambda: here.ip("web"))
    here.configure("address-pools:\n- {name: new, protocol: layer2, addresses: [198.51.100.0/24]}\n")
    wait(lambda: here.ip("web") == ("198.51.100.0",))
    assert ("Normal", "IPAllocated", 'Assigned IP ["198.51.100.0"]') in here.events("web")
    assert process.metric("metallb_k8s_client_config_stale_bool") == 0


def test_the_accepted_config_survives_restarts_after_a_bad_edit(here: Lab) -> None:
    here.configure(POOLS)
    process = here.controller("--accepted-config=accepted")
    here.create("web")
    ip = wait(lambda: here.ip("web"))
    source = here.server.get(f"{MAPS}/config")["metadata"]["resourceVersion"]
    stored = wait(
        lambda: here.server.get(ACCEPTED) if process.status()["config"]["accepted_resource_version"] else None
    )
    assert stored["data"]["config"] == POOLS
    assert stored["metadata"]["annotations"]["metallb.io/source-resource-version"] == source
    for bad in ("address-pools: 7", "address-pools:\n- {name: new, protocol: layer2, addresses: [198.51.100.0/24]}\n"):
        process.stop()
        here.configure(bad)
        process = here.controller("--accepted-config=accepted")
        here.create(f"late-{len(bad)}")
        wait(lambda: here.ip(f"late-{len(bad)}"))  # noqa: B023
        assert here.ip("web") == ip
        assert here.server.get(ACCEPTED)["data"]["config"] == POOLS
        wait(lambda: process.metric("metallb_k8s_client_config_stale_bool") == 1)  # noqa: B023
    here.server.delete(f"{MAPS}/config")
    process.stop()
    process = here.controller("--accepted-config=accepted")
    here.create("last")
    wait(lambda: here.ip("last"))
    assert here.ip("web") == ip


def test_the_membership_secret(here: Lab, start: Callable[..., Process]) -> None:
    apps = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    label = {"app": "metallb"}
    pod = {"metadata": {"labels": label}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = here.server.create(
        apps, {"metadata": {"name": "controller"}, "spec": {"selector": {"matchLabels": label}, "template": pod}}
    )
    try:
        start("--ml-secret-name=memberlist", "--deployment=controller")
        secret = wait(lambda: here.server.get(f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"])[0]
        key = base64.b64decode(secret["data"]["secretkey"])
        assert len(key) == 22
        assert len(base64.b64decode(key + b"==")) == 16
        owner = secret["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"], owner["uid"]) == (
            "Deployment",
            "controller",
            deployment["metadata"]["uid"],
        )
        again = start("--ml-secret-name=memberlist", "--deployment=controller")
        wait(lambda: again.status().get("lease"))
        time.sleep(0.5)
        assert here.server.get(f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"] == [secret]
    finally:
        here.server.delete(f"{apps}/controller")


def test_namespace_selectors_follow_labels(here: Lab) -> None:
    for name in ("blue", "red"):
        here.server.raw("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {"team": name}}})
    here.configure(
        "address-pools:\n- name: p\n  protocol: layer2\n  addresses: [192.0.2.0/24]\n"
        "  service-allocation:\n    namespace-selectors:\n    - match-labels: {team: blue}\n"
    )
    here.controller()
    here.create("web", "blue")
    here.create("web", "red")
    wait(lambda: here.ip("web", "blue"))
    assert here.ip("web", "red") == ()
    here.server.merge("/api/v1/namespaces/red", {"metadata": {"labels": {"team": "blue"}}})
    wait(lambda: here.ip("web", "red"))


def test_without_the_right_to_watch_namespaces_their_names_still_select(here: Lab) -> None:
    here.configure(
        "address-pools:\n- name: p\n  protocol: layer2\n  addresses: [192.0.2.0/24]\n"
        "  service-allocation:\n    namespace-selectors:\n    - match-labels: {kubernetes.io/metadata.name: default}\n"
    )
    here.controller(token=here.original_account())
    here.create("web")
    here.create("web", NAMESPACE)
    wait(lambda: here.ip("web"))
    assert here.ip("web", NAMESPACE) == ()


def test_the_original_rights_are_enough_and_what_lacks_is_said_once(here: Lab) -> None:
    here.configure(POOLS)
    process = here.controller("--accepted-config=accepted", token=here.original_account())
    for i in range(5):
        here.create(f"s{i}")
    wait(here.all_have_addresses)
    warnings = [line for line in process.lines() if line["level"] == "warn" and "op" in line]
    assert sorted(line["op"] for line in warnings) == ["lease", "setConfig"]
    assert process.status()["lease"]["unavailable"] is True


# --- who leads -------------------------------------------------------------------------------------


def holder(here: Lab) -> str:
    try:
        return str(here.server.get(LEASE)["spec"].get("holderIdentity") or "")
    except urllib.error.HTTPError:
        return ""


def test_hand_over_on_a_stop_is_immediate(here: Lab) -> None:
    here.configure(POOLS)
    first = here.controller()
    wait(first.leading)
    second = here.controller()
    wait(lambda: second.status().get("state") == "standing by")
    assert second.page("/readyz") == "standing by\n"
    start = time.monotonic()
    assert first.stop() == 0
    here.create("web")
    wait(lambda: here.ip("web"))
    assert time.monotonic() - start < 3.0  # less than the Lease lasts
    assert second.leading()


def test_a_leader_that_hangs_is_replaced_and_never_writes_again(here: Lab) -> None:
    """About 3 s: the Lease's duration and one look at it (see docs/controller.md)."""
    here.configure(POOLS)
    first = here.controller()
    wait(first.leading)
    second = here.controller()
    wait(lambda: second.status().get("state") == "standing by")
    first.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    wait(second.leading)
    took = time.monotonic() - start
    assert 1.0 < took < 6.0, took
    for i in range(5):
        here.create(f"s{i}")
    wait(here.all_have_addresses)
    given = here.addresses()
    first.process.send_signal(signal.SIGCONT)
    wait(lambda: first.status().get("state") == "standing by")
    time.sleep(1.0)
    assert here.addresses() == given
    assert len(set(given.values())) == 5
    assert first.metric("metallb_controller_leader_bool") == 0


def test_a_successor_on_the_same_host_sees_that_the_leader_is_dead(here: Lab) -> None:
    here.configure(POOLS)
    first = here.controller()
    wait(first.leading)
    dead = holder(here)
    first.kill()
    second = here.controller()
    wait(second.leading)
    assert holder(here) != dead
    stamps = {line["msg"]: datetime.datetime.fromisoformat(line["ts"][:-1]) for line in second.lines() if "msg" in line}
    started = next(t for msg, t in stamps.items() if msg.startswith("metallb-controller"))
    assert (stamps["leading"] - started).total_seconds() < 3.0, "it waited for the Lease to run out"


# --- troubles of the API server ----------------------------------------------------------------------


def test_the_api_server_restarts(here: Lab) -> None:
    here.configure(POOLS)
    process = here.controller()
    here.create("before")
    ip = wait(lambda: here.ip("before"))
    here.server.stop_api()
    late = here.controller()  # one that finds nobody when it starts
    time.sleep(2.0)
    assert process.page("/livez") == late.page("/livez") == "ok\n"
    assert late.page("/readyz") == "no answer from the API server yet\n"
    here.server.start_api()
    here.create("after")
    wait(lambda: here.ip("after"), 30)
    assert here.ip("before") == ip
    wait(lambda: {process.status().get("state"), late.status().get("state")} == {"leading", "standing by"})


def test_history_is_compacted_while_nobody_watches(here: Lab) -> None:
    """The watch's version is older than what the restarted server knows: 410, and a list anew."""
    here.configure(POOLS)
    process = here.controller()
    here.create("kept")
    here.create("gone")
    wait(here.all_have_addresses)
    freed = here.ip("gone")
    process.process.send_signal(signal.SIGSTOP)
    here.server.stop_api()  # ends the frozen controller's watches
    here.server.start_api()
    here.server.delete("/api/v1/namespaces/default/services/gone")
    here.create("new")
    for i in range(20):
        here.server.merge("/api/v1/namespaces/default/services/new", {"metadata": {"labels": {"n": str(i)}}})
    here.server.compact()
    here.server.stop_api()
    here.server.start_api()
    process.process.send_signal(signal.SIGCONT)
    assert wait(lambda: here.ip("new"), 40) == freed  # it learnt of the deletion, too
    assert any("compacted" in line.get("msg", "") for line in process.lines())


def pause_etcd(here: Lab, seconds: float) -> None:
    here.configure(POOLS)
    process = here.controller()
    for i in range(20):
        here.create(f"s{i}")
    here.server.pause_etcd()
    time.sleep(seconds)
    assert process.page("/livez") == "ok\n"
    here.server.resume_etcd()
    wait(here.all_have_addresses, 60)
    given = here.addresses()
    assert len(set(given.values())) == len(given)
    here.create("after")
    wait(lambda: here.ip("after"), 30)


def test_etcd_hangs(here: Lab) -> None:
    pause_etcd(here, 5.0)


@pytest.mark.accept
def test_etcd_hangs_for_twenty_seconds(here: Lab) -> None:
    pause_etcd(here, 20.0)


def test_a_server_that_can_do_little() -> None:
    """429s: one mutating request at once is all that it takes; and no watch cache: compaction bites at once."""
    flags = (
        "--enable-priority-and-fairness=false",
        "--max-mutating-requests-inflight=1",
        "--max-requests-inflight=100",
        "--watch-cache=false",
    )
    with lab(*flags) as small:
        for i in range(150):
            small.create(f"s{i}")
        small.configure("address-pools:\n- {name: p, protocol: layer2, addresses: [10.0.0.0/24]}\n")
        process = small.controller(
            "--leader-elect=false", token=small.original_account()
        )  # the administrator is exempt
        wait(small.all_have_addresses, 60)
        given = small.addresses()
        assert len(set(given.values())) == 150
        assert (process.metric("metallb_k8s_client_update_errors_total") or 0) > 0, "no 429 was met"

        def told() -> set[str]:
            items = small.server.get("/api/v1/events")["items"]
            return {e["message"] for e in items if e["reason"] == "IPAllocated"}

        # An event that was refused is sent later.
        wait(lambda: {f'Assigned IP ["{ips[0]}"]' for ips in given.values()} <= told(), 60, 0.5)
        process.process.send_signal(signal.SIGSTOP)
        small.server.stop_api()  # ends the frozen controller's watches
        small.server.start_api()
        small.create("more")
        small.server.merge("/api/v1/namespaces/default/services/more", {"metadata": {"labels": {"a": "b"}}})
        small.server.compact()
        process.process.send_signal(signal.SIGCONT)
        wait(lambda: small.ip("more"), 40)
        assert any("compacted" in line.get("msg", "") for line in process.lines())
        assert {k: v for k, v in small.addresses().items() if k != "default/more"} == given
