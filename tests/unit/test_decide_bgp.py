"""What this node advertises by BGP, and which sessions it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metallb_common.config.model import BgpAdvertisement, Community, Config
from metallb_speaker.cluster import decide_bgp
from tests.unit.decide_lab import (
    BGP,
    LOCAL,
    PEER,
    PEER_KEY,
    Cluster,
    node,
    pod,
    routes,
    selector,
    service,
    slices,
    view,
)


def test_bgp_routes() -> None:
    assert routes(view(service("a", "198.51.100.1", "2001:db8:1::1"))) == {
        "198.51.100.1/32": ("ns/a",),
        "2001:db8:1::1/128": ("ns/a",),
    }
    aggregated = Config(
        pools=(replace(BGP, bgp_advertisements=(BgpAdvertisement(24, 64, 100, (Community((1, 2)),)),)),)
    )
    assert routes(view(service("a", "198.51.100.1"), service("b", "198.51.100.7")), aggregated) == {
        "198.51.100.0/24": ("ns/a", "ns/b")
    }


@pytest.mark.parametrize(
    ("ready", "policy", "announced"),
    [("n2", {}, True), ("n2", LOCAL, False), ("n1", LOCAL, True), ("", {}, False)],
)
def test_bgp_endpoints(ready: str, policy: dict[str, str], announced: bool) -> None:
    assert bool(routes(view(service("a", "198.51.100.1", **policy), ready=ready))) is announced


def test_bgp_nodes() -> None:
    made = service("a", "198.51.100.1")
    assert routes(view(made, nodes=[node("n1", unschedulable=True), node("n2")]))
    assert not routes(view(made, nodes=[node("n1", ready=False), node("n2")]))
    assert routes(view(made, nodes=[node("n1", ready=False), node("n2", ready=False)]))
    chosen = replace(BGP, bgp_advertisements=(BgpAdvertisement(node_selectors=(selector("a", "b"),)),))
    assert not routes(view(made), Config(pools=(chosen,)))
    assert routes(view(made, nodes=[node("n1", labels={"a": "b"})]), Config(pools=(chosen,)))


def test_peers() -> None:
    elsewhere = replace(PEER, name="q", node_selectors=(selector("kubernetes.io/hostname", "n2"),))
    secret = replace(PEER, name="s", password_secret="bgp")
    made = view()
    config = Config(peers=(PEER, elsewhere, secret))
    found = decide_bgp.sessions(config, made)
    assert [(p.key, p.name) for p in found.peers] == [(PEER_KEY, "p")]
    assert found.problems == ("peer s: the Secret 'bgp' has not been read yet",)
    assert found.unread == {f"{PEER_KEY} #2"}
    made.answered_secrets = frozenset({"bgp"})
    found = decide_bgp.sessions(config, made)
    assert found.problems == ("peer s: no key 'password' in Secret 'bgp'; the session waits for it",)
    assert not found.unread
    made.passwords["bgp", "password"] = "hush"
    found = decide_bgp.sessions(Config(peers=(secret,)), made)
    assert (found.peers[0].password, found.peers[0].connect_time, found.problems) == ("hush", 0, ())


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (80, True), (81, False)])
def test_a_password_that_cannot_be_a_key_is_that_peers_problem(length: int, fits: bool) -> None:
    made = view()
    made.passwords["bgp", "password"] = "x" * length
    there = replace(PEER, name="q", peer_port=1179)
    found = decide_bgp.sessions(Config(peers=(replace(PEER, name="s", password_secret="bgp"), there)), made)
    assert [p.name for p in found.peers] == (["s", "q"] if fits else ["q"])
    wrong = f"the password in Secret 'bgp' has {length} bytes, TCP MD5 takes 1 to 80; the session waits for another"
    assert found.problems == (() if fits else (f"peer s: {wrong}",))


def test_calls_from_one_address_have_one_key() -> None:
    first = replace(PEER, listen=True, password="one")
    second = replace(first, name="q", peer_port=1179, password="two")
    found = decide_bgp.sessions(Config(peers=(first, second)), view())
    assert [(p.name, p.listen, p.password) for p in found.peers] == [("p", True, "one"), ("q", False, "two")]
    assert found.problems == (
        "peer q: its calls are not taken: p listens for the same address with another password; give both one, or "
        "remove listen from one",
    )
    same = decide_bgp.sessions(Config(peers=(first, replace(second, password="one"))), view())
    assert ([p.listen for p in same.peers], same.problems) == ([True, True], ())


def test_a_session_whose_password_moves_to_a_secret_stays_until_that_is_read() -> None:
    cluster = Cluster()
    cluster.nodes.upsert(node("n1"))
    cluster.view.config = Config(peers=(replace(PEER, password="hush"),))
    cluster.engine.settle()
    list(cluster.writer.take())
    cluster.view.config = Config(peers=(replace(PEER, password_secret="bgp"),))
    cluster.changes.all()
    cluster.engine.settle()
    assert cluster.engine.unread == {PEER_KEY}
    assert not cluster.writer.waiting, "nothing to be told yet"
    cluster.view.passwords, cluster.view.answered_secrets = {("bgp", "password"): "hush"}, frozenset({"bgp"})
    cluster.changes.all()
    cluster.engine.settle()
    assert not cluster.writer.waiting, "the same password: nothing changed"
    cluster.view.passwords = {}
    cluster.changes.all()
    cluster.engine.settle()
    assert ("BgpPeer", PEER_KEY) not in cluster.writer.items, "the Secret is gone"


def test_a_peer_of_other_nodes_at_the_same_address_changes_nothing_here() -> None:
    """Racks with one router address each of their own: what is edited for one is nothing to the other."""
    there = replace(PEER, name="a", my_asn=64600, node_selectors=(selector("rack", "a"),))
    here = replace(PEER, name="b", node_selectors=(selector("rack", "b"),))
    made = view(nodes=[node("n1", labels={"rack": "b"})])
    with_both = decide_bgp.sessions(Config(peers=(there, here)), made).peers
    assert with_both == decide_bgp.sessions(Config(peers=(here,)), made).peers
    assert [p.key for p in with_both] == [PEER_KEY]


def test_two_advertisements_that_come_to_the_same_route_are_one() -> None:
    """They differ in whom they are for: both may be for this node and this Service."""
    cluster = Cluster()
    twice = (
        BgpAdvertisement(node_selectors=(selector("zone", "a"),)),
        BgpAdvertisement(service_selectors=(selector("public", "yes"),)),
    )
    cluster.view.config = Config(pools=(replace(BGP, bgp_advertisements=twice),))
    cluster.nodes.upsert(node("n1", labels={"zone": "a"}))
    cluster.pods.upsert(pod("n1"))
    cluster.services.upsert(service("a", "198.51.100.1", labels={"public": "yes"}))
    cluster.slices.upsert(slices("a", "n1")["a"])
    cluster.engine.settle()
    assert [key[0] for key in cluster.writer.items].count("BgpRoute") == 1
    cluster.services.upsert(service("a", "198.51.100.1"))  # the second does not hold any more
    cluster.engine.settle()
    assert [key[0] for key in cluster.writer.items].count("BgpRoute") == 1
    cluster.services.delete(service("a"))
    cluster.engine.settle()
    assert [key[0] for key in cluster.writer.items].count("BgpRoute") == 0


def test_a_peer_keeps_its_key_whatever_it_is_called() -> None:
    """And each has its own, also where two share an address and a port."""
    twin = replace(PEER, name="q")
    other = replace(PEER, name="r", peer_port=1179)
    assert decide_bgp.peer_keys([PEER, twin, other]) == [PEER_KEY, f"{PEER_KEY} #2", "10.9.0.1 1179"]
    assert decide_bgp.peer_keys([replace(PEER, name="new")]) == [PEER_KEY]


def test_labels_of_this_node_move_its_peers(capsys: pytest.CaptureFixture[str]) -> None:
    """The log says that they changed, and the announcer is told why a peer went."""
    cluster = Cluster()
    cluster.view.config = Config(peers=(replace(PEER, node_selectors=(selector("rack", "a"),)),))
    cluster.nodes.upsert(node("n1", labels={"rack": "a"}))
    cluster.engine.settle()
    assert ("BgpPeer", PEER_KEY) in cluster.writer.items
    list(cluster.writer.take())
    cluster.nodes.upsert(node("n2", labels={"rack": "b"}))
    cluster.engine.settle()
    assert "nodeLabelsChanged" not in capsys.readouterr().out, "another node's are not ours"
    cluster.nodes.upsert(node("n1", labels={"rack": "b"}))
    cluster.engine.settle()
    assert '"nodeLabelsChanged"' in capsys.readouterr().out
    assert ("BgpPeer", PEER_KEY) not in cluster.writer.items
    assert cluster.writer._why == {f"BgpPeer {PEER_KEY}": "filteredByNodeSelector"}
    cluster.nodes.upsert(node("n1", labels={"rack": "a"}))
    cluster.engine.settle()
    list(cluster.writer.take())
    cluster.view.config = Config()
    cluster.changes.all()
    cluster.engine.settle()
    assert cluster.writer._why == {f"BgpPeer {PEER_KEY}": "removedFromConfig"}
