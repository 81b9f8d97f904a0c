"""The key ring: what signs, and what is accepted, from the text of the memberlist Secret.

The Secret's value is any text (the original writes unpadded base64 of 16 random bytes). To rotate it without
a moment in which speakers do not understand each other, write two values separated by a comma: the first
signs, both are accepted. So `old`, then `old,new` everywhere, then `new,old` everywhere, then `new`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

#: Octets of HMAC-SHA256 that are sent: half of it, the least that RFC 2104 section 5 recommends.
TAG_LENGTH = 16
#: Accepted at once, at most: each more costs a forger's datagram another HMAC on our side.
MAX_KEYS = 2
#: Ties derived keys to this use: the same Secret signs other things under the original.
_CONTEXT = b"metallb.io speaker membership, datagram authentication, 1"


class BadKeyring(ValueError):
    """The text of the Secret is no usable key ring."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """Derived keys; the first one signs. Empty: membership is off (never: unauthenticated)."""

    keys: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def from_text(cls, text: str) -> Keyring:
        """From `METALLB_ML_SECRET_KEY`. Empty text gives the empty ring; raises BadKeyring beyond MAX_KEYS values."""
        secrets = [part.strip() for part in text.split(",") if part.strip()]
        if len(secrets) > MAX_KEYS:
            raise BadKeyring(
                f"{len(secrets)} keys: at most {MAX_KEYS}, separated by a comma, while one replaces another"
            )
        return cls(tuple(hmac.digest(_CONTEXT, secret.encode(), hashlib.sha256) for secret in secrets))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def sign(self, data: bytes) -> bytes:
        """TAG_LENGTH octets over `data`. Raises IndexError on the empty ring."""
        return hmac.digest(self.keys[0], data, "sha256")[:TAG_LENGTH]

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Whether one of the keys made `tag` over `data`, compared in constant time."""
        return any(hmac.compare_digest(hmac.digest(key, data, "sha256")[:TAG_LENGTH], tag) for key in self.keys)


#: Membership off: nothing is sent, nothing accepted.
NO_KEYS = Keyring()
