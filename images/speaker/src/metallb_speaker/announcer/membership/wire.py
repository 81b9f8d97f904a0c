r"""Datagrams of membership, version 1: encode and decode, authenticated. Own format; integers in network order.

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------+---------------+---------------+---------------+
    |             magic "mS"        |    version    |  oldest       |
    +---------------+---------------+---------------+---------------+
    |                      boot id of the sender (64)               |
    +---------------------------------------------------------------+
    |                      counter of the sender (64)               |
    +---------------------------------------------------------------+
    |                      generation of its view (32)              |
    +---------------+-----------------------------------------------+
    |  name length  |  node name of the sender ...                  |
    +---------------+-----------------------------------------------+
    |  messages: kind (8), length of the body (16), body ...        |
    +---------------------------------------------------------------+
    |                      tag (128)                                |
    +---------------------------------------------------------------+

`oldest` is the oldest version that can read this datagram: a receiver of version N reads whatever names an
`oldest` <= N, so N understands N-1, and N-1 understands what N sends meanwhile. A kind of message that is not
known is skipped by its length, so most additions need no new version at all.

The tag is HMAC-SHA256, cut to 128 bits, over the receiver's node name (length and octets; it is not sent)
and all that precedes the tag: a datagram for one member proves nothing to another.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from metallb_speaker.announcer.membership.keys import TAG_LENGTH, Keyring
from metallb_speaker.announcer.membership.messages import (
    Ack,
    Beat,
    Claim,
    Handover,
    Hello,
    Message,
    Nack,
    Ping,
    PingReq,
    Record,
    Released,
    Status,
)

MAGIC = b"mS"
VERSION = 1
OLDEST = 1
#: The least MTU of IPv6 (RFC 8200 section 5) less its header and UDP's: never fragmented, on any path.
MAX_DATAGRAM = 1280 - 40 - 8
#: A node name is a DNS subdomain (RFC 1123, Kubernetes): at most 253 octets.
MAX_NAME = 253
#: MAC addresses per record: the interfaces of a node that announce; a bound on what one record may take. The first
#: ones are where every reader looks for them, the others behind the prefixes, where one that knows of eight does not.
MAX_MACS = 16
FIRST_MACS = 8
#: Connected prefixes per record, likewise; a node with more says nothing of them, and is never passed over.
MAX_PREFIXES = 16

_FIXED = struct.Struct("!2sBBQQI")
_HEAD = struct.Struct("!BH")
_U32 = struct.Struct("!I")
_RECORD = struct.Struct("!BBIQHB")
_HELLO = struct.Struct("!QQI")
_SETTLED, _LEAVING = 1, 2
_NAME_OCTETS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")

# Why a datagram is dropped; the same names in metrics, `/status` and tests.
NOT_OURS = "notOurs"  # another protocol: the original's speakers use the same port
WRONG_VERSION = "version"
TOO_LONG = "tooLong"
TRUNCATED = "truncated"
MALFORMED = "malformed"
NOT_AUTHENTIC = "notAuthentic"


class DecodeError(ValueError):
    """Octets that are no datagram for us. `reason` is one of the names above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Datagram:
    """One decoded, authentic datagram; whether it is fresh is for the replay window to say."""

    sender: str
    boot: int
    counter: int
    generation: int
    messages: tuple[Message, ...]


@lru_cache(maxsize=4096)
def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed if address else b""


@lru_cache(maxsize=16384)
def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed)) if packed else ""


@lru_cache(maxsize=2048)
def _short(text: str) -> bytes:
    """Length and octets of a node name."""
    raw = text.encode()
    if len(raw) > MAX_NAME:
        raise ValueError(f"a name of {len(raw)} octets")
    return bytes((len(raw),)) + raw


class _Reader:
    """Takes fields from a body; whatever is missing or wrong raises DecodeError."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data, self.position, self.end = data, position, end

    def take(self, length: int) -> bytes:
        start = self.position
        if start + length > self.end:
            raise DecodeError(TRUNCATED)
        self.position = start + length
        return self.data[start : self.position]

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def octet(self) -> int:
        return self.take(1)[0]

    def name(self, *, empty: bool = False) -> str:
        raw = self.take(self.octet())
        if not raw and not empty:
            raise DecodeError(MALFORMED)
        if len(raw) > MAX_NAME or not _NAME_OCTETS.issuperset(raw):
            raise DecodeError(MALFORMED)
        return raw.decode("ascii")

    def address(self, length: int) -> str:
        if length not in (0, 4, 16):
            raise DecodeError(MALFORMED)
        return _address(self.take(length))


def _record_body(record: Record) -> bytes:
    address = _packed(record.address)
    flags = (_SETTLED if record.settled else 0) | (_LEAVING if record.leaving else 0)
    fixed = _RECORD.pack(record.status, flags, record.incarnation, record.boot, record.port, len(address))
    macs = _macs(record.macs[:FIRST_MACS])
    said = b"" if record.prefixes is None else _prefixes(record.prefixes)
    # What follows the prefixes needs them to be there: of a node that says nothing of them the first ones must do.
    more = _macs(record.macs[FIRST_MACS:MAX_MACS]) if said and len(record.macs) > FIRST_MACS else b""
    return b"".join((_short(record.name), fixed, address, macs, _short(record.accuser), said, more))


def _macs(macs: tuple[str, ...]) -> bytes:
    """Their number, and six octets each."""
    return b"".join((bytes((len(macs),)), *(bytes.fromhex(mac.replace(":", "")) for mac in macs)))


def _read_macs(reader: _Reader, most: int) -> tuple[str, ...]:
    count = reader.octet()
    if count > most:
        raise DecodeError(MALFORMED)
    return tuple(reader.take(6).hex(":") for _ in range(count))


@lru_cache(maxsize=2048)
def _prefixes(prefixes: tuple[str, ...]) -> bytes:
    """Their number; of each the octets of an address, the bits of the prefix, and as many octets as these need.

    At the end of a record, where a reader that does not know them looks no further.
    """
    networks = [ipaddress.ip_network(prefix) for prefix in prefixes]
    if len(networks) > MAX_PREFIXES:
        raise ValueError(f"{len(networks)} prefixes")
    parts = [bytes((len(networks),))]
    for network in networks:
        packed, bits = network.network_address.packed, network.prefixlen
        parts += [bytes((len(packed), bits)), packed[: (bits + 7) // 8]]
    return b"".join(parts)


def _read_prefixes(reader: _Reader) -> tuple[str, ...] | None:
    if reader.position == reader.end:
        return None  # of a version that does not say
    count = reader.octet()
    if count > MAX_PREFIXES:
        raise DecodeError(MALFORMED)
    return tuple(_read_prefix(reader) for _ in range(count))


def _read_prefix(reader: _Reader) -> str:
    length, bits = reader.octet(), reader.octet()
    if length not in (4, 16) or bits > 8 * length:
        raise DecodeError(MALFORMED)
    return _prefix(reader.take((bits + 7) // 8).ljust(length, b"\0"), bits)


@lru_cache(maxsize=4096)
def _prefix(packed: bytes, bits: int) -> str:
    try:
        return str(ipaddress.ip_network((packed, bits)))
    except ValueError:  # bits are set behind its length
        raise DecodeError(MALFORMED) from None


def _read_record(reader: _Reader) -> Record:
    name = reader.name()
    status, flags, incarnation, boot, port, length = reader.unpack(_RECORD)
    if status > Status.LEFT:
        raise DecodeError(MALFORMED)
    address = reader.address(length)
    macs = _read_macs(reader, FIRST_MACS)
    accuser = reader.name(empty=True)
    settled, leaving = bool(flags & _SETTLED), bool(flags & _LEAVING)
    prefixes = _read_prefixes(reader)
    if reader.position < reader.end:
        macs += _read_macs(reader, MAX_MACS - FIRST_MACS)
    return Record(name, Status(status), incarnation, boot, address, port, settled, leaving, macs, accuser, prefixes)


def _keys_body(keys: Iterable[str]) -> bytes:
    return b"".join(bytes((len(packed),)) + packed for packed in map(_packed, keys))


def _read_keys(reader: _Reader) -> tuple[str, ...]:
    keys: list[str] = []
    while reader.position < reader.end:
        length = reader.octet()
        if not length:
            raise DecodeError(MALFORMED)
        keys.append(reader.address(length))
    return tuple(keys)


def _read_beat(reader: _Reader) -> Beat:
    return Beat(bool(reader.octet() & 1))


def _read_ping_req(reader: _Reader) -> PingReq:
    return PingReq(reader.unpack(_U32)[0], reader.name())


def _read_claim(reader: _Reader) -> Claim:
    return Claim(reader.unpack(_U32)[0], _read_keys(reader))


#: kind -> how to read its body. A kind keeps its number for ever; a new meaning takes a new number.
READERS: dict[int, Callable[[_Reader], Message]] = {
    1: _read_record,
    2: lambda reader: Ping(reader.unpack(_U32)[0]),
    3: lambda reader: Ack(reader.unpack(_U32)[0]),
    4: _read_ping_req,
    5: lambda reader: Nack(reader.unpack(_U32)[0]),
    6: _read_beat,
    7: lambda reader: Hello(*reader.unpack(_HELLO)),
    8: _read_claim,
    9: lambda reader: Released(_read_keys(reader)),
    10: lambda reader: Handover(_read_keys(reader)),
}


def encode_message(message: Message) -> bytes:
    """Kind, length and body. Raises ValueError for a key that is no IP address or a name that is too long."""
    match message:
        case Record():
            kind, body = 1, _record_body(message)
        case Ping(sequence):
            kind, body = 2, _U32.pack(sequence)
        case Ack(sequence):
            kind, body = 3, _U32.pack(sequence)
        case PingReq(sequence, target):
            kind, body = 4, _U32.pack(sequence) + _short(target)
        case Nack(sequence):
            kind, body = 5, _U32.pack(sequence)
        case Beat(hearing):
            kind, body = 6, b"\1" if hearing else b"\0"
        case Hello(nonce, echo, settled_for):
            kind, body = 7, _HELLO.pack(nonce, echo, settled_for)
        case Claim(generation, keys):
            kind, body = 8, _U32.pack(generation) + _keys_body(keys)
        case Released(keys):
            kind, body = 9, _keys_body(keys)
        case Handover(keys):
            kind, body = 10, _keys_body(keys)
    return _HEAD.pack(kind, len(body)) + body


def room(sender: str) -> int:
    """Octets for messages in one datagram of `sender`."""
    return MAX_DATAGRAM - _FIXED.size - len(_short(sender)) - TAG_LENGTH


def encode(
    sender: str, boot: int, counter: int, generation: int, messages: Iterable[bytes], receiver: str, keyring: Keyring
) -> bytes:
    """One datagram of encoded messages. Raises ValueError where they are more than `room`."""
    fixed = _FIXED.pack(MAGIC, VERSION, OLDEST, boot, counter, generation)
    data = b"".join((fixed, _short(sender), *messages))
    if len(data) + TAG_LENGTH > MAX_DATAGRAM:
        raise ValueError(f"a datagram of {len(data) + TAG_LENGTH} octets")
    return data + keyring.sign(_short(receiver) + data)


def decode(data: bytes, receiver: str, keyring: Keyring) -> Datagram:
    """The datagram, if it is authentic and for `receiver`. Raises DecodeError, and nothing else, for any octets.

    Messages of unknown kinds are left out. The tag is checked before anything variable is read.
    """
    if len(data) > MAX_DATAGRAM:
        raise DecodeError(TOO_LONG)
    if data[:2] != MAGIC:
        raise DecodeError(NOT_OURS)
    if len(data) < _FIXED.size + 2 + TAG_LENGTH:
        raise DecodeError(TRUNCATED)
    _, version, oldest, boot, counter, generation = _FIXED.unpack_from(data)
    if version < OLDEST or oldest > VERSION:
        raise DecodeError(WRONG_VERSION)
    end = len(data) - TAG_LENGTH
    if not keyring.verify(_short(receiver) + data[:end], data[end:]):
        raise DecodeError(NOT_AUTHENTIC)
    reader = _Reader(data, _FIXED.size, end)
    sender = reader.name()
    messages: list[Message] = []
    while reader.position < end:
        kind, length = reader.unpack(_HEAD)
        if reader.position + length > end:
            raise DecodeError(TRUNCATED)
        body = _Reader(data, reader.position, reader.position + length)
        reader.position += length
        read = READERS.get(kind)
        if read is not None:
            messages.append(read(body))
    return Datagram(sender, boot, counter, generation, tuple(messages))
