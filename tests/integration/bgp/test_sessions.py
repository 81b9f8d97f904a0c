"""What a session may be told by the configuration, with real routers: AS numbers, families, preference, BFD, port."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .lab import EXTERNAL_ASN, OUR_ASN, OURS, Agent, Lab, peer, sh, until
from .routers import ROUTERS, Session
from .test_interop import CALM, CALM_MS, FAST, V4, V6, lab, pulled

__all__ = ["lab"]
pytestmark = pytest.mark.root

WIDE = 4_200_000_001


@pytest.mark.parametrize("router", list(ROUTERS))
def test_the_peers_as_may_be_any_other_or_our_own(lab: Lab, router: str) -> None:
    """`peer-asn: external` takes every AS but ours, `internal` takes ours alone."""
    there = ROUTERS[router](lab, Session(asn=EXTERNAL_ASN))
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4", peer_asn="internal")], [{"prefix": V4, "localpref": 7}]
    agent.apply()
    until("it is refused", lambda: "bad peer AS" in agent.tell()["status"][0]["last_error"])
    agent.peers = [peer("ipv4", peer_asn="external")]
    agent.apply()
    agent.wait_established()
    until("the route is there", lambda: V4 in there.routes())
    assert there.routes()[V4].as_path == (OUR_ASN,)


@pytest.mark.parametrize("router", list(ROUTERS))
def test_an_internal_peer_is_known_by_our_own_as(lab: Lab, router: str) -> None:
    there = ROUTERS[router](lab, Session(asn=OUR_ASN))
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4", peer_asn="external")], [{"prefix": V4, "localpref": 7}]
    agent.apply()
    until("it is refused", lambda: "bad peer AS" in agent.tell()["status"][0]["last_error"])
    agent.peers = [peer("ipv4", peer_asn="internal")]
    agent.apply()
    agent.wait_established()
    until("the route is there", lambda: V4 in there.routes())
    assert there.routes()[V4].as_path == ()
    assert there.routes()[V4].local_pref == 7


@pytest.mark.parametrize("asn", [65001, WIDE], ids=["short", "wide"])
@pytest.mark.parametrize("router", list(ROUTERS))
def test_another_as_towards_one_peer(lab: Lab, router: str, asn: int) -> None:
    """`local-asn`: in OPEN and in the path, in place of `my-asn`."""
    there = ROUTERS[router](lab, Session(ours=asn))
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4", local_asn=asn)], [{"prefix": V4}]
    agent.apply()
    agent.wait_established()
    until("the route is there", lambda: V4 in there.routes())
    assert there.routes()[V4].as_path == (asn,)


@pytest.mark.parametrize("router", list(ROUTERS))
def test_of_several_preferences_the_highest_holds(lab: Lab, router: str) -> None:
    """Two Services, or two advertisements, may want one prefix with different attributes."""
    there = ROUTERS[router](lab, Session(asn=OUR_ASN))
    there.start()
    agent = Agent(lab)
    low = {"prefix": V4, "localpref": 100, "communities": [[64512, 1]]}
    high = {"prefix": V4, "localpref": 300, "communities": [[64512, 3]]}
    agent.peers, agent.routes = [peer("ipv4", peer_asn=OUR_ASN)], [low, high]
    agent.apply()
    agent.wait_established()
    until("the route is there", lambda: V4 in there.routes())
    learnt = there.routes()[V4]
    assert (learnt.local_pref, learnt.communities) == (300, ("64512:1", "64512:3"))
    agent.routes = [low]
    agent.apply()
    until("only the lower is left", lambda: there.routes()[V4].local_pref == 100)
    assert there.routes()[V4].communities == ("64512:1",)


@pytest.mark.parametrize("router", ["gobgp", "exabgp"])
def test_external_peers_are_told_no_preference(lab: Lab, router: str) -> None:
    """Two routers that show what was in the message; the others put in a value of their own."""
    there = ROUTERS[router](lab, Session())
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4")], [{"prefix": V4, "localpref": 300}]
    agent.apply()
    agent.wait_established()
    until("the route is there", lambda: V4 in there.routes())
    assert there.routes()[V4].local_pref is None


@pytest.mark.parametrize("router", list(ROUTERS))
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_one_family_only(lab: Lab, router: str, family: str) -> None:
    """`address-families`: the other one is neither offered nor sent."""
    there = ROUTERS[router](lab, Session())
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4", address_families=[family])], [{"prefix": V4}, {"prefix": V6}]
    agent.apply()
    agent.wait_established()
    wanted = V4 if family == "ipv4" else V6
    until("that family's route is there", lambda: wanted in there.routes())
    time.sleep(0.5)
    assert there.routes().keys() == {wanted}
    status = agent.tell()["status"][0]
    assert status["families"] == [family]
    assert status["prefixes"] == {"desired": 2, "advertised": 1}


def test_an_address_that_comes_after_the_session(lab: Lab) -> None:
    """A node whose IPv6 address comes after BGP is up, and goes before: its IPv6 routes follow, the session stays."""
    sh("ip", "-n", lab.ours, "addr", "del", f"{OURS['ipv6']}/64", "dev", "eth0")
    there = ROUTERS["bird"](lab, Session())
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4")], [{"prefix": V4}, {"prefix": V6}]
    agent.apply()
    agent.wait_established()
    until("the IPv4 route is there", lambda: there.routes().keys() == {V4})
    sh("ip", "-n", lab.ours, "addr", "add", f"{OURS['ipv6']}/64", "dev", "eth0", "nodad")
    until("the IPv6 route, too", lambda: there.routes().keys() == {V4, V6})
    assert there.routes()[V6].next_hop == OURS["ipv6"]
    sh("ip", "-n", lab.ours, "addr", "add", "2001:db8::99/128", "dev", "eth0", "nodad")
    sh("ip", "-n", lab.ours, "addr", "add", "2001:db8::77/64", "dev", "eth0", "nodad")
    time.sleep(1)
    sh("ip", "-n", lab.ours, "addr", "del", f"{OURS['ipv6']}/64", "dev", "eth0")
    until("the one that is left", lambda: there.routes()[V6].next_hop == "2001:db8::77", 60)
    assert [h["name"] for h in agent.tell()["history"]] == ["sessionUp"]


@pytest.mark.parametrize("router", ["frr", "bird"])
def test_a_router_that_asks_for_everything_again_gets_it(lab: Lab, router: str) -> None:
    there = ROUTERS[router](lab, Session())
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4")], [{"prefix": V4}, {"prefix": V6}]
    agent.apply()
    agent.wait_established()
    until("both routes are there", lambda: there.routes().keys() >= {V4, V6})
    before = agent.tell()["status"][0]["updates"]["sent"]
    there.ask("reload in metallb" if router == "bird" else "clear bgp * soft in")
    until("they were sent again", lambda: agent.tell()["status"][0]["updates"]["sent"] >= before + 2)
    time.sleep(0.5)
    assert there.routes().keys() >= {V4, V6}
    assert [h["name"] for h in agent.tell()["history"]] == ["sessionUp"]


def test_long_messages_where_the_router_takes_them(lab: Lab) -> None:
    """RFC 8654: 3,000 routes need four messages of 4 KiB, or one that is longer."""
    there = ROUTERS["bird"](lab, Session(extended=True))
    there.start()
    agent = Agent(lab)
    agent.peers = [peer("ipv4", address_families=["ipv4"])]
    agent.routes = [{"prefix": f"10.0.{i >> 8}.{i & 255}/32"} for i in range(3000)]
    agent.apply()
    agent.wait_established()
    until("all are there", lambda: "3000 of 3001" in there.ask("show route protocol metallb count"))
    assert agent.tell()["status"][0]["updates"]["sent"] == 1


def test_a_port_that_the_network_plugin_holds_is_told_and_tried_again(lab: Lab) -> None:
    """`listen` on a node where another BIRD has port 179: the session comes up by our own call."""
    (lab.folder / "plugin.conf").write_text(
        f"router id 192.0.2.99;\nprotocol device {{}}\nprotocol bgp plugin {{ local {OURS['ipv4']} as 65000;\n"
        "  neighbor 192.0.2.99 as 65000; passive on; ipv4 { import none; export none; }; }\n"
    )
    plugin = lab.popen(lab.ours, "bird", "-f", "-c", f"{lab.folder}/plugin.conf", "-s", f"{lab.folder}/p", log="p.log")
    until("the plugin listens", lambda: ":179" in sh("nsenter", f"--net=/run/netns/{lab.ours}", "ss", "-ltn"))
    there = ROUTERS["frr"](lab, Session(active=True))
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes = [peer("ipv4", listen=True)], [{"prefix": V4}]
    agent.apply()
    agent.wait_established()
    until("the route is there", lambda: V4 in there.routes())
    assert "cannot listen on port 179" in agent.tell()["listen_errors"]["4"]
    plugin.terminate()
    plugin.wait()
    until("the port is had", lambda: not agent.tell()["listen_errors"])
    assert [h["name"] for h in agent.tell()["history"] if "Up" in h["name"] or "Down" in h["name"]] == ["sessionUp"]
    agent.peers = [peer("ipv4", listen=True, port=1790)]  # from here on only the router's call can make the session
    agent.apply()
    until("it was reset", lambda: agent.state() != "Established")
    agent.wait_established()


def test_a_new_password_resets_its_own_session_alone(lab: Lab) -> None:
    there = ROUTERS["frr"](lab, Session(password="first"))
    there.start()
    agent = Agent(lab)
    other = peer("ipv6", key="other", address="2001:db8::9")
    agent.peers, agent.routes = [peer("ipv4", password="first"), other], [{"prefix": V4}]
    agent.apply()
    until("it is up", lambda: {s["peer"]: s["state"] for s in agent.tell()["status"]}["router"] == "Established")
    attempts = [h for h in agent.tell()["history"] if h["peer"] == "other"]
    agent.peers = [peer("ipv4", password="second"), other]
    agent.apply()
    until("it was reset", lambda: any(h["name"] == "sessionDown" for h in agent.tell()["history"]))
    down = next(h for h in agent.tell()["history"] if h["name"] == "sessionDown")
    assert (down["peer"], down["reason"]) == ("router", "configuration changed")
    time.sleep(2)
    assert {s["peer"]: s["state"] for s in agent.tell()["status"]}["router"] != "Established"
    lab.in_router(
        *("vtysh", "--vty_socket", str(lab.folder), "-c", "conf t", "-c", f"router bgp {EXTERNAL_ASN}"),
        *("-c", f"neighbor {OURS['ipv4']} password second"),
    )
    until("it is up again", lambda: {s["peer"]: s["state"] for s in agent.tell()["status"]}["router"] == "Established")
    until("the route is there", lambda: V4 in there.routes())
    assert attempts == [h for h in agent.tell()["history"] if h["peer"] == "other"][: len(attempts)]


@pytest.mark.parametrize("router", ["frr", "bird"])
def test_other_bfd_timers_flap_nothing(lab: Lab, router: str) -> None:
    there = ROUTERS[router](lab, Session(bfd_ms=200))
    there.start()
    agent = Agent(lab)
    slow = {**FAST, "receive_interval_ms": 2000, "transmit_interval_ms": 2000}
    fast = {**FAST, "receive_interval_ms": 200, "transmit_interval_ms": 200}
    agent.peers, agent.routes, agent.timers = [peer("ipv4", bfd_profile="fast")], [{"prefix": V4}], [slow]

    def flaps() -> list[dict[str, Any]]:
        """What happened to the session while the timers changed three times."""
        agent.timers = [slow]
        agent.apply()
        agent.wait_established()
        until("BFD is up", lambda: agent.tell()["status"][0]["bfd"] == "UP")
        until("the route is there", lambda: V4 in there.routes())
        time.sleep(3)
        before = len(agent.tell()["history"])
        for timers in (fast, slow, fast):
            agent.timers = [timers]
            agent.apply()
            time.sleep(2.5)
        return list(agent.tell()["history"][before:])

    # 600 ms are less than this machine may stand still: not every time, if it is not the new timers.
    seen: list[list[dict[str, Any]]] = []
    while not seen or seen[-1]:
        seen.append(flaps())
        assert not seen[-1] or len(seen) < 3, seen
    took, _ = pulled(lab, agent)
    assert took < 5, "the fast timers hold: the slow ones take six seconds"


def shutting_down(communities: tuple[str, ...]) -> bool:
    return bool({"65535:0", "gracefulShutdown", "graceful-shutdown"} & set(communities))


@pytest.mark.parametrize("router", ["frr", "bird"])
@pytest.mark.parametrize("how", ["stop", "removed"])
def test_an_ordered_end_gives_time_also_with_bfd(lab: Lab, router: str, how: str) -> None:
    """Routers end a session when BFD says AdminDown: that is said when the routes have been told to go, and have."""
    there = ROUTERS[router](lab, Session(bfd_ms=CALM_MS))
    there.start()
    agent = Agent(lab)
    agent.peers, agent.routes, agent.timers = [peer("ipv4", bfd_profile="fast")], [{"prefix": V4}], [CALM]
    agent.apply()
    agent.wait_established()
    until("BFD is up", lambda: agent.tell()["status"][0]["bfd"] == "UP")
    until("the route is there", lambda: V4 in there.routes())
    time.sleep(1)
    wait = 8.0
    agent.order(leave_wait=wait)  # one second in truth
    start = time.monotonic()
    if how == "stop":
        agent.order(stop="maintenance")
    else:
        agent.peers = []
        agent.apply()
    until("it is told", lambda: V4 in (seen := there.routes()) and shutting_down(seen[V4].communities), wait)
    while time.monotonic() - start < wait - 0.5:
        seen = there.routes()  # takes its time on a busy machine
        assert V4 in seen or time.monotonic() - start > wait
    until("it is gone", lambda: V4 not in there.routes())
    assert time.monotonic() - start >= wait
    if how == "stop":
        agent.process.wait(30)
        assert agent.process.returncode == 0


@pytest.mark.parametrize("router", ["frr", "bird"])
def test_a_restart_with_graceful_restart_and_bfd_keeps_the_routes(lab: Lab, router: str) -> None:
    there = ROUTERS[router](lab, Session(bfd_ms=CALM_MS, graceful_restart=True))
    there.start()
    agent = Agent(lab)
    agent.peers = [peer("ipv4", bfd_profile="fast", graceful_restart=60)]
    agent.routes, agent.timers = [{"prefix": V4}], [CALM]
    agent.apply()
    agent.wait_established()
    until("BFD is up", lambda: agent.tell()["status"][0]["bfd"] == "UP")
    until("the route is there", lambda: V4 in there.routes())
    time.sleep(1)
    agent.order(stop="rollout")
    agent.process.wait(30)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert V4 in there.routes(), "the route went with the announcer"
    again = Agent(lab)
    again.peers, again.routes, again.timers = agent.peers, agent.routes, agent.timers
    again.apply()
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert V4 in there.routes(), "the route went when the announcer came back"
    again.wait_established()
    assert V4 in there.routes()
