"""A small interpreter of classic BPF, as the kernel runs socket filters: only what the filters use.

It is written from the manual, not from the generator, and it refuses what the kernel refuses: too long
a program, a jump out of it, no return at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

Instruction = tuple[int, int, int, int]
ANCILLARY = 0xFFFFF000


def check(program: Sequence[Instruction]) -> None:
    """Raise ValueError for a program that the kernel would not load."""
    if not 1 <= len(program) <= 4096:
        raise ValueError(f"{len(program)} instructions")
    for at, (code, jt, jf, k) in enumerate(program):
        if not (0 <= jt <= 255 and 0 <= jf <= 255 and 0 <= k < 1 << 32):
            raise ValueError(f"instruction {at}: operand out of range")
        if code == 0x05 and at + 1 + k >= len(program):
            raise ValueError(f"instruction {at}: jump out of the program")
        if code in (0x15, 0x25, 0x35, 0x45) and at + 1 + max(jt, jf) >= len(program):
            raise ValueError(f"instruction {at}: branch out of the program")
    if program[-1][0] != 0x06:
        raise ValueError("does not end in a return")


def run(
    program: Sequence[Instruction], packet: bytes, *, ifindex: int = 1, pkttype: int = 0, vlan: int | None = None
) -> tuple[int, int]:
    """(octets to keep, instructions executed)."""
    ancillary = {4: pkttype, 8: ifindex, 44: vlan or 0, 48: int(vlan is not None)}
    accumulator = at = steps = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        steps += 1
        match code:
            case 0x20 | 0x28 | 0x30:
                width = {0x20: 4, 0x28: 2, 0x30: 1}[code]
                if k >= ANCILLARY:
                    accumulator = ancillary[k - ANCILLARY]
                elif k + width > len(packet):
                    return 0, steps
                else:
                    accumulator = int.from_bytes(packet[k : k + width], "big")
            case 0x05:
                at += k
            case 0x15:
                at += jt if accumulator == k else jf
            case 0x25:
                at += jt if accumulator > k else jf
            case 0x35:
                at += jt if accumulator >= k else jf
            case 0x45:
                at += jt if accumulator & k else jf
            case 0x06:
                return k, steps
            case _:
                raise ValueError(f"code {code:#x}")
