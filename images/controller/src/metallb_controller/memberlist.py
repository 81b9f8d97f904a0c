"""The Secret with the speakers' membership key: made once, when it is not there.

The speakers' pods wait for it (the kubelet cannot start them without), so any controller makes it,
leading or not; of two that try, the API server lets one win.
"""

from __future__ import annotations

import asyncio
import base64
import os

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.resources import SECRETS
from metallb_common.obs import logs
from metallb_controller.configs import owner_reference

KEY = "secretkey"


def fresh_key() -> str:
    """16 random bytes in base64 without padding: 22 characters (contract section 6)."""
    return base64.b64encode(os.urandom(16)).decode().rstrip("=")


async def ensure(api: Api, namespace: str, name: str, deployment: str) -> None:
    """Returns when the Secret is there, or cannot be made for lack of access (said once)."""
    if not name:
        return
    backoff = Backoff(0.5, 30.0)
    while True:
        try:
            if await _there(api, namespace, name):
                return
            await _create(api, namespace, name, deployment)
            logs.info(op="memberlist", msg=f"made the Secret {name}")
            return
        except ApiError as error:
            if error.status == 409:
                return
            if error.denied or error.status == 404:
                logs.error(op="memberlist", error=str(error), msg=f"cannot make the Secret {name}: create it by hand")
                return
            logs.warn(op="memberlist", error=str(error), msg="will be tried again")
            await asyncio.sleep(backoff.next(error.retry_after))


async def _there(api: Api, namespace: str, name: str) -> bool:
    """Listed by name: that is what the original's Role allows."""
    query = {"fieldSelector": f"metadata.name={name}"}
    found = await api.request("GET", SECRETS.path(namespace), query=query, timeout=5.0)
    return bool(found.get("items"))


async def _create(api: Api, namespace: str, name: str, deployment: str) -> None:
    meta: dict[str, object] = {"name": name, "namespace": namespace}
    owner = await owner_reference(api, namespace, deployment)
    if owner:
        meta["ownerReferences"] = [owner]
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "stringData": {KEY: fresh_key()}}
    await api.request("POST", SECRETS.path(namespace), body=body, timeout=5.0)
