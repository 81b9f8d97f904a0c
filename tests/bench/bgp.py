"""BGP: how soon a Service's route is with a router, and N routes beside GoBGP and ExaBGP announcing the same.

First whole: Services in a real API server, our controller and speaker, BIRD, and a router's kernel (`_bgp_services`).
Then the announcer alone, beside the others in the same run. Each speaker holds its routes and dials; then the router
takes its call, and the clock runs from there to the last route. There are two routers: a sink that stamps each message
and does nothing else, so that it shows what the speaker costs; and BIRD, from "incoming connection" in its own log to
N in its table, which is what a user waits for.
Then a router throws a table at us: CPU seconds, growth of memory, session alive.
Usage: ``python -m tests.bench bgp [--services 1000,10000] [--routes 1000,10000] [--table 1000000] [--rounds 3]``;
0 leaves a part out. Needs root. Exits with 1 when a target is not met.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from tests.bench import _bgp_services
from tests.integration.bgp.lab import OUR_ASN, OURS, ROUTER, Agent, Lab, peer, until
from tests.integration.bgp.routers import Bird, Session

#: Our time over theirs, at most.
RATIOS = {"gobgp": 1.5, "exabgp": 1 / 5}
#: CPU seconds, and MiB of growth, that a table of a million routes may cost.
TABLE_CPU, TABLE_GROWTH = 0.6, 1.0


def prefixes(count: int) -> list[str]:
    return [f"{ipaddress.IPv4Address(0x0A000000 + i)}/32" for i in range(count)]


def ours(lab: Lab, count: int) -> None:
    agent = Agent(lab)
    agent.peers = [peer("ipv4", address_families=["ipv4"])]
    agent.routes = [{"prefix": p} for p in prefixes(count)]
    agent.apply()
    until("the agent took the routes", lambda: agent.tell()["status"][0]["prefixes"]["desired"] == count, 60)


def gobgp(lab: Lab, count: int) -> None:
    """It learns the routes from a BIRD of its own: its client adds them one by one, which takes minutes."""
    feeder = lab.folder / "feeder.conf"
    routes = "\n".join(f"  route {p} blackhole;" for p in prefixes(count))
    feeder.write_text(
        "router id 192.0.2.9;\nprotocol device {}\nprotocol static { ipv4;\n" + routes + "\n}\n"
        f"protocol bgp feed {{ local 127.0.0.1 as 65000; neighbor 127.0.0.1 as {OUR_ASN}; multihop; passive;\n"
        "  ipv4 { import none; export all; next hop address 192.0.2.9; }; }\n"
    )
    lab.popen(lab.ours, "bird", "-f", "-c", str(feeder), "-s", str(lab.folder / "feeder.ctl"), log="feeder.log")
    conf = lab.folder / "speaker.conf"
    neighbors = "".join(
        f'[[neighbors]]\n[neighbors.config]\nneighbor-address = "{address}"\npeer-as = {asn}\n'
        f"[neighbors.timers.config]\nconnect-retry = 1\n{more}"
        '[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = "ipv4-unicast"\n'
        for address, asn, more in (
            (ROUTER["ipv4"], 64513, ""),
            ("127.0.0.1", 65000, "[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 4\n"),
        )
    )
    conf.write_text(f'[global.config]\nas = {OUR_ASN}\nrouter-id = "192.0.2.1"\nport = -1\n{neighbors}')
    lab.popen(lab.ours, "gobgpd", "-f", str(conf), log="speaker.log")

    def held() -> str:
        told = subprocess.run(
            ["nsenter", f"--net=/run/netns/{lab.ours}", "gobgp", "global", "rib", "summary"],
            capture_output=True,
            text=True,
        )
        return told.stdout

    until("gobgpd holds the routes", lambda: f"Destination: {count}," in held(), 60)


def exabgp(lab: Lab, count: int) -> None:
    conf = lab.folder / "speaker.conf"
    routes = "\n".join(f"      route {p} next-hop self;" for p in prefixes(count))
    conf.write_text(
        f"neighbor {ROUTER['ipv4']} {{\n  router-id 192.0.2.1; local-address {OURS['ipv4']};\n"
        f"  local-as {OUR_ASN}; peer-as 64513;\n  family {{ ipv4 unicast; }}\n  static {{\n{routes}\n  }}\n}}\n"
    )
    environment = {**os.environ, "exabgp.daemon.user": "root", "exabgp.api.cli": "false"}
    lab.popen(lab.ours, "exabgp", str(conf), log="speaker.log", env=environment)
    time.sleep(3 + count / 2000)  # it parses its configuration, and has no way to say that it is done


SPEAKERS: dict[str, Callable[[Lab, int], None]] = {"ours": ours, "gobgp": gobgp, "exabgp": exabgp}


def into_sink(name: str, count: int) -> float:
    """Seconds from the router's OPEN and KEEPALIVE to the last route, at a router that does nothing with them."""
    with _lab() as lab:
        SPEAKERS[name](lab, count)
        sink = _script(lab, "_bgp_sink.py", count)
        assert sink.stdout is not None
        sink.stdout.readline()  # listening; the speaker's next attempt succeeds
        words = sink.stdout.readline().split()
        return float(words[0]) / 1000


def into_bird(name: str, count: int) -> float:
    """Seconds from the connection to the last route in BIRD's table, by BIRD's own clock and count."""
    with _lab() as lab:
        router = Bird(lab, Session())
        router.start()
        with Control(f"{lab.folder}/ctl") as control:
            control.ask("disable metallb")
            control.ask("debug metallb { states, events }")
            SPEAKERS[name](lab, count)
            control.ask("enable metallb")
            end = time.monotonic() + 60
            while f"{count} of " not in (told := control.ask("show route protocol metallb count")):
                if time.monotonic() > end:
                    raise TimeoutError(f"{name}: {count} routes are not in BIRD's table: {told}")
                time.sleep(0.001)
            done = time.time()
        log = (lab.folder / "bird.log").read_text()
        line = [one for one in log.splitlines() if "Incoming connection from" in one][-1]
        return done - datetime.fromisoformat(line[:26]).timestamp()


class Control:
    """BIRD's control socket: asking by it takes a fraction of a millisecond, a client program takes several."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile("r")
        self._read()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, question: str) -> str:
        self._socket.sendall(question.encode() + b"\n")
        return self._read()

    def _read(self) -> str:
        lines = []
        for line in self._file:
            lines.append(line)
            if line[:4].isdigit() and line[4:5] == " ":  # the last line of an answer
                break
        return "".join(lines)


def _script(lab: Lab, script: str, count: int) -> subprocess.Popen[str]:
    """A program of this folder, at the router's place."""
    process = subprocess.Popen(
        [
            "nsenter",
            f"--net=/run/netns/{lab.router}",
            sys.executable,
            str(Path(__file__).with_name(script)),
            ROUTER["ipv4"],
            str(count),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    lab.processes.append(process)
    return process


@contextlib.contextmanager
def _lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="mlbbgp-"))
    folder.chmod(0o777)
    try:
        with Lab(folder) as lab:
            yield lab
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(count: int) -> bool:
    """A router that sends `count` routes in messages of 4 to 5: our CPU, memory, and whether the session lives.

    True when that is within the targets, which are for a million.
    """
    with _lab() as lab:
        router = _script(lab, "_bgp_flood.py", count)
        assert router.stdout is not None
        router.stdout.readline()  # listening
        agent = Agent(lab)
        agent.peers = [peer("ipv4")]
        agent.apply()
        agent.wait_established()
        before_cpu, before_rss = _usage(agent.process.pid)
        messages = int(router.stdout.readline())  # all sent
        until("all read", lambda: agent.tell()["status"][0]["updates"]["received"] >= messages, 120)
        cpu, rss = _usage(agent.process.pid)
        alive = agent.state() == "Established"
    used, grown = cpu - before_cpu, (rss - before_rss) / 1024
    met = alive and used <= TABLE_CPU * max(1.0, count / 1_000_000) and grown <= TABLE_GROWTH
    print(
        f"table of {count} routes in {messages} messages: {used:.2f} CPU s, {grown:+.1f} MiB, "
        f"{'session alive' if alive else 'SESSION LOST'}  target {TABLE_CPU} CPU s, {TABLE_GROWTH} MiB: "
        f"{'met' if met else 'NOT MET'}  (MetalLB 0.12.1, another run: 0.59 CPU s, +0.6 MiB)",
        flush=True,
    )
    return met


def _usage(pid: int) -> tuple[float, int]:
    """CPU seconds and resident KiB of the process behind nsenter (which has become it)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text()
    return cpu, int(status.split("VmRSS:")[1].split()[0])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench bgp", description=__doc__.splitlines()[0])
    parser.add_argument("--services", default="1000,10000")
    parser.add_argument("--single", type=int, default=50, help="Services that are created one after the other")
    parser.add_argument("--routes", default="1000,10000")
    parser.add_argument("--table", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    met = True
    if services := [count for count in map(int, options.services.split(",")) if count]:
        met &= _bgp_services.run(services, options.single)
    for count in filter(None, map(int, options.routes.split(","))):
        met &= beside(count, options.rounds)
    if options.table:
        met &= table(options.table)
    return 0 if met else 1


def beside(count: int, rounds: int) -> bool:
    """All three speakers in turn, at both routers. True when ours is as quick as it should be into BIRD's table."""
    met = True
    for where, run in {"a sink": into_sink, "BIRD's table": into_bird}.items():
        times: dict[str, list[float]] = {name: [] for name in SPEAKERS}
        for _ in range(rounds):
            for name in SPEAKERS:
                times[name].append(run(name, count))
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"{count} routes, from the connection to all in {where}, median of {rounds}:")
        for name, value in medians.items():
            ratio = medians["ours"] / value
            text = "" if name == "ours" else f"  (ours / {name}: {ratio:.2f})"
            if run is into_bird and name in RATIOS:
                text += f"  target {RATIOS[name]:.1f}: {'met' if ratio <= RATIOS[name] else 'NOT MET'}"
                met &= ratio <= RATIOS[name]
            print(f"  {name:7} {value * 1000:8.1f} ms{text}", flush=True)
    return met
