"""Our answers beside the kernel's own, on one switch, with the same client in the same run.

Closed loop: one question at a time, kernel and ours in turn. Floods: as fast as one process can ask,
for the kernel's address, for ours, and for addresses that nobody has. Replies of a flood are counted by a
socket's own statistics, so counting costs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import struct
import sys
import time
from collections.abc import Sequence

from metallb_speaker.announcer.edge.packet import SOL_PACKET, attach
from metallb_speaker.announcer.layer2 import arp, bpf, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from tests.integration.layer2_lab import Host, Responder, Segment

PACKET_STATISTICS = 6
OURS4, OURS6 = "10.9.0.100", "fd09::100"


def question(client: Host, mac: bytes, target: str) -> bytes:
    """What a host with an empty cache asks."""
    if ":" not in target:
        return arp.request(mac, socket.inet_aton(client.ip4), socket.inet_aton(target))
    ip, group = socket.inet_pton(socket.AF_INET6, target), ndp.solicited_node(socket.inet_pton(socket.AF_INET6, target))
    source = socket.inet_pton(socket.AF_INET6, client.ip6)
    return ndp.Neighbor(ndp.multicast_mac(group), mac, source, group, ndp.SOLICITATION, ip, link_layer=mac).encode()


def listener(client: Host, target: str, *, count_only: bool) -> socket.socket:
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


def closed_loop(client: Host, targets: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Microseconds from question to answer, the targets asked in turn; a lost one counts as 1 s."""
    mac = client.mac
    sender = client.packet_socket(ether_type=0)
    asks = [(t, question(client, mac, t), listener(client, t, count_only=False)) for t in targets]
    out: dict[str, list[float]] = {target: [] for target in targets}
    for number in range(rounds + 200):
        for target, frame, sock in asks:
            begin = time.perf_counter_ns()
            sender.send(frame)
            with contextlib.suppress(TimeoutError):
                sock.recv(128)
            took = (time.perf_counter_ns() - begin) / 1000
            if number >= 200:  # the first ones warm caches
                out[target].append(took)
    for _, _, sock in asks:
        sock.close()
    sender.close()
    return out


def flood(client: Host, target: str, seconds: float) -> tuple[int, int]:
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


def measure(rounds: int, seconds: float, hosts: int) -> dict[str, float]:
    """All figures by name."""
    out: dict[str, float] = {}
    with Segment("l2bench") as segment:
        node, client = segment.host("node"), segment.host("client")
        for number in range(hosts - 2):
            segment.host(f"other{number}")  # each is flooded with every broadcast, as in a cluster
        with Responder(node, OURS4, OURS6) as responder:
            time.sleep(3.5)  # the duplicate check is over
            for family, kernel, ours in (("arp", node.ip4, OURS4), ("ndp", node.ip6, OURS6)):
                times = closed_loop(client, (kernel, ours), rounds)
                for who, target in (("kernel", kernel), ("ours", ours)):
                    out[f"{family} {who} p50 us"] = statistics.median(times[target])
                    out[f"{family} {who} p99 us"] = percentile(times[target], 0.99)
                out[f"{family} p50 ratio"] = out[f"{family} ours p50 us"] / out[f"{family} kernel p50 us"]
                out[f"{family} p99 ratio"] = out[f"{family} ours p99 us"] / out[f"{family} kernel p99 us"]
            for family, kernel, ours in (("arp", node.ip4, OURS4), ("ndp", node.ip6, OURS6)):
                sent, answers = flood(client, kernel, seconds)
                out[f"{family} flood kernel asked/s"] = sent / seconds
                out[f"{family} flood kernel answered/s"] = kernel_rate = answers / seconds
                cpu = responder.cpu()
                sent, answers = flood(client, ours, seconds)
                used = responder.cpu() - cpu
                out[f"{family} flood ours asked/s"] = sent / seconds
                out[f"{family} flood ours answered/s"] = answers / seconds
                out[f"{family} flood ratio"] = answers / seconds / max(1, kernel_rate)
                out[f"{family} flood ms CPU per 1000 answers"] = 1e6 * used / max(1, answers)
            cpu = responder.cpu()
            sent, _ = flood(client, "10.9.0.77", seconds)
            out["foreign flood asked/s"] = sent / seconds
            out["foreign flood CPU s"] = responder.cpu() - cpu
            cpu = responder.cpu()
            time.sleep(seconds)
            out["idle CPU s"] = responder.cpu() - cpu
    return out


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="arp")
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--hosts", type=int, default=5, help="on the switch, node and client included")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    figures = measure(arguments.rounds, arguments.seconds, arguments.hosts)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:36} {value:12.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
