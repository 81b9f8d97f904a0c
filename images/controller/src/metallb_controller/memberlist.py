"""The Secret with the speakers' membership key: made when it is not there.

The speakers' pods wait for it (the kubelet cannot start them without), so any controller makes it,
leading or not; of two that try, the API server lets one win. It may go away later: with a Deployment that
was made anew, or by hand.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Mapping
from typing import Any

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.resources import SECRETS
from metallb_common.obs import logs
from metallb_controller.accepted import owner_reference

KEY = "secretkey"
#: Seconds between two looks.
PERIOD = 60.0


def fresh_key() -> str:
    """16 random bytes in base64 without padding: 22 characters (contract section 6)."""
    return base64.b64encode(os.urandom(16)).decode().rstrip("=")


async def keep(api: Api, namespace: str, name: str, deployment: str) -> None:
    """Returns when the Secret cannot be made for lack of access (said once)."""
    if not name:
        return
    backoff, owned = Backoff(0.5, 30.0), False
    while True:
        try:
            found = await _find(api, namespace, name)
            if found is not None:
                owned = bool((found.get("metadata") or {}).get("ownerReferences"))
            else:
                owned = await _create(api, namespace, name, deployment, owned=owned)
            backoff.reset()
            await asyncio.sleep(PERIOD)
        except ApiError as error:
            if error.denied or error.status == 404:
                logs.error(op="memberlist", error=str(error), msg=f"cannot make the Secret {name}: create it by hand")
                return
            if error.status != 409:  # that one: another controller was faster
                logs.warn(op="memberlist", error=str(error), msg="will be tried again")
            await asyncio.sleep(backoff.next(error.retry_after))


async def _find(api: Api, namespace: str, name: str) -> Mapping[str, Any] | None:
    """Listed by name: that is what the original's Role allows."""
    query = {"fieldSelector": f"metadata.name={name}"}
    found = await api.request("GET", SECRETS.path(namespace), query=query, timeout=5.0)
    return next(iter(found.get("items") or ()), None)


async def _create(api: Api, namespace: str, name: str, deployment: str, *, owned: bool) -> bool:
    """Make it, unless the one before was `owned` by a Deployment that is gone, too. Whether it has an owner."""
    meta: dict[str, object] = {"name": name, "namespace": namespace}
    owner = await owner_reference(api, namespace, deployment)
    if owner:
        meta["ownerReferences"] = [owner]
    elif owned:
        return True  # uninstalled: one made now would stay behind
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "stringData": {KEY: fresh_key()}}
    await api.request("POST", SECRETS.path(namespace), body=body, timeout=5.0)
    logs.info(op="memberlist", msg=f"made the Secret {name}")
    return bool(owner)
