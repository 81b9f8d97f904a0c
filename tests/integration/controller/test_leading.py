"""Who leads, against a real API server: hand-over, a leader that hangs or dies, and a Lease that goes."""

from __future__ import annotations

import datetime
import signal
import time
import urllib.error

import pytest

from tests.controller_lab import LEASE, NAMESPACE, OUR_RIGHTS, Lab, Start, only, wait

POOLS = """
address-pools:
- {name: default, protocol: layer2, addresses: [172.18.0.200-172.18.0.249, "fc00:f853:ccd:e799::/120"]}
- {name: other, protocol: bgp, addresses: [192.0.2.0/28], auto-assign: false}
"""


def holder(here: Lab) -> str:
    try:
        return str(here.server.get(LEASE)["spec"].get("holderIdentity") or "")
    except urllib.error.HTTPError:
        return ""


@only(OUR_RIGHTS, "the original grants no Leases: one controller at a time")
def test_hand_over_on_a_stop_is_immediate(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    first, took = start(), [99.0]
    wait(first.leading)
    while min(took) >= 3.0 and len(took) <= 3:  # one in three is less than the Lease lasts
        second = start()
        wait(lambda: second.status().get("state") == "standing by")  # noqa: B023
        assert second.page("/readyz") == "standing by\n"
        begin = time.monotonic()
        assert first.stop() == 0
        here.create(f"web{len(took)}")
        wait(lambda: here.ip(f"web{len(took)}"))
        took.append(time.monotonic() - begin)
        assert second.leading()
        first = second
    assert min(took) < 3.0, took


@only(OUR_RIGHTS, "the original grants no Leases: one controller at a time")
def test_a_leader_that_hangs_is_replaced_and_never_writes_again(here: Lab, start: Start) -> None:
    """About 3 s: the Lease's duration and one look at it (see docs/controller.md)."""
    here.configure(POOLS)
    first = start()
    wait(first.leading)
    second = start()
    wait(lambda: second.status().get("state") == "standing by")
    first.process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    wait(second.leading)
    took = time.monotonic() - begin
    assert 1.0 < took < 20.0, took
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


@only(OUR_RIGHTS, "the original grants no Leases: one controller at a time")
def test_a_successor_on_the_same_host_sees_that_the_leader_is_dead(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    first = start()
    wait(first.leading)
    took = [99.0]
    while min(took) >= 3.0 and len(took) <= 3:  # one in three is less than the Lease lasts
        dead = holder(here)
        first.kill()
        first = start()
        wait(first.leading)
        assert holder(here) != dead
        stamps = {
            line["msg"]: datetime.datetime.fromisoformat(line["ts"][:-1]) for line in first.lines() if "msg" in line
        }
        started = next(t for msg, t in stamps.items() if msg.startswith("metallb-controller"))
        took.append((stamps["leading"] - started).total_seconds())
    assert min(took) < 3.0, "it waited for the Lease to run out"


@only(OUR_RIGHTS, "the original grants no Leases")
def test_a_lease_that_is_deleted_is_made_again_and_nothing_else_happens(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    first = start()
    wait(first.leading)
    second = start()
    wait(lambda: second.status().get("state") == "standing by")
    mine = holder(here)
    for _ in range(3):
        here.server.delete(LEASE)
        wait(lambda: holder(here) == mine)
        time.sleep(0.5)
    assert first.status()["lease"] == {"holder": mine, "me": mine, "unavailable": False}
    assert second.status().get("state") == "standing by"
    assert sum(line.get("event") == "stateSynced" for line in first.lines()) == 1, "one term"
    here.create("web", annotations={"metallb.universe.tf/address-pool": "other"})
    wait(lambda: here.ip("web"))
    time.sleep(0.5)
    assert first.metric("metallb_controller_status_writes_total") == 1


@only(OUR_RIGHTS, "the original grants no Leases")
def test_nobody_leads_alone_when_the_right_to_the_lease_is_withdrawn(here: Lab, start: Start) -> None:
    here.configure(POOLS)
    first = start()
    wait(first.leading)
    second = start()
    wait(lambda: second.status().get("state") == "standing by")
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/our-controller"
    rules = here.server.get(role)["rules"]
    try:
        here.server.merge(role, {"rules": [r for r in rules if "leases" not in r["resources"]]})
        for process in (first, second):
            wait(lambda p=process: any("no access to the Lease any more" in line.get("msg", "") for line in p.lines()))
        time.sleep(2.0)  # more than the renew deadline
        here.create("web")
        time.sleep(2.0)
        assert here.ip("web") == ()
        assert [p.status()["lease"]["unavailable"] for p in (first, second)] == [False, False]
    finally:
        here.server.merge(role, {"rules": rules})
    wait(lambda: here.ip("web"))
    wait(lambda: sorted(p.status()["state"] for p in (first, second)) == ["leading", "standing by"])


@only(OUR_RIGHTS, "the original grants no Leases: one controller at a time")
@pytest.mark.accept
def test_how_long_nobody_leads(here: Lab, start: Start) -> None:
    """At most 3 s after a stop (less than the Lease lasts), 6 s after the leader begins to hang; five times each."""
    here.configure(POOLS)
    first = start()
    wait(first.leading)
    took: dict[str, list[float]] = {"stopped": [], "hangs": []}
    for how in ("stopped", "hangs") * 5:
        second = start()
        wait(lambda: second.status().get("state") == "standing by")  # noqa: B023
        begin = time.monotonic()
        first.stop() if how == "stopped" else first.process.send_signal(signal.SIGSTOP)
        wait(second.leading)
        took[how].append(time.monotonic() - begin)
        first.kill()
        first = second
    for how, target in (("stopped", 3.0), ("hangs", 6.0)):
        worst = max(took[how])
        met = "met    " if worst <= target else "NOT MET"
        print(f"{met} leader {how}: another leads, worst, s: {worst:.2f}, at most {target:g}")
    assert max(took["stopped"]) <= 3.0
    assert max(took["hangs"]) <= 6.0
