"""Which configuration is in force at a start, and what becomes of the object that keeps it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metallb_common.kube.errors import ApiError
from metallb_common.kube.events import BURST
from metallb_controller import configs
from metallb_controller.accepted import Accepted
from metallb_controller.assigner import Assigner
from metallb_controller.wishes import FROM_POOL
from tests.unit.controller.make import World, service
from tests.unit.controller.term import ACCEPTED, DEPLOYMENT, Begin, P, Q, Server, document, run, until


@pytest.mark.parametrize("reallocate", [False, True])
@pytest.mark.parametrize("pools", [{"p": P, "q": Q}, {"q": Q}])
def test_a_stored_config_that_is_older_than_the_addresses_moves_none(pools: dict[str, str], reallocate: bool) -> None:
    """It was stored before a rollback, or before a crash; all addresses were given since, by the user's."""

    async def body(made: Begin) -> None:
        for i in range(3):
            made.world.put(
                service(f"s{i}", created=i, status=(f"198.51.100.{i + 1}",), annotations={FROM_POOL: "q"}),
            )
        await until(lambda: made.world.assigner.config is not None)
        await asyncio.sleep(0.05)
        made.listed()
        await until(lambda: made.stored() == document(**pools))
        made.world.settle()
        assert made.world.writes == []
        assert made.world.events == []
        assert made.metrics.config_stale.get() == 0

    run(lambda: Begin(document(**pools), document(p=P), reallocate=reallocate), body)


def test_of_two_families_the_one_that_only_the_new_config_covers_stays_too() -> None:
    async def body(made: Begin) -> None:
        for i, six in enumerate(("2001:db8::2", "2001:db8::1")):
            shown = (f"192.0.2.{i + 1}", six)
            made.world.put(service(f"s{i}", created=i, families="46", policy="PreferDualStack", status=shown))
        made.world.put(service("six", created=9, families="6", status=("2001:db8::",)))
        await until(lambda: made.world.assigner.config is not None)
        before = {k: v.ingress_ips for k, v in made.world.objects.items()}
        made.listed()
        await until(lambda: len(made.server.written) == 1)
        made.world.settle()
        assert {k: v.ingress_ips for k, v in made.world.objects.items()} == before

    run(lambda: Begin(document(p=P, q="2001:db8::/125"), document(p=P)), body)


@pytest.mark.parametrize("user", ["address-pools: 7", document(z="203.0.113.0/29"), document(p=P)])
def test_what_was_stored_is_decided_by_when_the_users_is_refused_or_the_same(user: str) -> None:
    async def body(made: Begin) -> None:
        made.world.put(service("old", created=1, status=("192.0.2.3",)))
        made.world.put(service("new", created=2))
        await until(lambda: made.world.assigner.config is not None)
        made.listed()
        await until(lambda: made.world.assigner.busy)
        made.world.settle()
        assert (made.world.ips("old"), made.world.ips("new")) == (("192.0.2.3",), ("192.0.2.0",))
        assert made.stored() == document(p=P)
        assert made.metrics.config_stale.get() == (user != document(p=P))

    run(lambda: Begin(user, document(p=P)), body)


def test_who_leads_no_more_says_no_more_of_the_config_and_of_who_waits() -> None:
    async def body(made: Begin) -> None:
        first = made.world.assigner
        made.metrics.assigner = lambda: leads
        leads: Assigner | None = first
        made.world.put(service("web", status=("192.0.2.3",)))
        made.world.put(service("late", pool="nowhere"))
        made.listed()
        await until(lambda: first.busy)
        made.world.settle()
        await until(lambda: made.metrics.config_stale.get() == 1)
        assert b"\nmetallb_controller_services_waiting 1\n" in made.metrics.registry.render()
        made.configs.follow(first)
        leads = None
        await until(lambda: made.metrics.config_stale.get() == 0)
        assert b"\nmetallb_controller_services_waiting 0\n" in made.metrics.registry.render()
        assert made.configs.status()["stale"] is False
        # The end of an earlier term, when it comes late, is not the end of this one.
        next_one = World().assigner
        made.configs.lead(next_one, lambda: True)
        made.configs.follow(first)
        await until(lambda: next_one.config is not None)

    run(lambda: Begin(document(z="203.0.113.0/29"), document(p=P)), body)


# --- the object that keeps it ----------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "REPAIR", 0.05)


def owned() -> Begin:
    made = Begin(document(p=P), None, deployment="controller")
    made.server.deploy("one")
    return made


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("user", [document(p=P), "address-pools: 7", document(z="203.0.113.0/29")])
def test_what_was_stored_is_written_again_whoever_deletes_or_changes_it(user: str) -> None:
    """Also while the user's is refused: it is all that a restart would know then."""

    async def body(made: Begin) -> None:
        made.world.put(service("web"))
        made.listed()
        await until(lambda: ACCEPTED in made.server.objects)
        made.world.settle()
        made.edit(user)
        await until(lambda: made.metrics.config_stale.get() == (user != document(p=P)))
        made.server.remove(ACCEPTED)
        await until(lambda: ACCEPTED in made.server.objects and made.stored() == document(p=P))
        made.server.store(document(q=Q))
        await until(lambda: made.stored() == document(p=P))
        assert made.server.owners() == ["one"]
        written = len(made.server.written)
        await asyncio.sleep(0.2)
        assert len(made.server.written) == written, "our own writes are no news"
        assert made.world.ips("web") == ("192.0.2.0",)

    run(owned, body)


@pytest.mark.usefixtures("soon")
def test_what_is_uninstalled_is_not_written_again() -> None:
    async def body(made: Begin) -> None:
        made.listed()
        await until(lambda: ACCEPTED in made.server.objects)
        made.server.remove(DEPLOYMENT)
        made.server.remove(ACCEPTED)
        await asyncio.sleep(0.2)
        assert ACCEPTED not in made.server.objects

    run(owned, body)


@pytest.mark.parametrize("owner", ["one", "two"])
def test_an_owner_that_was_made_anew_is_written_down_also_when_the_watch_begins_late(owner: str) -> None:
    """The watch brings the object that was just read, before it is written again."""

    async def body() -> None:
        server = Server()
        server.store("text")
        server.objects[ACCEPTED]["metadata"]["ownerReferences"] = [{"uid": "one"}]
        server.deploy(owner)
        accepted = Accepted(server, "n", "accepted", "controller")  # type: ignore[arg-type]
        watch = accepted.watch(lambda: None)
        assert watch is not None
        await accepted.read()
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(0.1)
        await accepted.write("text", "1", lambda: True)
        assert server.owners() == [owner]
        assert server.written == ([] if owner == "one" else ["PUT"])
        await asyncio.sleep(0.1)
        await accepted.write("text", "1", lambda: True)
        assert server.written == ([] if owner == "one" else ["PUT"]), "our own write is no news"
        watching.cancel()

    asyncio.run(body())


def test_an_owner_that_was_made_anew_is_written_down() -> None:
    """Else the object goes away with the Deployment that was."""

    async def body(made: Begin) -> None:
        made.server.objects[ACCEPTED]["metadata"]["ownerReferences"] = [{"uid": "one"}]
        made.server.deploy("two")
        await until(lambda: made.server.owners() == ["two"])
        assert made.stored() == document(p=P)
        await asyncio.sleep(0.1)
        assert made.server.written == ["PUT"]

    run(lambda: Begin(document(p=P), document(p=P), deployment="controller"), body)


@pytest.mark.usefixtures("soon")
def test_a_term_believes_nothing_that_an_earlier_one_knew_of_it() -> None:
    async def body(made: Begin) -> None:
        made.listed()
        await until(lambda: ACCEPTED in made.server.objects)
        made.configs.follow(made.world.assigner)
        made.server.remove(ACCEPTED)
        await asyncio.sleep(0.2)
        assert ACCEPTED not in made.server.objects, "it is the leader's"
        made.configs.lead(made.world.assigner, lambda: True)
        await until(lambda: ACCEPTED in made.server.objects)

    run(owned, body)


def test_a_right_to_store_that_is_withdrawn_and_given_back_is_used_again() -> None:
    async def body(made: Begin) -> None:
        made.listed()
        await until(lambda: ACCEPTED in made.server.objects)
        made.server.denied = True
        made.edit(document(p=P, q=Q))
        await asyncio.sleep(0.3)
        assert made.stored() == document(p=P)
        made.server.denied = False
        await until(lambda: made.stored() == document(p=P, q=Q))

    run(owned, body)


def fails() -> ApiError:
    return ApiError(500, "InternalError", "failed calling webhook")


@pytest.mark.parametrize("stored", [None, document(p=P)])
def test_nothing_is_decided_by_a_config_that_is_not_stored(stored: str | None) -> None:
    """A restart after a bad edit would know nothing of it, and take away what it gave."""

    async def body(made: Begin) -> None:
        made.listed()
        if stored:
            await until(lambda: made.configs.in_force is not None and not made.world.assigner.provisional)
        made.server.refuses = fails()
        made.edit(document(p=P, q=Q), "8")
        made.world.put(service("new", pool="q", created=1))
        made.world.put(service("old", pool="p", created=2))
        await until(lambda: any(reason == "ConfigStale" for _, reason, _ in made.told))
        made.world.settle()
        assert made.world.ips("new") == ()
        assert made.world.ips("old") == (("192.0.2.0",) if stored else ())
        assert made.metrics.config_stale.get() == 1
        status = made.configs.status()
        assert status["stale"] is True
        assert "failed calling webhook" in status["errors"][0]
        assert status["accepted_resource_version"] == ("7" if stored else None)
        made.server.refuses = None
        await until(lambda: made.metrics.config_stale.get() == 0)
        made.world.settle()
        assert made.stored() == document(p=P, q=Q)
        assert made.world.ips("new") == ("198.51.100.0",)
        assert made.configs.status()["errors"] == []

    run(lambda: Begin(stored or "address-pools: 7", stored), body)


def test_an_address_that_is_given_while_a_config_is_stored_stays() -> None:
    async def body(made: Begin) -> None:
        made.listed()
        await until(lambda: made.configs.in_force is not None and not made.world.assigner.provisional)

        async def give() -> None:
            made.world.put(service("late", pool="q"))
            made.world.settle()
            assert made.world.ips("late") == ("198.51.100.0",)
            made.server.before_write = nothing  # type: ignore[method-assign]

        async def nothing() -> None: ...

        made.server.before_write = give  # type: ignore[method-assign]
        made.edit(document(p=P), "8")
        await until(lambda: ("late", "ConfigStale") in [t[:2] for t in made.told])
        await until(lambda: made.stored() == document(p=P, q=Q))
        made.world.settle()
        assert made.world.ips("late") == ("198.51.100.0",)
        assert made.metrics.config_stale.get() == 1

    run(lambda: Begin(document(p=P, q=Q), document(p=P, q=Q)), body)


@pytest.mark.parametrize("when", ["owner", "write"])
def test_who_leads_no_more_overwrites_nothing(when: str) -> None:
    """The successor has stored another one while this one asked for its Deployment, or sent its write."""

    async def body(made: Begin) -> None:
        made.server.deploy("one")
        made.listed()
        await until(lambda: made.configs.in_force is not None and made.server.owners() == ["one"])
        ask, theirs = made.server.request, document(p=P, z="203.0.113.0/29")

        async def request(method: str, path: str, **more: Any) -> dict[str, Any]:
            if path == DEPLOYMENT and when == "owner":
                made.leads = False
                made.server.store(theirs)
            if method == "PUT" and when == "write":
                made.server.store(theirs)
                made.server.request = ask  # type: ignore[method-assign]
                made.leads = False
            return await ask(method, path, **more)

        made.server.written.clear()
        made.server.request = request  # type: ignore[method-assign]
        made.edit(document(p=P, q=Q), "8")
        await until(lambda: not made.leads)
        await asyncio.sleep(0.5)
        assert (made.stored(), made.server.written) == (theirs, [])
        made.world.put(service("new", pool="q"))
        made.world.settle()
        assert made.world.ips("new") == ()

    run(lambda: Begin(document(p=P), document(p=P), deployment="controller"), body)


def test_what_an_earlier_term_has_asked_for_is_no_answer_in_this_one() -> None:
    async def body(made: Begin) -> None:
        ask = made.server.request

        async def request(method: str, path: str, **more: Any) -> dict[str, Any]:
            answer = await ask(method, path, **more)
            if method == "GET" and path == ACCEPTED and made.configs.in_force is None:
                made.server.request = ask  # type: ignore[method-assign]
                made.configs.follow(made.world.assigner)  # and another leads, and stops, while it is on its way
                made.server.store(document(p=P, q=Q))
                made.configs.lead(second.assigner, lambda: True)
            return answer

        second = World()
        made.server.request = request  # type: ignore[method-assign]
        second.sync()
        made.configs.synced()
        await until(lambda: made.configs.in_force is not None and not second.assigner.provisional)
        assert made.configs.in_force is not None
        assert made.configs.in_force.text == document(p=P, q=Q)
        assert made.stored() == document(p=P, q=Q)

    run(lambda: Begin("address-pools: 7", document(p=P)), body)


@pytest.mark.parametrize("kept", [False, True])
def test_what_was_in_force_in_an_earlier_term_takes_nothing_away_in_a_later_one(kept: bool) -> None:
    """Another has led with a newer config, and gave an address by it. The user's is broken by now."""

    async def body(made: Begin) -> None:
        made.listed()
        await until(lambda: made.configs.in_force is not None and ACCEPTED in made.server.objects)
        made.configs.follow(made.world.assigner)
        if kept:
            made.server.store(document(p=P, q=Q))
        else:
            made.server.remove(ACCEPTED)
        made.edit("address-pools: 7", "9")
        second = World()
        second.put(service("theirs", status=("198.51.100.0",), annotations={FROM_POOL: "q"}))
        second.put(service("new", created=9))
        made.configs.lead(second.assigner, lambda: True)
        second.sync()
        made.configs.synced()
        await until(lambda: made.metrics.config_stale.get() == 1)
        await asyncio.sleep(0.1)
        second.settle()
        assert second.ips("theirs") == ("198.51.100.0",)
        assert second.ips("new") == (("192.0.2.0",) if kept else ())

    run(lambda: Begin(document(p=P), None), body)


def test_every_service_in_the_way_is_told_once_of_each_refused_config() -> None:
    """More of them than the ConfigMap is told of, some with two addresses; and some get out of the way."""

    async def body(made: Begin) -> None:
        count = 2 * BURST
        for i in range(count):
            both = (f"192.0.2.{i}", f"2001:db8::{i:x}")
            made.world.put(service(f"s{i}", created=i, families="46", policy="RequireDualStack", status=both))
        made.listed()
        await until(lambda: made.configs.in_force is not None)
        made.world.settle()
        made.edit(document(z="203.0.113.0/29"), "8")
        await until(lambda: made.metrics.config_stale.get() == 1)
        told = [t for t in made.told if t[0] != "config"]
        assert sorted(name for name, _, _ in told) == sorted(f"s{i}" for i in range(count))
        for name, reason, text in told:
            assert reason == "ConfigStale"
            i = int(name[1:])
            for address in (f"192.0.2.{i}", f"2001:db8::{i:x}" if i else "2001:db8::"):
                assert f'service "default/{name}" cannot own "{address}" under new config' in text
        of_map = [text for name, _, text in made.told if name == "config"]
        assert len(of_map) == BURST
        assert of_map[-1] == f"and {count - BURST + 1} more"
        status = made.configs.status()
        assert len(status["conflicts"]) == status["conflicts_total"] == 2 * count
        assert {c["service"] for c in status["conflicts"]} == {f"default/s{i}" for i in range(count)}
        made.world.remove("default/s0")
        made.configs.freed()
        await until(lambda: len(made.configs.conflicts) == 2 * count - 2)
        assert [t for t in made.told if t[0] != "config"] == told
        made.edit(document(y="203.0.113.8/29"), "9")
        await until(lambda: len([t for t in made.told if t[0] != "config"]) == 2 * count - 1)

    run(lambda: Begin(document(p="192.0.2.0/24", s="2001:db8::/120"), None), body)
