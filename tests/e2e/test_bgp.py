"""BGP in a whole cluster: every speaker peers with a router, and what the router learns follows the Services."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e import product

pytestmark = [pytest.mark.root, pytest.mark.cluster]

ROUTER = "router"
ADDRESS, ADDRESS_V6 = "10.200.0.1", "fd00:200::1"


class Bird:
    """BIRD on a host of the fabric: takes calls of every node, and installs what it learns with ECMP."""

    def __init__(self, lab: Cluster, folder: Path) -> None:
        self.lab, self.control = lab, folder / "ctl"
        host = lab.add_host(ROUTER, 21)
        self.address = host.v4
        (folder / "bird.conf").write_text(
            f"""router id {self.address};
protocol device {{}}
protocol bfd {{ interface "*" {{ interval 50 ms; multiplier 3; }}; }}
protocol kernel {{ ipv4 {{ export all; import none; }}; merge paths on; }}
protocol kernel {{ ipv6 {{ export all; import none; }}; merge paths on; }}
protocol bgp nodes {{
  local {self.address} as 64500;
  neighbor range 172.18.0.0/16 as 64512;
  dynamic name "node";
  bfd on; graceful restart aware; connect delay time 1; error wait time 1, 2; error forget time 1;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
"""
        )
        lab.spawn("bird", ROUTER, "bird", "-f", "-c", str(folder / "bird.conf"), "-s", str(self.control))

    def ask(self, question: str) -> str:
        return self.lab.run_in(ROUTER, "birdc", "-s", str(self.control), question, check=False).stdout

    def hops(self, prefix: str) -> set[str]:
        """Next hops of all routes to the prefix."""
        return {line.split()[1] for line in self.ask(f"show route {prefix} all").splitlines() if "BGP.next_hop" in line}


def config(router: str) -> dict[str, object]:
    return {
        "peers": [
            {"peer-address": router, "peer-asn": 64500, "my-asn": 64512, "hold-time": "9s", "bfd-profile": "fast"}
        ],
        "bfd-profiles": [{"name": "fast", "receive-interval": 50, "transmit-interval": 50, "detect-multiplier": 3}],
        "bgp-communities": {"blue": "64512:77"},
        "address-pools": [
            {
                "name": "routed",
                "protocol": "bgp",
                "addresses": ["10.200.0.1-10.200.0.20", "fd00:200::1-fd00:200::20"],
                "bgp-advertisements": [{"communities": ["blue"]}],
            }
        ],
    }


@pytest.fixture(scope="module")
def bird(lab: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bird]:
    router = Bird(lab, tmp_path_factory.mktemp("bird"))
    product.clean(lab)
    product.install(lab, config(router.address))
    product.apps(lab, [product.backend(f"on-{node}", node) for node in lab.nodes])
    yield router
    product.remove(lab, "--all")
    lab.stop("bird")
    product.clean(lab)


def own(lab: Cluster, *nodes: str, family: int = 4) -> set[str]:
    addresses = set()
    for node in nodes or lab.nodes:
        number = int(node.removeprefix("node"))
        addresses.add(f"172.18.0.{10 + number}" if family == 4 else f"fd00:172:18::{10 + number}")
    return addresses


def fetch(lab: Cluster, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return lab.run_in(ROUTER, "curl", "-s", "-m", "2", f"http://{host}:{product.PORT}/", check=False).stdout


def select(lab: Cluster, name: str, backend: str) -> None:
    """Point a Service to another backend."""
    patch = json.dumps({"spec": {"selector": {"backend": backend}}})
    lab.kubectl("-n", product.APP, "patch", "service", name, "-p", patch)


def test_every_node_advertises_both_families_and_the_router_spreads(bird: Bird) -> None:
    lab = bird.lab
    [found] = product.expose(lab, product.service("dual", **product.DUAL))
    assert found == [ADDRESS, ADDRESS_V6]
    lab.wait("three next hops", lambda: bird.hops(f"{ADDRESS}/32") == own(lab), 30)
    lab.wait("three next hops for IPv6", lambda: len(bird.hops(f"{ADDRESS_V6}/128")) == 3, 10)
    assert "(64512,77)" in bird.ask(f"show route {ADDRESS}/32 all")
    for address in found:
        lab.wait(f"{address} answers behind the router", lambda address=address: "pod=on-node" in fetch(lab, address))
    # ECMP in the kernel: several next hops for one prefix.
    assert lab.run_in(ROUTER, "ip", "route", "show", ADDRESS).stdout.count("nexthop") == 3
    product.remove(lab, "dual")
    lab.wait("withdrawn", lambda: not bird.hops(f"{ADDRESS}/32") and not bird.hops(f"{ADDRESS_V6}/128"), 10)


def test_local_policy_follows_the_endpoints(bird: Bird) -> None:
    lab = bird.lab
    first, second, _ = lab.nodes
    [[address]] = product.expose(lab, product.service("local", f"on-{first}", ipFamilies=["IPv4"], **product.LOCAL))
    lab.wait("only the endpoint's node", lambda: bird.hops(f"{address}/32") == own(lab, first), 20)
    select(lab, "local", f"on-{second}")
    lab.wait("it moved with the endpoints", lambda: bird.hops(f"{address}/32") == own(lab, second), 20)
    select(lab, "local", "nowhere")
    lab.wait("nobody without an endpoint", lambda: not bird.hops(f"{address}/32"), 20)
    product.remove(lab, "local")


def test_bfd_takes_a_lost_node_out_at_once(bird: Bird) -> None:
    lab = bird.lab
    lost = lab.nodes[-1]
    [[address]] = product.expose(lab, product.service("lost", f"on-{lab.nodes[0]}", ipFamilies=["IPv4"]))
    lab.wait("three next hops", lambda: bird.hops(f"{address}/32") == own(lab), 30)
    lab.wait("three BFD sessions", lambda: bird.ask("show bfd sessions").count(" Up ") == 3, 20)
    lab.power_off(lost)
    try:
        start = time.monotonic()
        lab.wait("two next hops", lambda: bird.hops(f"{address}/32") == own(lab, *lab.nodes[:2]), 5, 0.02)
        took = time.monotonic() - start
        print(f"power-off to withdrawn, with BFD 50 ms x 3: {took * 1000:.0f} ms")
        assert took < 2, "BFD did not see it: the hold time did"
    finally:
        lab.power_on(lost)
    lab.wait("and it comes back", lambda: bird.hops(f"{address}/32") == own(lab), 60)
    product.remove(lab, "lost")


def test_a_changed_service_flaps_no_session(bird: Bird) -> None:
    lab = bird.lab
    [[one]] = product.expose(lab, product.service("one", ipFamilies=["IPv4"]))
    lab.wait("three next hops", lambda: bird.hops(f"{one}/32") == own(lab), 30)
    before = bird.ask("show protocols")
    product.expose(lab, *(product.service(f"more{i}", ipFamilies=["IPv4"]) for i in range(5)))
    product.remove(lab, *(f"more{i}" for i in range(5)))
    lab.wait("gone", lambda: not bird.hops("10.200.0.2/32"), 10)
    assert bird.ask("show protocols") == before  # it tells since when each session stands
    assert bird.hops(f"{one}/32") == own(lab)
    product.remove(lab, "one")
