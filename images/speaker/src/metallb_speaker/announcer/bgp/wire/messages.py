"""OPEN, NOTIFICATION and ROUTE-REFRESH (RFC 4271 sections 4.2 and 4.5, RFC 2918, RFC 7313, RFC 9072)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

from . import capabilities as caps
from .capabilities import Capabilities, Family
from .errors import (
    ADMIN_RESET,
    ADMIN_SHUTDOWN,
    BAD_IDENTIFIER,
    BAD_PEER_AS,
    INVALID_REFRESH_LENGTH,
    UNACCEPTABLE_HOLD_TIME,
    UNSUPPORTED_PARAMETER,
    UNSUPPORTED_VERSION,
    Code,
    NotificationError,
    describe,
)
from .framing import MessageType, frame

AS_TRANS = 23456  # RFC 6793 section 9: stands for an AS number that does not fit two octets
_OPEN = struct.Struct("!BHHIB")
_CAPABILITIES_PARAMETER = 2
_EXTENDED_PARAMETERS = 255  # RFC 9072 section 2
_SHUTDOWN_TEXT_MAX = 255  # octets of UTF-8 (RFC 9003 section 2)


@dataclass(frozen=True, slots=True)
class Open:
    """`asn` is the real one: from the 4-octet capability when there is one."""

    asn: int
    hold_time: int  # seconds
    identifier: ipaddress.IPv4Address
    capabilities: Capabilities = field(default_factory=Capabilities)

    def encode(self) -> bytes:
        short = self.asn if self.asn < 1 << 16 else AS_TRANS
        value = caps.encode(self.capabilities)
        parameters = bytes((_CAPABILITIES_PARAMETER, len(value))) + value if value else b""
        return frame(
            MessageType.OPEN,
            _OPEN.pack(4, short, self.hold_time, int(self.identifier), len(parameters)) + parameters,
        )

    @classmethod
    def decode(cls, body: bytes) -> Open:
        """Raises NotificationError (RFC 4271 section 6.2)."""
        if len(body) < _OPEN.size:
            raise NotificationError(Code.OPEN, 0)
        version, short, hold_time, identifier, length = _OPEN.unpack_from(body)
        if version != 4:
            raise NotificationError(Code.OPEN, UNSUPPORTED_VERSION, (4).to_bytes(2))
        capabilities = caps.assemble(_parameters(body, length))
        asn = capabilities.four_octet_as or short
        if asn == 0:  # RFC 7607
            raise NotificationError(Code.OPEN, BAD_PEER_AS)
        if hold_time in (1, 2):
            raise NotificationError(Code.OPEN, UNACCEPTABLE_HOLD_TIME)
        if identifier == 0:  # RFC 6286: any non-zero value
            raise NotificationError(Code.OPEN, BAD_IDENTIFIER)
        return cls(asn, hold_time, ipaddress.IPv4Address(identifier), capabilities)


def _parameters(body: bytes, length: int) -> list[tuple[int, bytes]]:
    position, wide = _OPEN.size, False
    # It is the type that tells; the one-octet length before it is ignored (RFC 9072 section 2).
    if length and len(body) > position and body[position] == _EXTENDED_PARAMETERS:
        if len(body) < position + 3:
            raise NotificationError(Code.OPEN, 0)
        length, position, wide = int.from_bytes(body[position + 1 : position + 3]), position + 3, True
    if position + length != len(body):
        raise NotificationError(Code.OPEN, 0)
    head = 3 if wide else 2
    out: list[tuple[int, bytes]] = []
    while position < len(body):
        if position + head > len(body):
            raise NotificationError(Code.OPEN, 0)
        kind = body[position]
        size = int.from_bytes(body[position + 1 : position + head])
        position += head
        if position + size > len(body):
            raise NotificationError(Code.OPEN, 0)
        if kind != _CAPABILITIES_PARAMETER:
            raise NotificationError(Code.OPEN, UNSUPPORTED_PARAMETER)
        out += caps.decode_tlvs(body[position : position + size])
        position += size
    return out


@dataclass(frozen=True, slots=True)
class Notification:
    """Why a side ends the session. `data` depends on the code."""

    code: int
    subcode: int = 0
    data: bytes = b""

    @classmethod
    def shutdown(cls, text: str, *, reset: bool = False) -> Notification:
        """CEASE with a message for the operator (RFC 9003); cut at 255 octets, never inside a character."""
        raw = text.encode()[:_SHUTDOWN_TEXT_MAX].decode(errors="ignore").encode()
        return cls(Code.CEASE, ADMIN_RESET if reset else ADMIN_SHUTDOWN, bytes((len(raw),)) + raw)

    def encode(self) -> bytes:
        return frame(MessageType.NOTIFICATION, bytes((self.code, self.subcode)) + self.data)

    @classmethod
    def decode(cls, body: bytes) -> Notification:
        """Raises NotificationError when there is no code to read (it is then only logged)."""
        if len(body) < 2:
            raise NotificationError(Code.MESSAGE_HEADER, 2, (19 + len(body)).to_bytes(2))
        return cls(body[0], body[1], body[2:])

    @property
    def text(self) -> str:
        """The operator's message in an administrative shutdown or reset; "" when there is none."""
        if self.code != Code.CEASE or self.subcode not in (ADMIN_SHUTDOWN, ADMIN_RESET) or not self.data:
            return ""
        return self.data[1 : 1 + self.data[0]].decode(errors="replace")

    def __str__(self) -> str:
        words = describe(self.code, self.subcode)
        return f"{words}: {self.text}" if self.text else words


# Message subtypes of ROUTE-REFRESH (RFC 7313 section 3.2).
REFRESH_REQUEST, REFRESH_BEGIN, REFRESH_END = 0, 1, 2


@dataclass(frozen=True, slots=True)
class RouteRefresh:
    """RFC 2918 section 3, RFC 7313 section 3.2. `family` is None for one that is not announced here."""

    family: Family | None
    subtype: int = REFRESH_REQUEST

    def encode(self) -> bytes:
        if self.family is None:
            raise ValueError("a family that is not announced cannot be asked for")
        return frame(MessageType.ROUTE_REFRESH, struct.pack("!HBB", caps.AFI[self.family], self.subtype, caps.UNICAST))

    @classmethod
    def decode(cls, body: bytes) -> RouteRefresh:
        """Raises NotificationError on a wrong length, with the whole message (RFC 7313 section 5)."""
        if len(body) != 4:
            whole = frame(MessageType.ROUTE_REFRESH, body)
            raise NotificationError(Code.ROUTE_REFRESH, INVALID_REFRESH_LENGTH, whole)
        afi, subtype, safi = struct.unpack("!HBB", body)
        return cls(caps.FAMILY.get(afi) if safi == caps.UNICAST else None, subtype)
