"""Whole announcers beside each other: who answers, what is handed over, what is told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metallb_speaker import stream
from metallb_speaker.announcer.announcer import CONFLICT_WAIT, MOVES, ROUNDS
from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.gate import Gate
from metallb_speaker.announcer.layer2 import api
from metallb_speaker.announcer.loop import Loop
from metallb_speaker.announcer.membership.messages import Claim, Released
from metallb_speaker.announcer.membership.wire import MAX_MACS
from metallb_speaker.announcer.pages import Collector, pages
from metallb_speaker.desired import AnnouncedAddress, Item, Layer2Group, Member
from tests.unit.speaker.announcers import IP, NODES, Node, Sim, group


@pytest.fixture
def sim() -> Sim:
    made = Sim(*NODES)
    made.tell(group(IP, *NODES))
    made.run(3.0)
    return made


def logged(capsys: pytest.CaptureFixture[str], **fields: Any) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if all(line.get(k) == v for k, v in fields.items())]


def test_one_announces(sim: Sim, capsys: pytest.CaptureFixture[str]) -> None:
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    assert stream.Announced("ns/a", "layer2", (IP,)) in node.reports
    assert node.registry.value("metallb_speaker_announced", "ns/a", "layer2", owner, IP) == 1
    for other in sim.nodes.values():
        if other is not node:
            assert other.registry.value("metallb_speaker_announced", "ns/a", "layer2", other.name, IP) is None
    assert {mac for n in sim.nodes.values() for mac in n.layer2.members} == {f"02:00:00:00:00:0{i}" for i in (1, 2, 3)}


def test_the_lost_nodes_addresses_move(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    sim.nodes[owner].running = False
    start = sim.now
    while not sim.owners(IP):
        sim.run(0.01)
        assert sim.now - start < 1.5
    assert len(sim.owners(IP)) == 1


def test_shutdown_hands_over_without_a_gap(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    leaving = sim.nodes[owner]
    leaving.announcer.leave(sim.now)
    start = sim.now
    while not leaving.announcer.handed_over:
        sim.run(0.01)
        assert sim.owners(IP)  # always somebody
        assert sim.now - start < 1.2
    leaving.announcer.depart(sim.now)
    leaving.running = False
    assert leaving.owned == set()
    assert leaving.registry.value("metallb_speaker_announced", "ns/a", "layer2", owner, IP) is None
    sim.run(0.1)
    assert len(sim.owners(IP)) == 1
    assert leaving.announcer.unready(sim.now)[-1] == "leaving"


@pytest.mark.parametrize(
    ("change", "why", "reason"),
    [
        ({"drop": [("Layer2Group", IP)]}, {"ns/a": "notLoadBalancer"}, "notLoadBalancer"),
        ({"drop": [("Layer2Group", IP)]}, {}, "serviceDeleted"),
        ({"put": group(IP, reason="noEndpoints")}, {"ns/a": "noEndpoints"}, "noEndpoints"),
        ({"put": group(IP, reason="noLocalEndpoints")}, {}, "noLocalEndpoints"),
    ],
)
def test_withdrawals_say_why(
    sim: Sim, capsys: pytest.CaptureFixture[str], change: dict[str, Any], why: dict[str, str], reason: str
) -> None:
    (owner,) = sim.owners(IP)
    put = [change["put"]] if "put" in change else []
    sim.tell(*put, drop=change.get("drop", ()), why=why)
    sim.run(0.05)
    assert sim.owners(IP) == []
    assert sim.nodes[owner].reports[-1] == stream.Withdrawn("ns/a", "layer2", (IP,), reason)
    (line,) = logged(capsys, event="serviceWithdrawn")
    assert (line["service"], line["reason"], line["ips"]) == ("ns/a", reason, [IP])


def test_a_move_is_told_as_not_owner(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    other = next(n for n in NODES if n != owner)
    sim.tell(group(IP, *NODES, preferred=other))
    sim.run(3.0)
    assert sim.owners(IP) == [other]
    assert sim.nodes[owner].reports[-1] == stream.Withdrawn("ns/a", "layer2", (IP,), "notOwner")


def test_services_come_and_go_on_a_shared_address(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    sim.tell(group(IP, *NODES, services=("ns/a", "ns/b")))
    sim.run(0.05)
    assert node.reports[-1] == stream.Announced("ns/b", "layer2", (IP,))
    sim.tell(group(IP, *NODES, services=("ns/b",)), why={"ns/a": "noEndpoints"})
    sim.run(0.05)
    assert node.reports[-1] == stream.Withdrawn("ns/a", "layer2", (IP,), "noEndpoints")
    assert node.announcer.record.services == {"ns/b"}
    assert sim.owners(IP) == [owner]


def test_an_address_that_changes_its_group_is_never_silent(sim: Sim) -> None:
    """A second address joins in front: the group's key changes, the address's announcing does not."""
    sim.tell(group(IP, "n1"))
    sim.run(3.0)
    node = sim.nodes["n1"]
    assert IP in node.owned
    count = len(node.reports)
    first = "192.0.2.0"
    joined = Layer2Group(
        first, (AnnouncedAddress(first, ("ns/a",), "pool"), AnnouncedAddress(IP, ("ns/a",), "pool")), ("n1",)
    )
    sim.tell(joined, drop=[("Layer2Group", IP)])
    assert IP in node.owned
    sim.run(0.1)
    assert node.owned == {first, IP}
    assert node.reports[count:] == [stream.Announced("ns/a", "layer2", (first,))]


def test_what_was_announced_while_nobody_listened_is_told_later(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    node.deaf = True
    sim.tell(group("192.0.2.2", owner, services=("ns/b",)), group("192.0.2.3", owner, services=("ns/c",)))
    sim.run(0.1)
    sim.tell(drop=[("Layer2Group", "192.0.2.3")])
    sim.run(0.1)
    node.deaf = False
    node.announcer.connected()
    assert node.reports[-1] == stream.Announced("ns/b", "layer2", ("192.0.2.2",))


MANY = [f"192.0.2.{n}" for n in range(2, 202)]


def test_many_that_come_at_once_are_taken_some_a_turn_and_as_they_are_then(sim: Sim) -> None:
    node = sim.nodes["n1"]
    told: list[int] = []
    node.layer2.changed = told
    sim.tell(*(group(ip, "n1", services=(f"ns/{ip}",)) for ip in MANY))
    assert len(node.owned & set(MANY)) <= ROUNDS * MOVES
    assert node.announcer.deadline() <= sim.now
    # While they wait: one goes, one gets another Service, one another address.
    gone, other, more = MANY[-3:]
    both = (AnnouncedAddress(more, (f"ns/{more}",), "pool"), AnnouncedAddress("2001:db8::1", (f"ns/{more}",), "pool"))
    sim.tell(
        group(other, "n1", services=("ns/other",)),
        Layer2Group(more, both, ("n1",)),
        drop=[("Layer2Group", gone)],
        why={f"ns/{gone}": "serviceDeleted", f"ns/{other}": "noEndpoints"},
    )
    sim.run(0.01 * len(MANY) / MOVES + 0.05)
    assert max(told) <= MOVES
    assert node.announcer.deadline() > sim.now
    assert node.owned >= {*MANY, "2001:db8::1"} - {gone}
    assert gone not in node.owned
    announced = {r.service for r in node.reports if isinstance(r, stream.Announced)}
    assert {f"ns/{gone}", f"ns/{other}"} & announced == set()  # were never announced
    assert node.announcer.record.services == {*(f"ns/{ip}" for ip in MANY[:-3]), f"ns/{more}", "ns/other"} | (
        {"ns/a"} if IP in node.owned else set()
    )
    # And they all go at once, each with its own reason, whatever comes after them.
    sim.tell(drop=[("Layer2Group", ip) for ip in MANY], why={f"ns/{MANY[150]}": "notLoadBalancer"})
    sim.tell(group("198.51.100.1", "n1"), why={})
    sim.run(0.01 * len(MANY) / MOVES + 0.05)
    assert node.owned & set(MANY) == set()
    reasons = {r.service: r.reason for r in node.reports if isinstance(r, stream.Withdrawn)}
    assert reasons[f"ns/{MANY[150]}"] == "notLoadBalancer"
    assert reasons[f"ns/{MANY[151]}"] == "serviceDeleted"


def test_hundreds_are_handed_over_without_a_gap(sim: Sim) -> None:
    """The old owner answers for each until the new one does: a claim waits for its group's turn."""
    many = MANY[:96]
    sim.tell(*(group(ip, "n1", "n2", preferred="n1", services=(f"ns/{ip}",)) for ip in many))
    sim.run(3.0)
    one, two = sim.nodes["n1"], sim.nodes["n2"]
    assert one.owned >= set(many)
    one.announcer.leave(sim.now)
    taken: list[int] = []
    while not one.announcer.left:
        two.layer2.lagging = len(taken) % 2 != 0  # its kernel is slow
        sim.run(0.01)
        taken.append(len(two.owned & set(many)))
        assert (one.owned | two.owned) >= set(many)
        assert len(taken) < 150
    assert len({n for n in taken if 0 < n < len(many)}) > 10  # it took its turns
    assert two.owned >= set(many)


def test_the_end_waits_for_no_backlog(sim: Sim) -> None:
    node = sim.nodes["n1"]
    sim.tell(*(group(ip, "n1", services=(f"ns/{ip}",)) for ip in MANY))
    sim.run(1.0)
    sim.tell(drop=[("Layer2Group", ip) for ip in MANY])
    node.announcer.depart(sim.now)
    assert node.layer2.owned == {}
    withdrawn = {r.service for r in node.reports if isinstance(r, stream.Withdrawn)}
    assert withdrawn >= {f"ns/{ip}" for ip in MANY}


def test_a_claim_of_what_is_lost_meanwhile_is_never_sent() -> None:
    sent: list[tuple[str, object]] = []

    class Members:
        generation = 7

        def send(self, to: str, message: object, now: float) -> None:
            sent.append((to, message))

    gate = Gate(Members())  # type: ignore[arg-type]
    assert gate.generation == 7
    gate.send("n2", Released(("x",)), 0.0)
    gate.send("n2", Claim(3, ("a", "b", "c")), 0.0)
    gate.send("n3", Claim(3, ("d",)), 0.0)
    assert sent == [("n2", Released(("x",)))]
    verdicts: dict[str, bool | None] = {"a": True, "b": False, "c": None, "d": False}
    gate.release(verdicts.get, 0.0)
    assert sent[1:] == [("n2", Claim(3, ("a",)))]
    gate.send("n2", Claim(4, ("b",)), 0.0)
    verdicts.update(b=True, c=True, d=True)
    gate.release(verdicts.get, 0.0)
    assert sent[2:] == [("n3", Claim(3, ("d",))), ("n2", Claim(4, ("b",)))] or sent[2:] == [
        ("n2", Claim(4, ("b",))),
        ("n3", Claim(3, ("d",))),
    ]


def test_more_mac_addresses_than_can_be_told_are_a_problem(sim: Sim) -> None:
    node = next(iter(sim.nodes.values()))
    macs = tuple(f"02:00:00:00:01:{n:02x}" for n in range(MAX_MACS + 1))
    for count, said in ((MAX_MACS, 0), (MAX_MACS + 1, 1), (2, 0)):
        node.layer2.macs = macs[:count]
        node.layer2.happen(api.InterfacesChanged(("eth0",)))
        sim.run(0.1)
        assert len([text for text in node.announcer.problems.values() if "MAC addresses" in text]) == said
        other = list(sim.nodes.values())[1].announcer.membership.view()[node.name]
        assert other.macs == macs[: min(count, MAX_MACS)]


def test_an_owner_answers_until_its_successors_sockets_are_open(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    sim.run(12.0)
    successor = next(name for name in rank(list(sim.nodes), IP) if name != owner)
    sim.nodes[successor].layer2.unopened.add(IP)
    sim.nodes[owner].announcer.leave(sim.now)
    sim.run(0.5)
    assert sim.owners(IP) == [owner, successor] or sim.owners(IP) == [successor, owner]
    sim.nodes[successor].layer2.unopened.clear()
    sim.run(0.1)
    assert sim.owners(IP) == [successor]


def test_a_claim_on_the_wire_renews_the_announcing(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    other = next(n for n in sim.nodes.values() if n is not node)
    sim.run(12.0)
    node.layer2.happen(api.Claimed(IP, "eth0", other.layer2.own_macs()[0]))
    sim.run(0.02)
    assert node.layer2.renewed == (IP,)
    assert IP in node.owned


def test_conflicts_are_events_problems_and_end(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    node.layer2.happen(api.Conflict(IP, "eth0", "02:ff:00:00:00:01", withheld=True))
    sim.run(CONFLICT_WAIT + 0.15)
    (warned,) = [r for r in node.reports if isinstance(r, stream.Warned)]
    assert (warned.kind, warned.name, warned.reason) == ("Service", "ns/a", "addressConflict")
    assert "exclude-addresses" in warned.message
    assert len(node.announcer.problems) == 1
    node.layer2.happen(api.ConflictGone(IP, "eth0"))
    node.layer2.happen(api.IpvsConflict("strictARP is off"))
    sim.run(0.02)
    assert not node.announcer.problems
    assert node.reports[-1] == stream.Warned("Node", owner, "ipvsConflict", "strictARP is off")


def test_a_conflict_ends_with_the_address(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    node.layer2.happen(api.Conflict(IP, "eth0", "02:ff:00:00:00:01", withheld=False))
    sim.run(CONFLICT_WAIT + 0.15)
    assert len(node.announcer.problems) == 1
    other = next(n for n in NODES if n != owner)
    for event in _told(node, group(IP, other)):
        node.announcer.on_stream(event, sim.now)
    for event in _told(sim.nodes[other], group(IP, other)):
        sim.nodes[other].announcer.on_stream(event, sim.now)
    sim.run(2.0)
    assert sim.owners(IP) == [other]
    assert not node.announcer.problems


def test_a_conflict_with_a_member_whose_mac_was_not_known_yet_is_not_told(sim: Sim) -> None:
    """Layer 2 takes it back (`ConflictGone`) when the MAC address turns out to be a member's."""
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    node.layer2.happen(api.Conflict(IP, "eth0", "02:ff:00:00:00:01", withheld=False))
    sim.run(CONFLICT_WAIT / 2)
    node.layer2.happen(api.ConflictGone(IP, "eth0"))
    sim.run(2 * CONFLICT_WAIT)
    assert not [r for r in node.reports if isinstance(r, stream.Warned)]
    assert not node.announcer.problems


def test_without_membership_a_strangers_frame_is_the_successor_that_is_waited_for() -> None:
    """MAC addresses of members are not known then; the old owner falls silent on the first frame, and says nothing."""
    sim = Sim(*NODES, keys=False)
    sim.tell(group(IP, *NODES))
    sim.run(3.0)
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    other = next(n for n in NODES if n != owner)
    for event in _told(node, group(IP, other)):
        node.announcer.on_stream(event, sim.now)
    assert IP in node.owned, "it answers until the other does"
    node.layer2.happen(api.Conflict(IP, "eth0", sim.nodes[other].layer2.own_macs()[0], withheld=False))
    sim.run(0.02)
    assert IP not in node.owned
    node.layer2.happen(api.ConflictGone(IP, "eth0"))
    sim.run(2 * CONFLICT_WAIT)
    assert not [r for r in node.reports if isinstance(r, stream.Warned)]


def _told(node: Node, *put: Item) -> list[stream.Event]:
    node.writer.change(put)
    return list(node.reader.receive(b"".join(node.writer.take())))


def test_without_membership_the_clusters_view_decides() -> None:
    sim = Sim(*NODES, keys=False)
    sim.tell(group(IP, *NODES))
    sim.run(3.0)
    (owner,) = sim.owners(IP)
    # The cluster says that the owner is gone: the next one takes over, everywhere by the same rule.
    sim.nodes[owner].running = False
    gone = [Member(n.name, (n.address,), n.name != owner) for n in sim.nodes.values()]
    for node in sim.nodes.values():
        node.writer.change(gone)
        for event in node.reader.receive(b"".join(node.writer.take())):
            if node.running:
                node.announcer.on_stream(event, sim.now)
    sim.run(3.0)
    assert len(sim.owners(IP)) == 1


def page(node: Node, path: str, now: float) -> tuple[int, str]:
    loop = Loop(lambda: now)
    status, _, body = pages(node.announcer, node.registry, loop, dict)[path]()
    loop.close()
    return status, b"".join(body).decode()


def test_pages(sim: Sim) -> None:
    (owner,) = sim.owners(IP)
    node = sim.nodes[owner]
    assert page(node, "/livez", sim.now) == (200, "ok\n")
    assert page(node, "/readyz", sim.now)[0] == 503
    node.announcer.on_stream(stream.State(True, ("config: line 3",)), sim.now)
    assert page(node, "/readyz", sim.now) == (200, "ok\n")
    assert page(node, "/readyz", sim.now + 60) == (503, "the cluster half is not heard\n")
    status = json.loads(page(node, "/status", sim.now)[1])
    assert status["ready"] is True
    assert status["problems"] == ["config: line 3"]
    assert status["election"]["groups"][IP]["owner"] == owner
    loop = Loop(lambda: sim.now)
    Collector(node.announcer, loop).register(node.registry)
    text = page(node, "/metrics", sim.now)[1]
    loop.close()
    assert f'metallb_layer2_gratuitous_sent{{ip="{IP}"}} 1' in text
    assert 'metallb_speaker_members{standing="settled"} 3' in text
    assert "metallb_speaker_cluster_up 1" in text


def test_members_that_are_not_heard_are_recognised_on_the_wire() -> None:
    """Where membership is off nobody tells a MAC address: a node's kernel answers for the node's own address."""
    sim = Sim("n1", "n2", keys=False)
    sim.tell(group(IP, "n1", "n2"))
    sim.run(1.0)
    node = sim.nodes["n1"]
    assert "10.0.0.2" in [address for address, _ in node.layer2.probed]
    assert "02:00:00:00:00:02" not in node.layer2.members
    node.layer2.happen(api.ProbeResult("10.0.0.2", ("02:00:00:00:00:02",)))
    sim.run(0.02)
    assert "02:00:00:00:00:02" in node.layer2.members


def test_a_speaker_that_never_ran_is_not_missed_one_that_is_alive_by_the_clusters_word_is() -> None:
    sim = Sim("n1", "n2")
    for alive, working in ((False, True), (True, False), (False, True)):
        sim.tell(Member("n9", ("10.0.0.9",), alive))
        sim.run(70.0)
        for node in sim.nodes.values():
            seen = [report for report in node.reports if isinstance(report, stream.MembersSeen)]
            assert seen[-1].working is working
