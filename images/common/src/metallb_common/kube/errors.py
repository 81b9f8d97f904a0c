"""What a request to the API server can end in, and how long to wait before the next one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """The API server refused, or no answer came.

    `status` is the HTTP status, 0 when there was no (whole) answer: then a write may have happened
    or not. `reason` is the API's own word (Conflict, Forbidden, Expired, ...), or Unreachable.
    `retry_after` is in seconds, None when the server named none. `causes` are the reasons in the
    answer's details (for instance NamespaceTerminating).
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str = "",
        retry_after: float | None = None,
        causes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.causes = causes

    @classmethod
    def from_status(cls, status: int, body: Mapping[str, Any], retry_after: str | None = None) -> ApiError:
        """From a Kubernetes Status object; every field of it may be missing."""
        details = body.get("details")
        details = details if isinstance(details, Mapping) else {}
        wait: float | None = None
        for source in (retry_after, details.get("retryAfterSeconds")):
            try:
                wait = max(0.0, float(source)) if source else wait
            except (TypeError, ValueError):  # an HTTP date, which API servers do not send
                continue
        causes = tuple(str(c.get("reason", "")) for c in details.get("causes") or () if isinstance(c, Mapping))
        return cls(
            status, str(body.get("reason") or f"HTTP{status}"), str(body.get("message") or ""), wait or None, causes
        )

    @property
    def denied(self) -> bool:
        """Not allowed, by RBAC: asking again soon is of no use."""
        return self.status == 403 and "NamespaceTerminating" not in self.causes

    @property
    def gone(self) -> bool:
        """The resource version is too old: list again."""
        return self.status == 410

    @property
    def transient(self) -> bool:
        """Worth trying again as it stands: no answer, overload, or a failing server."""
        return self.status in (0, 408, 429) or self.status >= 500


class Backoff:
    """Exponential back-off with full jitter: a fleet that lost its server does not return at once.

    `next()` is uniform in (0, min(cap, first * 2^n)], and never below what the server asked for.
    """

    def __init__(self, first: float = 0.2, cap: float = 30.0) -> None:
        self._first, self._cap = first, cap
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next(self, at_least: float | None = None) -> float:
        """Seconds to wait; counts one more failure."""
        ceiling = min(self._cap, self._first * float(1 << min(self._failures, 30)))
        self._failures += 1
        delay = ceiling * (1.0 - random.random())  # noqa: S311 (spreads load, guards nothing)
        return delay if at_least is None else at_least + min(delay, 1.0)
