"""NOTIFICATION codes, and the one error that decoders raise (RFC 4271 section 4.5 and 6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Code(IntEnum):
    """Error codes: RFC 4271 section 4.5, RFC 7313 (route refresh), RFC 9687 (send hold timer)."""

    MESSAGE_HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER_EXPIRED = 4
    FSM = 5
    CEASE = 6
    ROUTE_REFRESH = 7
    SEND_HOLD_TIMER_EXPIRED = 8


# Subcodes of MESSAGE_HEADER (RFC 4271 section 6.1).
NOT_SYNCHRONIZED, BAD_LENGTH, BAD_TYPE = 1, 2, 3
# Subcodes of OPEN (RFC 4271 section 6.2, RFC 5492 section 5, RFC 9234 has 11).
UNSUPPORTED_VERSION, BAD_PEER_AS, BAD_IDENTIFIER, UNSUPPORTED_PARAMETER = 1, 2, 3, 4
UNACCEPTABLE_HOLD_TIME, UNSUPPORTED_CAPABILITY = 6, 7
# Subcodes of UPDATE (RFC 4271 section 6.3).
MALFORMED_ATTRIBUTES, UNRECOGNIZED_WELLKNOWN, MISSING_WELLKNOWN, FLAGS_ERROR, LENGTH_ERROR = 1, 2, 3, 4, 5
INVALID_ORIGIN, INVALID_NEXT_HOP, OPTIONAL_ATTRIBUTE_ERROR, INVALID_NETWORK, MALFORMED_AS_PATH = 6, 8, 9, 10, 11
# Subcodes of FSM (RFC 6608): an unexpected message in this state.
FSM_OPEN_SENT, FSM_OPEN_CONFIRM, FSM_ESTABLISHED = 1, 2, 3
# Subcodes of CEASE (RFC 4486, RFC 8538 section 3, RFC 9384 for BFD down).
MAX_PREFIXES, ADMIN_SHUTDOWN, PEER_DECONFIGURED, ADMIN_RESET = 1, 2, 3, 4
CONNECTION_REJECTED, CONFIGURATION_CHANGE, COLLISION, OUT_OF_RESOURCES, HARD_RESET, BFD_DOWN = 5, 6, 7, 8, 9, 10
# Subcode of ROUTE_REFRESH (RFC 7313 section 5).
INVALID_REFRESH_LENGTH = 1

_NAMES: dict[tuple[int, int], str] = {
    (1, 1): "connection not synchronized",
    (1, 2): "bad message length",
    (1, 3): "bad message type",
    (2, 1): "unsupported version number",
    (2, 2): "bad peer AS",
    (2, 3): "bad BGP identifier",
    (2, 4): "unsupported optional parameter",
    (2, 6): "unacceptable hold time",
    (2, 7): "unsupported capability",
    (3, 1): "malformed attribute list",
    (3, 2): "unrecognized well-known attribute",
    (3, 3): "missing well-known attribute",
    (3, 4): "attribute flags error",
    (3, 5): "attribute length error",
    (3, 6): "invalid origin attribute",
    (3, 8): "invalid next-hop attribute",
    (3, 9): "optional attribute error",
    (3, 10): "invalid network field",
    (3, 11): "malformed AS_PATH",
    (5, 1): "unexpected message in OpenSent",
    (5, 2): "unexpected message in OpenConfirm",
    (5, 3): "unexpected message in Established",
    (6, 1): "maximum number of prefixes reached",
    (6, 2): "administrative shutdown",
    (6, 3): "peer de-configured",
    (6, 4): "administrative reset",
    (6, 5): "connection rejected",
    (6, 6): "other configuration change",
    (6, 7): "connection collision resolution",
    (6, 8): "out of resources",
    (6, 9): "hard reset",
    (6, 10): "BFD down",
    (7, 1): "invalid route refresh message length",
}


def describe(code: int, subcode: int) -> str:
    """The words for a code and subcode, as logged and shown in /status."""
    try:
        kind = Code(code).name.lower().replace("_", " ")
    except ValueError:
        kind = f"code {code}"
    detail = _NAMES.get((code, subcode), f"subcode {subcode}" if subcode else "")
    return f"{kind}: {detail}" if detail else kind


@dataclass(frozen=True)
class NotificationError(Exception):
    """What is wrong with received bytes, as the NOTIFICATION that answers them."""

    code: int
    subcode: int = 0
    data: bytes = b""
    detail: str = ""  # for people: what exactly

    def __str__(self) -> str:
        words = describe(self.code, self.subcode)
        return f"{words}: {self.detail}" if self.detail else words
