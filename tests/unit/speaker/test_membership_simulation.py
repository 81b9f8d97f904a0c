"""Membership and ownership in virtual time: detection, false alarms, load, and never two owners for long."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.announcer.ownership import machine
from metallb_speaker.desired import Member
from tests.unit.speaker.simulator import Cluster, group
from tests.unit.speaker.steady import ADDRESSES, DETECTION, elected, happened, moves, owners, steady, tell_members


@pytest.mark.usefixtures("_in_slices")
@pytest.mark.parametrize("loss", [0.0, 0.1, 0.2])
@pytest.mark.parametrize(("size", "crashed"), [(2, 1), (3, 1), (10, 1), (10, 2), (10, 3)])
def test_power_off_is_noticed_in_time_and_only_its_addresses_move(size: int, crashed: int, loss: float) -> None:
    cluster = steady(size, seed=size * 7 + crashed, loss=loss)
    before, start = owners(cluster), cluster.now
    victims = random.Random(size).sample(list(cluster.nodes), crashed)
    cluster.power_off(*victims)
    cluster.run(3)
    survivors = cluster.nodes.keys() - set(victims)
    noticed = cluster.failures()
    assert {whom for _, _, whom in noticed} == set(victims)
    assert len({(who, whom) for _, who, whom in noticed}) == crashed * len(survivors)
    assert max(when for when, _, _ in noticed) - start <= DETECTION * (1 if crashed == 1 else 1.6)
    assert owners(cluster) == elected(cluster, survivors)
    assert moves(cluster) == {key for key, names in before.items() if names[0] in victims}
    assert max(cluster.doubles.values(), default=0) == 0
    assert max(cluster.gaps.values()) <= (DETECTION + 0.06) * (1 if crashed == 1 else 1.6)


@pytest.mark.parametrize(("size", "crashed", "bound"), [(3, 2, 2.0), (10, 5, 2.0), (10, 9, 5.5)])
def test_crash_of_many(size: int, crashed: int, bound: float) -> None:
    cluster = steady(size, seed=crashed)
    start = cluster.now
    cluster.power_off(*list(cluster.nodes)[:crashed])
    cluster.run(6)
    survivors = list(cluster.nodes)[crashed:]
    assert cluster.agreed()
    assert owners(cluster) == elected(cluster, survivors)
    # Whoever hears nobody at all is patient: it may be the one that is cut off.
    assert max(when for when, _, _ in cluster.failures()) - start <= bound


@pytest.mark.parametrize(("size", "minutes"), [(3, 5), (10, 1)])
@pytest.mark.parametrize("loss", [0.1, 0.2])
def test_no_false_alarms(size: int, minutes: int, loss: float) -> None:
    cluster = steady(size, loss=loss)
    cluster.run(60 * minutes)
    assert cluster.failures() == []
    assert moves(cluster) == set()


def test_the_load_of_a_member_is_flat_in_their_number() -> None:
    rates = {}
    for size in (3, 10, 30):
        cluster = Cluster(size, owning=False)
        cluster.start()
        cluster.run(13)
        cluster.forget_history()
        cluster.run(10)
        rates[size] = max(node.sent for node in cluster.nodes.values()) / 10
    assert rates[3] < 21
    assert rates[30] <= rates[10] * 1.05 < 40


def test_one_way_links_and_lost_pairs_are_no_failures() -> None:
    cluster = steady(5)
    cluster.deaf = {("node-0", "node-1"), ("node-2", "node-3"), ("node-3", "node-2")}
    cluster.run(60)
    assert cluster.failures() == []
    assert moves(cluster) == set()


@pytest.fixture(params=[machine.SLICE, 1])
def _in_slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and with so few groups per turn that these tests take many turns."""
    monkeypatch.setattr(machine, "SLICE", request.param)


@pytest.mark.usefixtures("_in_slices")
@pytest.mark.parametrize("stopped", [1.0, 5.0, 40.0])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_stopped_process_is_replaced_and_disowns_when_it_goes_on(stopped: float, loss: float) -> None:
    cluster = steady(3, loss=loss)
    before = owners(cluster)
    cluster.pause("node-1")
    cluster.run(stopped)
    assert max(cluster.gaps.values()) <= DETECTION + 0.06
    cluster.resume("node-1")
    resumed = cluster.now
    assert cluster.nodes["node-1"].answers == set()
    cluster.run(9)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    cluster.run(4)
    assert owners(cluster) == before
    assert max(cluster.doubles.values(), default=0) <= 0.5
    back = [when for when, _, _ in happened(cluster, o.Acquired, "node-1")]
    assert len(back) == sum(names == ["node-1"] for names in before.values()), "each comes back once"
    assert min(back) - resumed >= 10
    assert cluster.failures(of=["node-0", "node-2"]) == []


def test_a_short_stop_moves_nothing() -> None:
    cluster = steady(3)
    cluster.pause("node-1")
    cluster.run(0.15)
    cluster.resume("node-1")
    cluster.run(5)
    assert moves(cluster) == set()
    assert cluster.failures() == []


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_node_that_was_cut_off_takes_its_own_back_once_after_ten_seconds(loss: float) -> None:
    cluster = steady(3, loss=loss)
    before = owners(cluster)
    cluster.partition(["node-0", "node-1"], ["node-2"])
    cluster.run(20)
    assert cluster.answering("192.0.2.1") != []
    cluster.doubles = {}
    cluster.partition()
    healed = cluster.now
    cluster.nodes["node-2"].happened = []
    cluster.run(1.0)
    assert {n for names in owners(cluster).values() for n in names} == {"node-0", "node-1"}
    cluster.run(8)
    assert {n for names in owners(cluster).values() for n in names} == {"node-0", "node-1"}
    cluster.run(4)
    assert owners(cluster) == before
    assert max(cluster.doubles.values()) <= 1.0, "from healing on"
    assert all(when - healed >= 10 for when, _, _ in happened(cluster, o.Acquired, "node-2"))


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("size", [2, 3, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_a_stale_owner_that_comes_back_yields_and_its_heir_does_not(size: int, seed: int, loss: float) -> None:
    """The cable of one node is cut, and repaired: it announces all that it had at once, and more than it had."""
    cluster = steady(size, seed=seed, loss=loss)
    lost = f"node-{seed % size}"
    others = [name for name in cluster.nodes if name != lost]
    cluster.partition(others, [lost])
    cluster.run(8)
    assert owners(cluster) != elected(cluster, cluster.nodes)
    cluster.forget_history()
    cluster.partition()
    cluster.run(1.0)
    assert all(len(names) == 1 for names in owners(cluster).values())
    assert max(cluster.gaps.values(), default=0) == 0, "nobody falls silent for the sake of a stale owner"
    assert max(cluster.doubles.values()) <= 0.5
    assert {key: [name] for key, name in cluster.last_frame.items()} == owners(cluster), "caches are put right"
    if size > 2:
        assert not {node for names in owners(cluster).values() for node in names} & {lost}
        assert happened(cluster, o.Lost, *others) == []
        assert happened(cluster, o.Kept, *others) == []
    cluster.run(13)
    assert owners(cluster) == elected(cluster, cluster.nodes)
    assert max(cluster.gaps.values(), default=0) == 0


def test_two_of_three_whose_third_is_long_dead_are_halves() -> None:
    cluster = steady(3)
    cluster.power_off("node-2")
    cluster.members["node-2"] = replace(cluster.members["node-2"], alive=False)
    tell_members(cluster)
    cluster.run(20)
    cluster.partition(["node-0"], ["node-1"])
    cluster.run(8)
    cluster.forget_history()
    cluster.partition()
    cluster.run(1)
    assert all(len(names) == 1 for names in owners(cluster).values())
    assert max(cluster.gaps.values(), default=0) == 0, "one of them goes on"
    assert max(cluster.doubles.values()) <= 0.5


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_stale_owner_comes_back_while_udp_is_blocked(loss: float) -> None:
    """Then there is only the wire: it gives up what it hears others announce."""
    cluster = steady(3, loss=loss)
    cluster.partition(["node-0", "node-2"], ["node-1"])
    cluster.run(8)
    cluster.forget_history()
    cluster.nodes["node-1"].silenced = True
    cluster.partition()
    cluster.run(3)
    assert all(len(names) == 1 for names in owners(cluster).values()), owners(cluster)
    assert max(cluster.doubles.values()) <= 1.5
    assert max(cluster.gaps.values(), default=0) <= 0.1


@pytest.mark.parametrize("sides", [(["node-0"], ["node-1"]), (["node-0", "node-1"], ["node-2", "node-3"])])
def test_halves_that_meet_again_agree_within_a_second(sides: tuple[list[str], list[str]]) -> None:
    cluster = steady(len(sides[0]) * 2)
    before = owners(cluster)
    cluster.partition(*sides)
    cluster.run(20)
    cluster.doubles, cluster.gaps = {}, {}
    cluster.partition()
    cluster.run(1.5)
    assert all(len(names) == 1 for names in owners(cluster).values())
    cluster.run(20)
    assert owners(cluster) == before
    assert max(cluster.doubles.values()) <= 1.0
    assert max(cluster.gaps.values(), default=0) <= 0.5


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_killed_and_restarted_at_once(loss: float) -> None:
    """The new process is proof that the old one is gone: no need to wait for silence."""
    cluster = steady(3, loss=loss)
    before = owners(cluster)
    cluster.power_off("node-1")
    cluster.run(0.2)
    cluster.restart("node-1")
    cluster.run(9)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    assert max(cluster.gaps.values()) <= (0.3 if not loss else DETECTION)
    cluster.run(5)
    assert owners(cluster) == before
    assert max(cluster.doubles.values(), default=0) <= 0.5


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("size", [2, 3, 10])
def test_an_ordered_departure_leaves_no_gap(size: int, loss: float) -> None:
    cluster = steady(size, loss=loss)
    node = cluster.nodes["node-1"]
    node.membership.leave(cluster.now)
    node.ownership.leave(cluster.now)
    started = cluster.now
    cluster.turn(node)
    cluster.run(1.2)
    assert node.handed_over
    assert node.handed_over - started <= (0.05 if not loss else 0.9)
    assert node.answers == set()
    assert max(cluster.gaps.values(), default=0) == 0
    assert owners(cluster) == elected(cluster, cluster.nodes.keys() - {"node-1"})
    assert max(cluster.doubles.values(), default=0) <= 1.0
    node.membership.depart(cluster.now)
    cluster.turn(node)
    cluster.power_off("node-1")
    cluster.run(0.2)
    left = {name for _, name, event in happened(cluster, m.Left) if event == m.Left("node-1")}
    assert left == cluster.nodes.keys() - {"node-1"}


def test_a_rollout_leaves_no_gap_and_ends_as_it_began() -> None:
    cluster = steady(3)
    before = owners(cluster)
    for name in list(cluster.nodes):
        node = cluster.nodes[name]
        node.membership.leave(cluster.now)
        node.ownership.leave(cluster.now)
        cluster.turn(node)
        cluster.run(0.5)
        node.membership.depart(cluster.now)
        cluster.turn(node)
        cluster.power_off(name)
        cluster.run(2)
        cluster.restart(name)
        cluster.run(12)
        assert owners(cluster) == before
    assert max(cluster.gaps.values(), default=0) == 0
    assert max(cluster.doubles.values(), default=0) <= 0.1


def test_candidates_that_change_move_without_a_gap_and_back() -> None:
    """A cordon: another list of candidates, on each node a few milliseconds apart."""
    cluster = steady(3)
    before = owners(cluster)
    cluster.set_groups([group(ip, ["node-0", "node-2"]) for ip in ADDRESSES])
    cluster.run(3)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    cluster.set_groups([group(ip, cluster.nodes) for ip in ADDRESSES])
    cluster.run(3)
    assert owners(cluster) == before
    assert max(cluster.gaps.values(), default=0) == 0
    assert max(cluster.doubles.values(), default=0) <= 0.02


def test_a_preferred_node_gets_the_address() -> None:
    cluster = steady(3)
    other = next(ip for ip, names in owners(cluster).items() if names != ["node-2"])
    cluster.set_groups([group(ip, cluster.nodes, "node-2" if ip == other else "") for ip in ADDRESSES])
    cluster.run(1)
    assert cluster.answering(other) == ["node-2"]
    assert moves(cluster) == {other}
    assert max(cluster.gaps.values(), default=0) == 0
    cluster.power_off("node-2")
    cluster.run(2)
    assert cluster.answering(other) == elected(cluster, {"node-0", "node-1"})[other]


def test_a_group_without_candidates_is_withdrawn_with_its_reason() -> None:
    cluster = steady(3, addresses=["192.0.2.1", "192.0.2.2"])
    cluster.set_groups([group("192.0.2.1", [], reason="noEndpoints")])
    cluster.run(0.1)
    assert owners(cluster) == {"192.0.2.1": []}
    lost = {event.key: event.reason for _, _, event in happened(cluster, o.Lost)}  # type: ignore[union-attr]
    assert lost == {"192.0.2.1": "noEndpoints", "192.0.2.2": "serviceDeleted"}


def test_a_lone_newcomer_waits_a_second_and_no_longer() -> None:
    cluster = Cluster(1)
    cluster.groups = [group("192.0.2.1", ["node-0"])]
    start = cluster.now
    cluster.start(spread=0)
    cluster.run(0.95)
    assert cluster.answering("192.0.2.1") == []
    cluster.run(0.15)
    assert cluster.answering("192.0.2.1") == ["node-0"]
    assert 1.0 <= happened(cluster, m.Ready)[0][0] - start <= 1.05


def test_a_newcomer_takes_nothing_before_its_seeds_answered_and_settles_later() -> None:
    cluster = steady(3)
    cluster.members["node-3"] = Member("node-3", ("10.0.0.4",), alive=True)
    cluster._add(3)
    for node in cluster.nodes.values():
        cluster.list_members(node)
    cluster._begin("node-3")
    cluster.set_groups([group(ip, cluster.nodes) for ip in ADDRESSES])
    cluster.run(9)
    assert cluster.nodes["node-3"].answers == set()
    cluster.run(3)
    assert owners(cluster) == elected(cluster, cluster.nodes)
    assert cluster.nodes["node-3"].answers != set()
    assert max(cluster.gaps.values(), default=0) == 0
    assert max(cluster.doubles.values(), default=0) <= 0.05


def test_two_keys_during_rotation_and_strangers() -> None:
    """Old, both, and new: neighbours in the rollout understand each other; another key is no member."""
    cluster = Cluster(3, keyring=Keyring.from_text("old"))
    cluster.keyring = Keyring.from_text("old,new")
    cluster.nodes["node-1"] = cluster._boot("node-1", "10.0.0.2", 1)
    cluster.start()
    cluster.run(3)
    assert cluster.agreed()
    cluster.keyring = Keyring.from_text("stranger")
    cluster.restart("node-2")
    cluster.run(3)
    assert cluster.nodes["node-0"].membership.view()["node-2"].tier is Tier.SILENT
    assert cluster.nodes["node-2"].membership.drops()["notAuthentic"] > 0


@pytest.mark.parametrize("seed", range(6))
def test_chaos_ends_in_agreement(seed: int) -> None:
    """Anything, at random, for a minute; then the same owners everywhere, by the rule, one for each."""
    cluster = steady(5, seed=seed, loss=0.05, addresses=ADDRESSES[:10])
    rng = random.Random(seed)
    stopped: set[str] = set()
    for _ in range(20):
        name = rng.choice(list(cluster.nodes))
        node = cluster.nodes[name]
        action = rng.choice(["pause", "resume", "crash", "restart", "cut", "heal", "mute", "speak"])
        if action == "pause" and not node.paused:
            cluster.pause(name)
        elif action == "resume" and node.paused:
            cluster.resume(name)
        elif action == "crash":
            cluster.power_off(name)
            stopped.add(name)
        elif action == "restart" and not node.powered:
            cluster.restart(name)
            stopped.discard(name)
        elif action == "cut":
            cluster.partition([name], [n for n in cluster.nodes if n != name])
        elif action == "heal":
            cluster.partition()
        elif action in ("mute", "speak"):
            node.silenced = action == "mute"
        cluster.run(rng.random() * 6)
    cluster.partition()
    for name, node in list(cluster.nodes.items()):
        node.silenced = False
        if node.paused:
            cluster.resume(name)
        if not node.powered:
            cluster.restart(name)
    cluster.run(25)
    assert cluster.agreed()
    assert owners(cluster) == elected(cluster, cluster.nodes)
    cluster.forget_history()
    cluster.run(10)
    assert moves(cluster) == set()
    assert cluster.failures() == []
