"""The controller against a real API server: what it writes, what it keeps, what it survives."""

from __future__ import annotations

import base64
import contextlib
import signal
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from metallb_common.kube.events import BURST, REFILL
from tests.controller_lab import MAPS, NAMESPACE, ORIGINAL_RIGHTS, OUR_RIGHTS, Lab, Start, lab, only, wait

POOLS = """
address-pools:
- {name: default, protocol: layer2, addresses: [172.18.0.200-172.18.0.249, "fc00:f853:ccd:e799::/120"]}
- {name: other, protocol: bgp, addresses: [192.0.2.0/28], auto-assign: false}
"""
ACCEPTED = f"{MAPS}/accepted"


def test_gives_addresses_and_tells(here: Lab, start: Start) -> None:
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


def test_a_status_write_leaves_the_rest_of_the_object_alone(here: Lab, start: Start) -> None:
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


def test_release_and_reuse(here: Lab, start: Start) -> None:
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


def test_a_duplicate_is_found_at_the_start_and_undone_with_an_event(here: Lab, start: Start) -> None:
    for name in ("older", "younger"):
        here.create(name)
        status = {"status": {"loadBalancer": {"ingress": [{"ip": "172.18.0.210"}]}}}
        here.server.merge(f"/api/v1/namespaces/default/services/{name}/status", status)
        time.sleep(1.1)  # creation times are whole seconds
    here.configure(POOLS)
    start()
    wait(lambda: here.ip("younger") == ("172.18.0.200",))
    assert here.ip("older") == ("172.18.0.210",)
    (told,) = wait(lambda: [e for e in here.events("younger") if e[1] == "DuplicateAddress"])
    assert told[0] == "Warning"
    assert told[2].startswith('["172.18.0.210"] is taken back: ')
    assert [e for e in here.events("older") if e[0] == "Warning"] == []


def test_a_service_that_is_edited_without_end_makes_a_handful_of_events(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    process = start()
    here.create("web")
    wait(lambda: here.ip("web"))
    path, begin = "/api/v1/namespaces/default/services/web", time.monotonic()
    for i in range(60):  # two wishes that cannot be met, in turn, and two that can
        pools = ("nowhere", "other", "elsewhere", "default")
        here.server.merge(path, {"metadata": {"annotations": {"metallb.universe.tf/address-pool": pools[i % 4]}}})
        time.sleep(0.02)
    here.server.merge(path, {"metadata": {"annotations": {"metallb.universe.tf/address-pool": "other"}}})
    wait(lambda: here.ip("web") == ("192.0.2.0",))
    wait(lambda: not process.status()["services"]["writes_pending"])
    items = here.server.get("/api/v1/namespaces/default/events")["items"]
    told = [e for e in items if e["involvedObject"]["name"] == "web"]
    most = BURST + 1 + (time.monotonic() - begin) / REFILL
    assert 4 <= len(told) <= most, [e["message"] for e in told]
    assert len({(e["reason"], e["message"]) for e in told}) == len(told), "equal events are one object"


def test_a_bad_config_changes_nothing_but_is_told(here: Lab, start: Start) -> None:
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


def test_every_bad_edit_gets_its_answer_however_many_there_are(here: Lab, start: Start) -> None:
    """The budget of events is there against loops of our own, not against a person who tries again."""
    here.configure(POOLS)
    process = start()
    wait(process.leading)
    wait(lambda: process.status()["config"]["accepted_resource_version"])
    for i in range(2 * BURST):
        here.configure(f"address-pools:\n- {{name: default, protocol: p{i}, addresses: [172.18.0.200-172.18.0.249]}}\n")
        wait(lambda i=i: any(f'"p{i}"' in text for _, _, text in here.events("config", "ConfigMap")))


def test_a_config_that_orphans_addresses_is_refused_until_it_fits(here: Lab, start: Start) -> None:
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


def test_reallocate_renumbers(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    process = start("--on-pool-conflict=reallocate")
    here.create("web")
    wait(lambda: here.ip("web"))
    here.configure("address-pools:\n- {name: new, protocol: layer2, addresses: [198.51.100.0/24]}\n")
    wait(lambda: here.ip("web") == ("198.51.100.0",))
    assert ("Normal", "IPAllocated", 'Assigned IP ["198.51.100.0"]') in here.events("web")
    assert process.metric("metallb_k8s_client_config_stale_bool") == 0


@only(OUR_RIGHTS, "the original grants no write of ConfigMaps: what was accepted lives as long as the process")
def test_the_accepted_config_survives_restarts_after_a_bad_edit(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    process = start("--accepted-config=accepted")
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
        process = start("--accepted-config=accepted")
        here.create(f"late-{len(bad)}")
        wait(lambda: here.ip(f"late-{len(bad)}"))  # noqa: B023
        assert here.ip("web") == ip
        assert here.server.get(ACCEPTED)["data"]["config"] == POOLS
        wait(lambda: process.metric("metallb_k8s_client_config_stale_bool") == 1)  # noqa: B023
    here.server.delete(f"{MAPS}/config")
    process.stop()
    process = start("--accepted-config=accepted")
    here.create("last")
    wait(lambda: here.ip("last"))
    assert here.ip("web") == ip


@only(OUR_RIGHTS, "the original grants no write of ConfigMaps")
def test_the_accepted_config_is_written_again_whoever_deletes_it(here: Lab, start: Start) -> None:
    with deployment(here) as first:
        here.configure(POOLS)
        flags = ("--accepted-config=accepted", "--deployment=controller")
        process = start(*flags)
        here.create("web")
        ip = wait(lambda: here.ip("web"))
        wait(lambda: process.status()["config"]["accepted_resource_version"])
        bad = "address-pools:\n- {name: new, protocol: layer2, addresses: [198.51.100.0/24]}\n"
        for user in (POOLS, bad):
            here.configure(user)
            wait(lambda: process.metric("metallb_k8s_client_config_stale_bool") == (user == bad))  # noqa: B023
            here.server.delete(ACCEPTED)
            wait(lambda: accepted(here).get("data") == {"config": POOLS})
            here.server.merge(ACCEPTED, {"data": {"config": bad}})
            wait(lambda: accepted(here).get("data") == {"config": POOLS})
        assert [o["uid"] for o in accepted(here)["metadata"]["ownerReferences"]] == [first]
        process.stop()
    with deployment(here) as second:
        assert second != first
        process = start(*flags)
        wait(lambda: [o["uid"] for o in accepted(here)["metadata"]["ownerReferences"]] == [second])
        assert accepted(here)["data"] == {"config": POOLS}
        wait(process.leading)
        assert here.ip("web") == ip
    here.server.delete(ACCEPTED)  # both gone: as when it is uninstalled
    time.sleep(2.5)
    assert accepted(here) == {}


def accepted(here: Lab) -> dict[str, Any]:
    """The object, or nothing."""
    try:
        return here.server.get(ACCEPTED)
    except urllib.error.HTTPError:
        return {}


@contextlib.contextmanager
def deployment(here: Lab) -> Iterator[str]:
    """The controller's Deployment, as an owner; its uid."""
    apps = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    label = {"app": "metallb"}
    pod = {"metadata": {"labels": label}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": label}, "template": pod}
    made = here.server.create(apps, {"metadata": {"name": "controller"}, "spec": spec})
    try:
        yield str(made["metadata"]["uid"])
    finally:
        here.server.delete(f"{apps}/controller")


def test_the_membership_secret(here: Lab, start: Start) -> None:
    with deployment(here) as uid:
        start("--ml-secret-name=memberlist", "--deployment=controller")
        secret = wait(lambda: here.server.get(f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"])[0]
        key = base64.b64decode(secret["data"]["secretkey"])
        assert len(key) == 22
        assert len(base64.b64decode(key + b"==")) == 16
        owner = secret["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Deployment", "controller", uid)
        again = start("--ml-secret-name=memberlist", "--deployment=controller")
        wait(lambda: again.status().get("lease"))
        time.sleep(0.5)
        assert here.server.get(f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"] == [secret]


@only(OUR_RIGHTS, "the original grants no look at Namespaces: the next test is about that")
def test_namespace_selectors_follow_labels(here: Lab, start: Start) -> None:
    for name in ("blue", "red"):
        here.server.raw("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {"team": name}}})
    here.configure(
        "address-pools:\n- name: p\n  protocol: layer2\n  addresses: [192.0.2.0/24]\n"
        "  service-allocation:\n    namespace-selectors:\n    - match-labels: {team: blue}\n"
    )
    start()
    here.create("web", "blue")
    here.create("web", "red")
    wait(lambda: here.ip("web", "blue"))
    assert here.ip("web", "red") == ()
    here.server.merge("/api/v1/namespaces/red", {"metadata": {"labels": {"team": "blue"}}})
    wait(lambda: here.ip("web", "red"))


@only(ORIGINAL_RIGHTS, "it is about a right that lacks")
def test_without_the_right_to_watch_namespaces_their_names_still_select(here: Lab, start: Start) -> None:
    here.configure(
        "address-pools:\n- name: p\n  protocol: layer2\n  addresses: [192.0.2.0/24]\n"
        "  service-allocation:\n    namespace-selectors:\n    - match-labels: {kubernetes.io/metadata.name: default}\n"
    )
    start()
    here.create("web")
    here.create("web", NAMESPACE)
    wait(lambda: here.ip("web"))
    assert here.ip("web", NAMESPACE) == ()


@only(ORIGINAL_RIGHTS, "it is about rights that lack")
def test_the_original_rights_are_enough_and_what_lacks_is_said_once(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    process = start("--accepted-config=accepted")
    for i in range(5):
        here.create(f"s{i}")
    wait(here.all_have_addresses)
    warnings = [line for line in process.lines() if line["level"] == "warn" and "op" in line]
    assert sorted(line["op"] for line in warnings) == ["lease", "setConfig"]
    assert process.status()["lease"]["unavailable"] is True


# --- troubles of the API server ----------------------------------------------------------------------


def test_the_api_server_restarts(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    process = start()
    here.create("before")
    ip = wait(lambda: here.ip("before"))
    here.server.stop_api()
    late = start() if start.leases else None  # one that finds nobody when it starts
    time.sleep(2.0)
    assert process.page("/livez") == "ok\n"
    if late:
        wait(lambda: late.page("/livez") == "ok\n")
        assert late.page("/readyz") == "no answer from the API server yet\n"
    here.server.start_api()
    here.create("after")
    wait(lambda: here.ip("after"))
    assert here.ip("before") == ip
    states = {"leading", "standing by"} if late else {"leading"}
    wait(lambda: {p.status().get("state") for p in (process, late) if p} == states)


def test_history_is_compacted_while_nobody_watches(here: Lab, start: Start) -> None:
    """The watch's version is older than what the restarted server knows: 410, and a list anew."""
    here.configure(POOLS)
    process = start()
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
    assert wait(lambda: here.ip("new")) == freed  # it learnt of the deletion, too
    assert any("compacted" in line.get("msg", "") for line in process.lines())


def pause_etcd(here: Lab, start: Start, seconds: float) -> None:
    here.configure(POOLS)
    process = start()
    for i in range(20):
        here.create(f"s{i}")
    wait(lambda: process.page("/livez") == "ok\n")
    here.server.pause_etcd()
    time.sleep(seconds)
    assert process.page("/livez") == "ok\n"
    here.server.resume_etcd()
    wait(here.all_have_addresses)
    given = here.addresses()
    assert len(set(given.values())) == len(given)
    here.create("after")
    wait(lambda: here.ip("after"))


def test_etcd_hangs(here: Lab, start: Start) -> None:
    pause_etcd(here, start, 5.0)


@pytest.mark.accept
def test_etcd_hangs_for_twenty_seconds(here: Lab, start: Start) -> None:
    pause_etcd(here, start, 20.0)


@pytest.mark.parametrize("rights", [OUR_RIGHTS, ORIGINAL_RIGHTS])
def test_a_server_that_can_do_little(rights: str) -> None:
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
        process = Start(small, rights)()
        wait(small.all_have_addresses, 120)
        given = small.addresses()
        assert len(set(given.values())) == 150
        assert (process.metric("metallb_k8s_client_update_errors_total") or 0) > 0, "no 429 was met"

        def told() -> set[str]:
            items = small.server.get("/api/v1/events")["items"]
            return {e["message"] for e in items if e["reason"] == "IPAllocated"}

        # An event that was refused is sent later.
        wait(lambda: {f'Assigned IP ["{ips[0]}"]' for ips in given.values()} <= told(), 120, 0.5)
        process.process.send_signal(signal.SIGSTOP)
        small.server.stop_api()  # ends the frozen controller's watches
        small.server.start_api()
        small.create("more")
        small.server.merge("/api/v1/namespaces/default/services/more", {"metadata": {"labels": {"a": "b"}}})
        small.server.compact()
        process.process.send_signal(signal.SIGCONT)
        wait(lambda: small.ip("more"))
        assert any("compacted" in line.get("msg", "") for line in process.lines())
        assert {k: v for k, v in small.addresses().items() if k != "default/more"} == given
