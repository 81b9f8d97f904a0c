"""Membership in virtual time where speakers do not hear each other: UDP blocked, or no key."""

from __future__ import annotations

import pytest

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.keys import NO_KEYS, Keyring
from metallb_speaker.announcer.membership.wire import MAX_MACS
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.desired import Member
from tests.unit.speaker.simulator import Cluster, group
from tests.unit.speaker.steady import ADDRESSES, blocked, elected, happened, moves, owners, steady, tell_members


def test_udp_blocked_while_running_keeps_the_owners() -> None:
    """An answer on the wire proves life: nobody takes over, and it is said."""
    cluster = steady(3)
    before = owners(cluster)
    cluster.nodes["node-1"].silenced = True
    cluster.run(90)
    assert owners(cluster) == before
    assert max(cluster.gaps.values(), default=0) == 0
    assert max(cluster.doubles.values(), default=0) == 0
    kept = {(name, event.node, event.mac) for _, name, event in happened(cluster, o.Kept)}  # type: ignore[union-attr]
    assert ("node-0", "node-1", cluster.nodes["node-1"].mac) in kept
    said = [event for _, name, event in happened(cluster, m.Degraded) if name == "node-0"]
    assert said == [m.Degraded(("node-1",))]
    cluster.nodes["node-1"].silenced = False
    cluster.run(3)
    assert [e for _, name, e in happened(cluster, m.Restored) if name == "node-0"] == [m.Restored()]
    assert max(cluster.doubles.values(), default=0) <= 1.0


@pytest.mark.parametrize("others", [0, 8, MAX_MACS - 1])
def test_a_node_with_many_interfaces_is_recognised_by_each(others: int) -> None:
    cluster = steady(3)
    for index, node in enumerate(cluster.nodes.values()):
        more = [f"00:99:00:00:{index:02x}:{n:02x}" for n in range(others)]
        node.membership.set_prefixes(["10.0.0.0/24"], cluster.now)
        node.membership.set_macs([*more, node.mac], cluster.now)
    cluster.run(5)
    before = owners(cluster)
    cluster.forget_history()
    cluster.nodes["node-1"].silenced = True
    cluster.run(20)
    assert owners(cluster) == before
    assert max(cluster.doubles.values(), default=0) == 0


def test_power_off_with_udp_blocked_on_all_is_noticed_on_the_wire() -> None:
    cluster = steady(3)
    for node in cluster.nodes.values():
        node.silenced = True
    cluster.run(20)
    assert moves(cluster) == set()
    cluster.power_off("node-1")
    cluster.run(3)
    assert max(cluster.gaps.values()) <= 1.5
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    assert max(cluster.doubles.values(), default=0) <= 1.0


def test_power_off_with_udp_blocked_leaves_alone_who_would_get_nothing_of_its_heirs() -> None:
    """None of node-2's addresses would come to node-0, which has to know all the same that node-2 is alive."""
    order = {f"198.51.100.{n}": rank(["node-0", "node-1", "node-2"], f"198.51.100.{n}") for n in range(1, 99)}
    wanted = (["node-2", "node-1", "node-0"], ["node-1", "node-2", "node-0"])
    cluster = steady(3, addresses=[ip for ip in order if order[ip] in wanted])
    for node in cluster.nodes.values():
        node.silenced = True
    cluster.run(20)
    assert moves(cluster) == set()
    cluster.power_off("node-1")
    cluster.run(3)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    assert happened(cluster, o.Acquired, "node-0") == []
    assert max(cluster.gaps.values()) <= 1.5
    assert max(cluster.doubles.values(), default=0) == 0


def test_udp_blocked_from_the_start_follows_the_cluster() -> None:
    cluster = blocked()
    cluster.run(13)
    assert owners(cluster) == elected(cluster, cluster.nodes)
    assert max(cluster.doubles.values(), default=0) <= 1.0
    for node in cluster.nodes.values():
        assert [type(e) for _, e in node.heard if isinstance(e, m.Degraded)] == [m.Degraded]


def test_udp_blocked_from_the_start_a_power_off_is_noticed_on_the_wire() -> None:
    """A node that was seen there and is not any more, while the cluster still calls it alive."""
    cluster = blocked()
    cluster.run(20)
    cluster.forget_history()
    cluster.power_off("node-1")
    cluster.run(6)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    assert max(cluster.gaps.values()) <= 3.5
    assert max(cluster.doubles.values(), default=0) <= 1.0


@pytest.mark.parametrize("keyring", [NO_KEYS, Keyring.from_text("")])
def test_without_a_key_nothing_is_sent_and_the_cluster_decides(keyring: Keyring) -> None:
    cluster = Cluster(3, keyring=keyring)
    cluster.groups = [group(ip, cluster.nodes) for ip in ADDRESSES]
    cluster.start()
    cluster.run(13)
    assert [node.sent for node in cluster.nodes.values()] == [0, 0, 0]
    assert owners(cluster) == elected(cluster, cluster.nodes)
    assert happened(cluster, m.Degraded) == []
    cluster.power_off("node-1")
    cluster.members["node-1"] = Member("node-1", cluster.members["node-1"].addresses, alive=False)
    for node in cluster.nodes.values():
        cluster.list_members(node)
    cluster.run(1)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})


def test_without_a_key_a_speaker_takes_nothing_before_its_pod_is_ready() -> None:
    """Till then the others do not know of it, and go on answering."""
    cluster = Cluster(3, keyring=NO_KEYS)
    cluster.groups = [group(ip, cluster.nodes) for ip in ADDRESSES]
    address = cluster.members["node-1"].addresses
    cluster.members["node-1"] = Member("node-1", address, alive=False)
    cluster.start()
    cluster.run(13)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    cluster.forget_history()
    for alive, nodes in ((True, {"node-0", "node-1", "node-2"}), (False, {"node-0", "node-2"})):
        cluster.members["node-1"] = Member("node-1", address, alive=alive)
        tell_members(cluster)
        cluster.run(3)
        assert owners(cluster) == elected(cluster, nodes)
    assert max(cluster.gaps.values(), default=0) == 0
    assert max(cluster.doubles.values(), default=0) <= 1.0


@pytest.mark.parametrize("later", [0.0, 0.05, 0.3, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("last", ["node-0", "node-1", "node-2"])
def test_a_node_that_has_just_taken_its_addresses_is_watched_on_the_wire(last: str, later: float) -> None:
    """UDP is blocked, speakers are rolled, the last one too, and then node-1 loses its power at once."""
    cluster = blocked()
    cluster.run(13)
    cluster.forget_history()
    for name in [*sorted(cluster.nodes.keys() - {last}), last]:
        addresses = cluster.members[name].addresses
        cluster.members[name] = Member(name, addresses, alive=False)
        tell_members(cluster)
        cluster.power_off(name)
        cluster.run(1.5)
        cluster.restart(name)
        cluster.nodes[name].silenced = True
        cluster.run(1.1)  # a pod is Ready when its speaker has joined
        cluster.members[name] = Member(name, addresses, alive=True)
        tell_members(cluster)
        cluster.run(0.2)
    for _ in range(300):
        if owners(cluster) == elected(cluster, cluster.nodes):
            break
        cluster.run(0.1)
    cluster.run(later)
    assert owners(cluster) == elected(cluster, cluster.nodes)
    assert max(cluster.gaps.values(), default=0) <= 0.05, "by the cluster's word all agree who is there"
    cluster.forget_history()
    cluster.power_off("node-1")
    cluster.run(8)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    assert max(cluster.gaps.values()) <= 3.5
    assert max(cluster.doubles.values(), default=0) <= 1.0


@pytest.mark.parametrize("stopped", [0.9, 3.0, 8.0, 40.0])
@pytest.mark.parametrize("running", [True, False])
def test_a_stopped_process_does_not_take_the_others_for_dead(stopped: float, running: bool) -> None:
    """It asked nothing meanwhile. Nor does it go on beside its heirs, whom it cannot ask whether they replaced it."""
    cluster = steady(3) if running else blocked()
    for node in cluster.nodes.values():
        node.silenced = True
    cluster.run(20)
    before = owners(cluster)
    assert before == elected(cluster, cluster.nodes)
    cluster.forget_history()
    cluster.pause("node-1")
    cluster.run(stopped)
    cluster.resume("node-1")
    cluster.run(15)
    assert owners(cluster) == before
    assert moves(cluster) <= {key for key, names in before.items() if names == ["node-1"]}
    assert max(cluster.doubles.values(), default=0) <= 1.5
