"""The membership's key, fetched for the announcer: it has no API token, and the Secret may not be there yet.

Without this a pod that starts before the controller has made the Secret waits in CreateContainerConfigError
for the kubelet's next look, ten to fifteen seconds later.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
from pathlib import Path

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.resources import SECRETS
from metallb_common.obs import logs

#: Key in the Secret (contract section 6), and the file's name in the folder of the socket.
SECRET_KEY = "secretkey"
FILE = "memberlist.key"
#: Seconds between two looks while the Secret is not there: the controller makes it in its first second.
LOOK = 0.25


async def share(api: Api, namespace: str, name: str, folder: str) -> None:
    """Write the key to FILE in `folder` as soon as the Secret is there; then wait for ever.

    Where the Secret may not be read, an empty file says so: the announcer then goes on without membership.
    """
    text = await _fetch(api, namespace, name)
    try:
        _write(Path(folder) / FILE, text)
    except OSError as failure:
        logs.error(op="members", msg="the membership key cannot be handed to the announcer", error=str(failure))
    await asyncio.Event().wait()


def _write(path: Path, text: str) -> None:
    """Whole or not at all. The announcer is root without capabilities: it reads what everybody may; only this
    pod sees the folder. Raises OSError."""
    part = path.with_suffix(".part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
        file.write(text)
    part.rename(path)


async def _fetch(api: Api, namespace: str, name: str) -> str:
    backoff, waiting = Backoff(LOOK, 5.0), False
    while True:
        try:
            found = await api.request("GET", SECRETS.path(namespace, name))
            text = base64.b64decode((found.get("data") or {}).get(SECRET_KEY, ""), validate=True).decode()
            if text:
                return text
            logs.warn(op="members", msg=f"the Secret has no key {SECRET_KEY!r} yet", secret=name)
            await asyncio.sleep(backoff.next())
        except ApiError as failure:
            if failure.denied:
                logs.error(op="members", msg="the membership key cannot be read: membership is off", error=str(failure))
                return ""
            if failure.status == 404:
                if not waiting:
                    waiting = True
                    logs.info(
                        op="members", msg="waiting for the controller to make the membership's Secret", secret=name
                    )
                await asyncio.sleep(LOOK)
            else:
                await asyncio.sleep(backoff.next(failure.retry_after))
        except (binascii.Error, UnicodeDecodeError):
            logs.error(op="members", msg=f"{SECRET_KEY!r} is no text: membership is off", secret=name)
            return ""
