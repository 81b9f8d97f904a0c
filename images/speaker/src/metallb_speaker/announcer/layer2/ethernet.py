"""Ethernet II framing, MAC addresses as 6 bytes and as text, and the names of all drop reasons."""

from __future__ import annotations

from typing import Final

ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD
#: Tags that some drivers leave in the frame: 802.1Q, 802.1ad, and the old QinQ value.
TAG_TYPES: Final = frozenset((b"\x81\x00", b"\x88\xa8", b"\x91\x00"))

BROADCAST: Final = b"\xff" * 6
ZERO_MAC: Final = bytes(6)
HEADER: Final = 14  # octets: destination, source, type

# Every reason for which a frame is not answered; the same name in metrics, status and tests.
TRUNCATED: Final = "truncated"  # shorter than its own headers say
TAGGED: Final = "tagged"  # an 802.1Q tag: another network than the interface's own
WRONG_TYPE: Final = "wrongType"  # neither ARP nor IPv6
NOT_ETHERNET_IPV4: Final = "notEthernetIPv4"  # ARP of another hardware or protocol type or length
NOT_A_REQUEST: Final = "notARequest"  # a well-formed frame that asks nothing
NOT_OWNED: Final = "notOwned"  # an address that this node does not own now
NOT_FOR_US: Final = "notForUs"  # unicast to another MAC address
OWN_FRAME: Final = "ownFrame"  # sent by ourselves, looped back
BAD_SENDER: Final = "badSender"  # a sender hardware address that no single host can have
BAD_CHECKSUM: Final = "badChecksum"
BAD_HOP_LIMIT: Final = "badHopLimit"  # not 255: it came through a router (RFC 4861 section 7.1.1)
BAD_CODE: Final = "badCode"
BAD_LENGTH: Final = "badLength"  # ICMPv6 shorter than 24 octets
BAD_OPTION: Final = "badOption"  # an option of length 0 or beyond the end
BAD_TARGET: Final = "badTarget"  # a multicast target
BAD_SOURCE: Final = "badSource"  # multicast source, or DAD with a link-layer option or a wrong destination
CHECKING: Final = "checking"  # ours, but the duplicate address check is not over or has failed
FOREIGN_CLAIM: Final = "foreignClaim"  # somebody says that an address of ours is theirs
SEND_FAILED: Final = "sendFailed"  # the kernel did not take the answer

REASONS: Final = (
    TRUNCATED,
    TAGGED,
    WRONG_TYPE,
    NOT_ETHERNET_IPV4,
    NOT_A_REQUEST,
    NOT_OWNED,
    NOT_FOR_US,
    OWN_FRAME,
    BAD_SENDER,
    BAD_CHECKSUM,
    BAD_HOP_LIMIT,
    BAD_CODE,
    BAD_LENGTH,
    BAD_OPTION,
    BAD_TARGET,
    BAD_SOURCE,
    CHECKING,
    FOREIGN_CLAIM,
    SEND_FAILED,
)


class DecodeError(ValueError):
    """Bytes that are no frame of the kind asked for. `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def mac_text(mac: bytes) -> str:
    """Lower-case text with colons."""
    return mac.hex(":")


def mac_bytes(text: str) -> bytes:
    """6 octets. Raises ValueError for anything else."""
    mac = bytes.fromhex(text.replace(":", ""))
    if len(mac) != 6:
        raise ValueError(f"not a MAC address: {text!r}")
    return mac


def is_host(mac: bytes) -> bool:
    """Whether one host can have this address: neither group (lowest bit of the first octet) nor zero."""
    return len(mac) == 6 and not mac[0] & 1 and mac != ZERO_MAC


def check_header(frame: bytes, ether_type: int) -> None:
    """Raise DecodeError unless `frame` is Ethernet II of `ether_type`, without a tag."""
    if len(frame) < HEADER:
        raise DecodeError(TRUNCATED)
    kind = frame[12:14]
    if kind in TAG_TYPES:
        raise DecodeError(TAGGED)
    if kind != ether_type.to_bytes(2, "big"):
        raise DecodeError(WRONG_TYPE)
