"""Passwords of BGP peers, from the Secrets that the configuration names: read by name, again every PERIOD.

Only `get` on those names is needed (a watch would need `list`, which shows every Secret).
"""

from __future__ import annotations

import asyncio
import base64
import binascii

from metallb_common.config.model import Config
from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError
from metallb_common.kube.resources import SECRETS
from metallb_common.obs import logs
from metallb_speaker.cluster.view import Changes, ClusterView

#: Seconds between two rounds; and while there are Secrets that nobody has answered for yet.
PERIOD, SOON = 20.0, 2.0


class PasswordReader:
    """Keeps `ClusterView.passwords`. A Secret that cannot be read for the moment keeps what it gave before.

    Which of them were answered for at all, though it be by a refusal, is in `ClusterView.answered_secrets`.
    """

    def __init__(self, api: Api, namespace: str, view: ClusterView, changes: Changes) -> None:
        self._api, self._namespace, self._view, self._changes = api, namespace, view, changes
        self._said: dict[str, str] = {}
        self._wanted = asyncio.Event()
        self._config: Config | None = None

    def follow(self, config: Config | None) -> None:
        """The configuration in use; read at once when it is another one."""
        if config is not self._config:
            self._config = config
            self._wanted.set()

    async def run(self) -> None:
        while True:
            self._wanted.clear()
            await self.read()
            try:
                await asyncio.wait_for(self._wanted.wait(), self._period())
            except TimeoutError:
                continue

    def _names(self) -> list[str]:
        return sorted({p.password_secret for p in self._config.peers if p.password_secret}) if self._config else []

    def _period(self) -> float:
        return PERIOD if self._view.answered_secrets.issuperset(self._names()) else SOON

    async def read(self) -> None:
        """One round over all Secrets that peers name."""
        names = self._names()
        before, answered = self._view.passwords, set(self._view.answered_secrets)
        after: dict[tuple[str, str], str] = {}
        for name in names:
            try:
                found = await self._api.request("GET", SECRETS.path(self._namespace, name))
            except ApiError as failure:
                self._say(name, str(failure))
                if failure.denied or failure.status == 404:
                    answered.add(name)
                if failure.status != 404:
                    after |= {key: value for key, value in before.items() if key[0] == name}
                continue
            self._say(name, "")
            answered.add(name)
            for key, value in (found.get("data") or {}).items():
                try:
                    after[name, key] = base64.b64decode(value, validate=True).decode()
                except (binascii.Error, UnicodeDecodeError):
                    self._say(name, f"the value of {key!r} is no text")
        if after != before or answered != self._view.answered_secrets:
            self._view.passwords, self._view.answered_secrets = after, frozenset(answered)
            self._changes.all()

    def _say(self, name: str, problem: str) -> None:
        if problem and self._said.get(name) != problem:
            logs.warn(op="secret", msg="a peer's password cannot be read", secret=name, error=problem)
        self._said[name] = problem
