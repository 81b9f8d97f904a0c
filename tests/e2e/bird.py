"""BIRD on a host of the fabric: the router that every speaker peers with, and what it has learned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.cluster import Cluster
from tests.e2e import product

ROUTER = "router"
LOCKED = "fd00:172:18::21"  # the router's address for the session with a password


class Bird:
    """BIRD on a host of the fabric: takes calls of every node, and installs what it learns with ECMP."""

    def __init__(self, lab: Cluster, folder: Path) -> None:
        self.lab, self.control = lab, folder / "ctl"
        host = lab.add_host(ROUTER, 21)
        self.address = host.v4
        # Each by name: BIRD keeps no routes of a neighbour that it made from a range while that restarts.
        nodes = "\n".join(
            f"protocol bgp {node} from nodes {{ neighbor {min(own(lab, node))} as 64512; }}" for node in lab.nodes
        )
        (folder / "bird.conf").write_text(
            f"""router id {self.address};
timeformat protocol "%s.%3f";
protocol device {{}}
protocol bfd {{ interface "*" {{ interval 50 ms; multiplier 20; }}; }}
protocol kernel {{ ipv4 {{ export all; import none; }}; merge paths on; }}
protocol kernel {{ ipv6 {{ export all; import none; }}; merge paths on; }}
template bgp nodes {{
  local {self.address} as 64500;
  passive on; bfd graceful; graceful restart aware;
  connect delay time 1; error wait time 1, 2; error forget time 1;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
{nodes}
include "{folder}/locked.conf";
"""
        )
        self.locked = folder / "locked.conf"
        self.lock("")
        lab.spawn("bird", ROUTER, "bird", "-f", "-c", str(folder / "bird.conf"), "-s", str(self.control))

    def close(self) -> None:
        """End BIRD and its host. The cluster may have another one after that."""
        self.lab.processes.forget("bird")
        self.lab.remove_host(ROUTER)

    def lock(self, password: str) -> None:
        """A session of its own with the first node, over IPv6, with a password ("": no such session)."""
        (node,) = own(self.lab, self.lab.nodes[0], family=6)
        self.locked.write_text(
            f"""protocol bgp locked {{ local {LOCKED} as 64500; neighbor {node} as 64512;
  password "{password}"; passive on; connect delay time 1; error wait time 1, 2; error forget time 1;
  ipv6 {{ import all; export none; }}; }}
"""
            if password
            else ""
        )

    def call(self) -> None:
        """The same session, but this side calls, without a password."""
        (node,) = own(self.lab, self.lab.nodes[0], family=6)
        self.locked.write_text(
            f"""protocol bgp locked {{ local {LOCKED} as 64500; neighbor {node} as 64512;
  connect delay time 1; error wait time 1, 2; error forget time 1; ipv6 {{ import all; export none; }}; }}
"""
        )

    def ask(self, question: str) -> str:
        return self.lab.run_in(ROUTER, "birdc", "-s", str(self.control), question, check=False).stdout

    def sessions(self) -> dict[str, float]:
        """Nodes whose session is established -> since when (seconds since the epoch)."""
        lines = re.findall(r"(?m)^(node\d+) +BGP +\S+ +up +([0-9.]+) +Established", self.ask("show protocols"))
        return {name: float(since) for name, since in lines}

    def bfd(self) -> list[float]:
        """After how many seconds the router misses each speaker, of the BFD sessions that are up."""
        return [float(row.split()[-1]) for row in self.ask("show bfd sessions").splitlines() if " Up " in row]

    def undisturbed(self, before: dict[str, float]) -> bool:
        """Whether the same sessions stand since the same time, to some milliseconds: BIRD counts back from now."""
        now = self.sessions()
        return now.keys() == before.keys() and all(abs(now[name] - since) < 0.5 for name, since in before.items())

    def hops(self, prefix: str) -> set[str]:
        """Next hops of all routes to the prefix."""
        return {line.split()[1] for line in self.ask(f"show route {prefix} all").splitlines() if "BGP.next_hop" in line}


#: For tests of BFD's speed: the router misses a speaker after 150 ms (RFC 5880 section 6.8.4: by the speaker's own
#: interval and multiplier). All others have `calm`, 6 s, so that a machine that stalls ends no session.
FAST: dict[str, object] = {"bfd-profile": "fast"}


def config(router: str, **peer: object) -> dict[str, Any]:
    """One pool, and the router as the peer of all nodes."""
    return {
        "peers": [
            {"peer-address": router, "peer-asn": 64500, "my-asn": 64512, "hold-time": "9s", "bfd-profile": "calm"}
            | peer
        ],
        "bfd-profiles": [
            {"name": "fast", "receive-interval": 50, "transmit-interval": 50, "detect-multiplier": 3},
            {"name": "calm", "receive-interval": 300, "transmit-interval": 300, "detect-multiplier": 20},
        ],
        "bgp-communities": {"blue": "64512:77"},
        "address-pools": [
            {
                "name": "routed",
                "protocol": "bgp",
                "addresses": ["10.200.0.0/24", "fd00:200::1-fd00:200::20"],
                "avoid-buggy-ips": True,
                "bgp-advertisements": [{"communities": ["blue"]}],
            }
        ],
    }


def own(lab: Cluster, *nodes: str, family: int = 4) -> set[str]:
    addresses = set()
    for node in nodes or lab.nodes:
        number = int(node.removeprefix("node"))
        addresses.add(f"172.18.0.{10 + number}" if family == 4 else f"fd00:172:18::{10 + number}")
    return addresses


def fetch(lab: Cluster, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return lab.run_in(ROUTER, "curl", "-s", "-m", "2", f"http://{host}:{product.PORT}/", check=False).stdout
