"""Our answers beside the kernel's own, on one switch, with the same client in the same run.

Closed loop: one question at a time, kernel and ours in turn. Floods: as fast as one process can ask,
for the kernel's address, for ours, and for addresses that nobody has: by ARP, to a solicited-node group of its own, and
to the one that ours is in. Replies of a flood are counted by a
socket's own statistics, so counting costs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import select
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from metallb_speaker.announcer.edge.packet import SOL_PACKET, attach
from metallb_speaker.announcer.layer2 import arp, bpf, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from tests.integration.layer2_lab import Endpoint, Responder, Segment, cpu_of

PACKET_STATISTICS = 6
#: How often the client looks for an answer before it sleeps: about 50 microseconds.
LOOKS = 80
OURS4, OURS6 = "10.9.0.100", "fd09::100"


def question(client: Endpoint, mac: bytes, target: str) -> bytes:
    """What a host with an empty cache asks."""
    if ":" not in target:
        return arp.request(mac, socket.inet_aton(client.ip4), socket.inet_aton(target))
    ip, group = socket.inet_pton(socket.AF_INET6, target), ndp.solicited_node(socket.inet_pton(socket.AF_INET6, target))
    source = socket.inet_pton(socket.AF_INET6, client.ip6)
    return ndp.Neighbor(ndp.multicast_mac(group), mac, source, group, ndp.SOLICITATION, ip, link_layer=mac).encode()


def listener(client: Endpoint, target: str, *, count_only: bool) -> socket.socket:
    """Receives answers for `target` alone."""
    v4 = ":" not in target
    sock = client.packet_socket(ether_type=0)
    packed = socket.inet_pton(socket.AF_INET if v4 else socket.AF_INET6, target)
    keep = 0 if count_only else 128
    program: bpf.Block = [(bpf.LD_H, 0, 0, 20), *bpf.require(bpf.JEQ, 2, [])] if v4 else [
        (bpf.LD_B, 0, 0, 54), *bpf.require(bpf.JEQ, 136, []),
    ]  # fmt: skip
    at = 28 if v4 else 62 + 12
    program += [(bpf.LD_W, 0, 0, at), *bpf.require(bpf.JEQ, int.from_bytes(packed[-4:], "big"), [])]
    attach(sock, [*program, (bpf.RET, 0, 0, keep or 64)])
    sock.bind(("eth0", eth.ETH_P_ARP if v4 else eth.ETH_P_IPV6))
    return sock


def closed_loop(client: Endpoint, targets: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Microseconds from question to answer, the targets asked in turn; a lost one counts as 1 s.

    The client looks for a while before it sleeps: the kernel answers within the asker's own system call, so that
    a client that slept at once would count its own waking up against us alone.
    """
    mac = client.mac
    sender = client.packet_socket(ether_type=0)
    asks = [(t, question(client, mac, t), listener(client, t, count_only=False)) for t in targets]
    out: dict[str, list[float]] = {target: [] for target in targets}
    waiting = {}
    for target, _, sock in asks:
        sock.setblocking(False)
        waiting[target] = select.poll()
        waiting[target].register(sock, select.POLLIN)
    clock = time.perf_counter_ns
    for number in range(rounds + 200):
        for target, frame, sock in asks:
            recv, begin = sock.recv, clock()
            sender.send(frame)
            for _ in range(LOOKS):
                try:
                    recv(128)
                    break
                except BlockingIOError:
                    continue
            else:
                if waiting[target].poll(1000):
                    recv(128)
            took = (clock() - begin) / 1000
            if number >= 200:  # the first ones warm caches
                out[target].append(took)
    for _, _, sock in asks:
        sock.close()
    sender.close()
    return out


def flood(client: Endpoint, target: str, seconds: float) -> tuple[int, int]:
    """(questions, answers) of `seconds` of asking as fast as one process can."""
    frame = question(client, client.mac, target)
    sender = client.packet_socket(ether_type=0)
    counter = listener(client, target, count_only=True)
    counter.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # reading resets
    sent, send, clock = 0, sender.send, time.perf_counter
    end = clock() + seconds
    while clock() < end:
        for _ in range(100):
            send(frame)
        sent += 100
    time.sleep(0.05)
    answers, _ = struct.unpack("II", counter.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    sender.close()
    counter.close()
    return sent, answers


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@dataclass(frozen=True)
class Subject:
    """What is measured: addresses by family that the node's kernel has, and that we answer for."""

    client: Endpoint
    kernel: Mapping[str, str]
    ours: Mapping[str, str]
    foreign: Mapping[str, str]  # addresses that nobody has, by what their questions are
    cpu: Callable[[], float]  # of our process, seconds


def measure(subject: Subject, rounds: int, seconds: float) -> dict[str, float]:
    """All figures by name."""
    out: dict[str, float] = {}
    client = subject.client
    for family, ours in subject.ours.items():
        kernel = subject.kernel[family]
        times = closed_loop(client, (kernel, ours), rounds)
        for who, target in (("kernel", kernel), ("ours", ours)):
            out[f"{family} {who} p50 us"] = statistics.median(times[target])
            out[f"{family} {who} p99 us"] = percentile(times[target], 0.99)
        for point in ("p50", "p99"):
            mine, its = out[f"{family} ours {point} us"], out[f"{family} kernel {point} us"]
            out[f"{family} {point} ratio"], out[f"{family} {point} added us"] = mine / its, mine - its
    for family, ours in subject.ours.items():
        sent, answers = flood(client, subject.kernel[family], seconds)
        out[f"{family} flood kernel asked/s"] = sent / seconds
        out[f"{family} flood kernel answered/s"] = rate = answers / seconds
        cpu = subject.cpu()
        sent, answers = flood(client, ours, seconds)
        used = subject.cpu() - cpu
        out[f"{family} flood ours asked/s"] = sent / seconds
        out[f"{family} flood ours answered/s"] = answers / seconds
        out[f"{family} flood ratio"] = answers / seconds / max(1, rate)
        out[f"{family} flood ms CPU per 1000 answers"] = 1e6 * used / max(1, answers)
    for kind, target in subject.foreign.items():
        cpu = subject.cpu()
        sent, _ = flood(client, target, seconds)
        out[f"foreign {kind} flood asked/s"] = sent / seconds
        out[f"foreign {kind} flood CPU s"] = subject.cpu() - cpu
    cpu = subject.cpu()
    time.sleep(seconds)
    out["idle CPU s"] = subject.cpu() - cpu
    return out


#: Figure -> (what it must not exceed, or must reach): the targets for layer 2, for a run in the embedded cluster.
TARGETS = {
    "p50 ratio": (1.7, "at most"),
    "p99 ratio": (4.0, "at most"),
    "p50 added us": (25.0, "at most"),
    "p99 added us": (120.0, "at most"),
    "flood ratio": (0.5, "at least"),
}


def verdicts(figures: Mapping[str, float]) -> list[tuple[str, float, str, bool]]:
    """(figure, value, target as text, met) for every figure that has a target."""
    out = []
    for name, value in figures.items():
        for ending, (bound, sense) in TARGETS.items():
            if name.endswith(" " + ending):
                out.append(
                    (name, value, f"{sense} {bound:g}", value <= bound if sense == "at most" else value >= bound)
                )
    for name, value in figures.items():
        if name.startswith("foreign") and name.endswith("CPU s"):
            extra = value - figures["idle CPU s"]
            out.append((f"{name} beyond idle", extra, "at most 0.02 (two ticks)", extra <= 0.02))
    return out


def foreign(v4: str, ours6: str) -> dict[str, str]:
    """Addresses that nobody has: `v4`, and two beside `ours6`, the second in the same solicited-node group."""
    number = int(ipaddress.IPv6Address(ours6))
    return {
        "arp": v4,
        "ndp": str(ipaddress.IPv6Address(number ^ 0x7700)),
        "ndp same group": str(ipaddress.IPv6Address(number ^ 1 << 32)),
    }


@contextlib.contextmanager
def on_a_switch(hosts: int) -> Iterator[Subject]:
    """A switch of our own with `hosts` hosts: the same, but for Kubernetes."""
    with Segment("l2bench") as segment:
        node, client = segment.host("node"), segment.host("client")
        for number in range(hosts - 2):
            segment.host(f"other{number}")  # each is flooded with every broadcast, as in a cluster
        with Responder(node, OURS4, OURS6) as responder:
            time.sleep(3.5)  # the duplicate check is over
            yield Subject(
                client, {"arp": node.ip4, "ndp": node.ip6}, {"arp": OURS4, "ndp": OURS6},
                foreign("10.9.0.77", OURS6), responder.cpu,
            )  # fmt: skip


def in_a_cluster(name: str, addresses: Sequence[str]) -> Subject:
    """The embedded cluster `name`, where the speaker announces `addresses` (one node, one per family)."""
    from tests.cluster import Cluster  # the switch above needs no cluster

    cluster = Cluster.attach(name)
    [owner] = cluster.owners(addresses[0])
    hosts = {host.name: host for host in cluster.plan.hosts}
    node, client = hosts[owner], hosts["client"]
    [pod] = [
        pod["metadata"]["name"]
        for pod in cluster.pods(selector="app.kubernetes.io/component=speaker")
        if pod["spec"].get("nodeName") == owner
    ]
    pid = cluster.container_pid(owner, pod, "speaker")
    kernel = {"arp": node.v4, "ndp": node.v6}
    ours = {"ndp" if ":" in address else "arp": address for address in addresses}
    return Subject(
        Endpoint(cluster.instance.netns("client"), client.v4, client.v6), kernel, ours,
        foreign("172.18.99.99", ours["ndp"]) if "ndp" in ours else {"arp": "172.18.99.99"}, lambda: cpu_of(pid),
    )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="arp")
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--hosts", type=int, default=5, help="on the switch, node and client included")
    parser.add_argument("--cluster", help="measure in this embedded cluster instead; needs --address")
    parser.add_argument("--address", action="append", default=[], help="announced there; at most one per family")
    parser.add_argument("--json", action="store_true")
    o = parser.parse_args(argv)
    if o.cluster:
        figures = measure(in_a_cluster(o.cluster, o.address), o.rounds, o.seconds)
    else:
        with on_a_switch(o.hosts) as subject:
            figures = measure(subject, o.rounds, o.seconds)
    if o.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        print(f"{name:36} {value:12.2f}")
    judged = verdicts(figures) if o.cluster else []
    for name, value, target, met in judged:
        print(f"{'met    ' if met else 'NOT MET'} {name}: {value:.2f}, {target}")
    return 0 if all(met for *_, met in judged) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
