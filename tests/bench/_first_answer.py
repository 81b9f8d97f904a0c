"""Asks ARP for one address at a time until somebody answers: a program for a host's network namespace.

``_first_answer.py INTERFACE MAC IPV4``. A line on standard input names an address and begins; the answer is a line
``ANSWERED ANNOUNCED``: when the first reply to a question came, and the first announcement (0: none before the
reply), in seconds of the monotonic clock. One question every half millisecond, so that is the resolution.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time

ETH_P_ARP = 0x0806
EVERY = 0.0005
LIMIT = 10.0


def main(interface: str, mac: bytes, ipv4: bytes) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    sock.bind((interface, ETH_P_ARP))
    sock.setblocking(False)
    head = b"\xff" * 6 + mac + struct.pack("!HHHBBH", ETH_P_ARP, 1, 0x0800, 6, 4, 1) + mac + ipv4 + bytes(6)
    for line in sys.stdin:
        target = socket.inet_aton(line.strip())
        answered = announced = 0.0
        due = time.monotonic()
        end = due + LIMIT
        while not answered and due < end:
            now = time.monotonic()
            if now >= due:
                sock.send(head + target)
                due = now + EVERY
            # A wait of less than a millisecond is a poll for epoll and poll alike; select keeps microseconds.
            if not select.select([sock], [], [], max(0.0, due - time.monotonic()))[0]:
                continue
            while True:
                try:
                    frame = sock.recv(128)
                except BlockingIOError:
                    break
                if frame[28:32] != target or frame[22:28] == mac:
                    continue
                if frame[20:22] == b"\0\2" and frame[:6] == mac:
                    answered = answered or time.monotonic()
                else:
                    announced = announced or time.monotonic()
        print(answered, announced, flush=True)


main(sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), socket.inet_aton(sys.argv[3]))
