"""The routers: how each is configured, started, and asked what it has learnt."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lab import EXTERNAL_ASN, OUR_ASN, OURS, ROUTER, Lab, sh, until


@dataclass(frozen=True)
class Session:
    """What a router is told about us."""

    transport: str = "ipv4"  # or ipv6
    asn: int = EXTERNAL_ASN  # the router's own
    ours: int = OUR_ASN  # the one that it expects of us
    multihop: bool = False
    password: str = ""
    hold: int = 90
    bfd_ms: int = 0
    bfd_multiplier: int = 3
    echo_ms: int = 0
    graceful_restart: bool = False
    gtsm: bool = False
    active: bool = False  # the router dials, too
    extended: bool = False  # messages above 4 KiB, where the router must be told to take them
    config: str = ""  # the router's whole configuration, in place of one made from the above


@dataclass(frozen=True)
class Learnt:
    """A route as the router shows it."""

    next_hop: str
    communities: tuple[str, ...] = ()
    as_path: tuple[int, ...] = ()
    local_pref: int | None = None


class Router(ABC):
    """A daemon in the lab's router namespace."""

    name = ""

    def __init__(self, lab: Lab, session: Session) -> None:
        self.lab, self.session = lab, session
        self.folder: Path = lab.folder

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def routes(self) -> dict[str, Learnt]:
        """Prefix -> what was learnt from us."""

    def heard(self) -> str:
        """Where the router shows an operator's message."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob(f"{self.name}*.log"))

    def ask(self, question: str) -> Any:
        """What the router's own command line says; parsed where it speaks JSON."""
        raise LookupError(f"{self.name} is not asked for {question!r}")


class Bird(Router):
    name = "bird"
    protocol = "metallb"  # our session's name in its configuration

    def start(self) -> None:
        s = self.session
        lines = [
            "router id 192.0.2.2;",
            f'log "{self.folder}/bird.log" all;',
            "timeformat log iso long us;",
            "protocol device {}",
            "protocol direct { ipv4; ipv6; }",
        ]
        if s.bfd_ms:
            lines.append(
                f'protocol bfd {{ interface "eth0" {{ interval {s.bfd_ms} ms; multiplier {s.bfd_multiplier}; }};'
                f" multihop {{ interval {s.bfd_ms} ms; multiplier {s.bfd_multiplier}; }}; }}"
            )
        # AdminDown and failures are one to BIRD, unless it is told to keep routes over both.
        bfd = "" if not s.bfd_ms else "bfd graceful;" if s.graceful_restart else "bfd on;"
        lines.append(
            f"protocol bgp metallb {{ local {ROUTER[s.transport]} as {s.asn};"
            f" neighbor {OURS[s.transport]} as {s.ours};"
            f" {'multihop 4;' if s.multihop else 'direct;'} hold time {s.hold}; {'ttl security on;' if s.gtsm else ''}"
            f" {'' if s.active else 'passive on;'} connect delay time 1; error wait time 1, 2; error forget time 1;"
            f" {f'password {chr(34)}{s.password}{chr(34)};' if s.password else ''}"
            f" {bfd} {'enable extended messages;' if s.extended else ''}"
            f" graceful restart {'on' if s.graceful_restart else 'aware'};"
            " ipv4 { import all; export none; extended next hop on; }; ipv6 { import all; export none; }; }"
        )
        (self.folder / "bird.conf").write_text(s.config or "\n".join(lines) + "\n")
        self.lab.popen(
            self.lab.router, "bird", "-f", "-c", f"{self.folder}/bird.conf", "-s", f"{self.folder}/ctl", log="bird.out"
        )
        until("bird answers", lambda: "BIRD" in self.ask("show status"))

    def ask(self, question: str) -> str:
        return self.lab.in_router("birdc", "-s", f"{self.folder}/ctl", question)

    def routes(self) -> dict[str, Learnt]:
        out: dict[str, Learnt] = {}
        communities: list[str] = []
        prefix, hop, path, preference = "", "", (), None
        for line in [*self.ask(f"show route protocol {self.protocol} all").splitlines(), "0.0.0.0/0 end"]:
            word = line.split()[0] if line.split() else ""
            if "/" in word and line[0] not in " \t":
                if prefix:
                    out[prefix] = Learnt(hop, tuple(sorted(communities)), path, preference)
                prefix, hop, communities, path, preference = word, "", [], (), None
            elif "BGP.as_path:" in line:
                path = tuple(map(int, line.split(":", 1)[1].split()))
            elif "BGP.local_pref:" in line:
                preference = int(line.split(":", 1)[1])
            elif "BGP.next_hop:" in line:
                hop = line.split(":", 1)[1].split()[0]
            elif "BGP.community:" in line:
                communities += [c.strip("()").replace(",", ":") for c in line.split(":", 1)[1].split()]
            elif "BGP.large_community:" in line:
                text = line.split(":", 1)[1].replace(", ", ":")
                communities += [c.strip("()") for c in text.split()]
        return out


class Frr(Router):
    name = "frr"

    def start(self) -> None:
        s = self.session
        us = OURS[s.transport]
        lines = [
            f"router bgp {s.asn}",
            " bgp router-id 192.0.2.2",
            " no bgp ebgp-requires-policy",
            " no bgp default ipv4-unicast",
            f" neighbor {us} remote-as {s.ours}",
            f" neighbor {us} timers {max(1, s.hold // 3)} {s.hold}",
            f" neighbor {us} timers connect 1",
            f" neighbor {us} capability extended-nexthop",
        ]
        if not s.active:
            lines.append(f" neighbor {us} passive")
        if s.gtsm:
            lines.append(f" neighbor {us} ttl-security hops 1")
        if s.multihop:
            lines.append(f" neighbor {us} ebgp-multihop 4")
        if s.password:
            lines.append(f" neighbor {us} password {s.password}")
        if s.bfd_ms:
            lines += [f" neighbor {us} bfd", f" neighbor {us} bfd profile fast"]
        if s.graceful_restart:
            lines.insert(2, " bgp graceful-restart")
        for family in ("ipv4", "ipv6"):
            lines += [f" address-family {family} unicast", f"  neighbor {us} activate", " exit-address-family"]
        if s.bfd_ms:
            lines += [
                "bfd",
                " profile fast",
                f"  detect-multiplier {s.bfd_multiplier}",
                f"  receive-interval {s.bfd_ms}",
                f"  transmit-interval {s.bfd_ms}",
            ]
        if s.echo_ms:
            lines += ["  echo-mode", f"  echo transmit-interval {s.echo_ms}", f"  echo receive-interval {s.echo_ms}"]
        (self.folder / "frr.conf").write_text(s.config or "\n".join(lines) + "\n")
        sh("chown", "-R", "frr:frr", str(self.folder))
        zserv, vty = f"{self.folder}/zserv", str(self.folder)
        daemons: list[tuple[str, list[str]]] = [("zebra", [])]
        if s.bfd_ms:
            daemons.append(("bfdd", ["--bfdctl", f"{self.folder}/bfdd.sock"]))
        daemons.append(("bgpd", []))
        for daemon, extra in daemons:
            self.lab.popen(
                self.lab.router,
                f"/usr/lib/frr/{daemon}",
                "-f",
                f"{self.folder}/frr.conf",
                "-i",
                f"{self.folder}/{daemon}.pid",
                "-z",
                zserv,
                "--vty_socket",
                vty,
                "-A",
                "127.0.0.1",
                "--log",
                f"file:{self.folder}/{daemon}.log",
                *extra,
                log=f"{daemon}.out",
            )
            until(f"{daemon} is up", lambda d=daemon: (self.folder / f"{d}.vty").exists())  # type: ignore[misc]

    def ask(self, question: str) -> Any:
        told = self.lab.in_router("vtysh", "--vty_socket", str(self.folder), "-c", question)
        try:
            return json.loads(told)
        except json.JSONDecodeError:
            return {}

    def routes(self) -> dict[str, Learnt]:
        out = {}
        for family in ("ipv4", "ipv6"):
            table = self.ask(f"show bgp {family} unicast json").get("routes", {})
            for prefix in table:
                for path in self.ask(f"show bgp {family} unicast {prefix} json").get("paths", ()):
                    hops = [h["ip"] for h in path["nexthops"] if h.get("scope", "global") == "global"]
                    communities = path.get("community", {}).get("list", []) + path.get("largeCommunity", {}).get(
                        "list", []
                    )
                    as_path = tuple(map(int, path["aspath"]["string"].replace("Local", "").split()))
                    out[prefix] = Learnt(hops[0], tuple(sorted(communities)), as_path, path.get("locPrf"))
        return out

    def heard(self) -> str:
        return json.dumps(self.ask("show bgp neighbors json"))


class GoBgp(Router):
    name = "gobgp"

    def start(self) -> None:
        s = self.session
        lines = [
            "[global.config]",
            f"as = {s.asn}",
            'router-id = "192.0.2.2"',
            "[[neighbors]]",
            "[neighbors.config]",
            f'neighbor-address = "{OURS[s.transport]}"',
            f"peer-as = {s.ours}",
        ]
        if s.password:
            lines.append(f'auth-password = "{s.password}"')
        lines += ["[neighbors.timers.config]", f"hold-time = {s.hold}", "connect-retry = 1"]
        lines += ["[neighbors.transport.config]", f"passive-mode = {'false' if s.active else 'true'}"]
        if s.multihop:
            lines += ["[neighbors.ebgp-multihop.config]", "enabled = true", "multihop-ttl = 4"]
        if s.graceful_restart:
            lines += ["[neighbors.graceful-restart.config]", "enabled = true", "restart-time = 20"]
        for family in ("ipv4-unicast", "ipv6-unicast"):
            lines += ["[[neighbors.afi-safis]]", "[neighbors.afi-safis.config]", f'afi-safi-name = "{family}"']
            if s.graceful_restart:
                lines += ["[neighbors.afi-safis.mp-graceful-restart.config]", "enabled = true"]
        (self.folder / "gobgpd.conf").write_text(s.config or "\n".join(lines) + "\n")
        self.lab.popen(self.lab.router, "gobgpd", "-f", f"{self.folder}/gobgpd.conf", "-p", log="gobgpd.log")
        until("gobgpd answers", lambda: self.lab.in_router("gobgp", "global"))

    def routes(self) -> dict[str, Learnt]:
        out = {}
        for family in ("ipv4", "ipv6"):
            told = self.lab.in_router("gobgp", "global", "rib", "-a", family, "-j").strip()
            if not told.startswith("{"):
                continue
            for prefix, paths in json.loads(told).items():
                hop, communities, as_path, preference = "", [], (), None
                for attribute in paths[0]["attrs"]:
                    if attribute["type"] in (3, 14):
                        hop = attribute["nexthop"]
                    elif attribute["type"] == 2:
                        as_path = tuple(n for segment in attribute["as_paths"] for n in segment["asns"])
                    elif attribute["type"] == 5:
                        preference = attribute["value"]
                    elif attribute["type"] == 8:
                        communities += [f"{c >> 16}:{c & 0xFFFF}" for c in attribute["communities"]]
                    elif attribute["type"] == 32:
                        communities += [f"{c['ASN']}:{c['LocalData1']}:{c['LocalData2']}" for c in attribute["value"]]
                out[prefix] = Learnt(hop, tuple(sorted(communities)), as_path, preference)
        return out


class ExaBgp(Router):
    """ExaBGP keeps no table: a small helper of it writes every message, and we read the sum of them."""

    name = "exabgp"

    def start(self) -> None:
        s = self.session
        seen = self.folder / "seen.json"
        seen.write_text("")
        # Standard output stays open: ExaBGP takes a helper that closes it for dead.
        (self.folder / "write.sh").write_text(
            f'#!/bin/sh\nwhile IFS= read -r line; do printf "%s\\n" "$line" >>{seen}; done\n'
        )
        os.chmod(self.folder / "write.sh", 0o755)
        (self.folder / "exabgp.conf").write_text(
            f"process write {{ run {self.folder}/write.sh; encoder json; }}\n"
            f"neighbor {OURS[s.transport]} {{\n"
            f"  router-id 192.0.2.2; local-address {ROUTER[s.transport]}; local-as {s.asn}; peer-as {s.ours};\n"
            f"  hold-time {s.hold}; passive {'false' if s.active else 'true'};\n"
            + (f"  md5-password '{s.password}';\n" if s.password else "")
            + ("  listen 179;\n" if not s.active else "")
            + "  capability { route-refresh; asn4; }\n"
            "  family { ipv4 unicast; ipv6 unicast; }\n"
            "  api { processes [ write ]; receive { parsed; update; } neighbor-changes; }\n}\n"
        )
        environment = dict(os.environ)
        environment.update(
            {
                "exabgp.daemon.user": "root",
                "exabgp.tcp.bind": ROUTER[s.transport],
                "exabgp.tcp.port": "179",
                "exabgp.log.destination": str(self.folder / "exabgp.log"),
                "exabgp.api.cli": "false",
            }
        )
        self.lab.popen(self.lab.router, "exabgp", f"{self.folder}/exabgp.conf", log="exabgp.out", env=environment)
        until("exabgp listens", lambda: ":179" in self.lab.in_router("ss", "-ltn"))

    def routes(self) -> dict[str, Learnt]:
        out: dict[str, Learnt] = {}
        for line in (self.folder / "seen.json").read_text().splitlines():
            message = json.loads(line)
            if message.get("type") == "state" and message["neighbor"]["state"] == "down":
                out.clear()
            update = message.get("neighbor", {}).get("message", {}).get("update", {})
            attributes = update.get("attribute", {})
            communities = [":".join(map(str, c)) for c in attributes.get("community", [])]
            communities += [":".join(map(str, c)) for c in attributes.get("large-community", [])]
            for hops in update.get("announce", {}).values():
                for hop, prefixes in hops.items() if isinstance(hops, dict) else ():
                    for prefix in prefixes:
                        path = tuple(attributes.get("as-path", ()))
                        preference = attributes.get("local-preference")
                        out[prefix["nlri"]] = Learnt(hop, tuple(sorted(communities)), path, preference)
            for prefixes in update.get("withdraw", {}).values():
                for prefix in prefixes:
                    out.pop(prefix["nlri"], None)
        return out


ROUTERS: dict[str, type[Router]] = {r.name: r for r in (Frr, Bird, GoBgp, ExaBgp)}
