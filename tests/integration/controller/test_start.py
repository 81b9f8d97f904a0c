"""How a term begins, against a real API server: by which configuration, and with what it finds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metallb_common.kube.client import Api, connect
from metallb_controller.configs import Settings
from metallb_controller.controller import Controller, Options
from metallb_controller.metrics import Metrics
from metallb_controller.wishes import Rules
from tests.controller_lab import MAPS, NAMESPACE, Lab, wait

STORED = "address-pools:\n- {name: p, protocol: layer2, addresses: [192.0.2.0/29]}\n"
WIDER = STORED + "- {name: q, protocol: layer2, addresses: [198.51.100.0/29]}\n"
OTHER = "address-pools:\n- {name: q, protocol: layer2, addresses: [198.51.100.0/29]}\n"


def controller(api: Api) -> Controller:
    settings = Settings(NAMESPACE, "config", "accepted", "", False)
    return Controller(api, Options(settings, Rules(), True, "metallb-controller", ""), Metrics())


@pytest.mark.parametrize("user", [WIDER, OTHER])
@pytest.mark.parametrize("seconds", [0.0, 0.7])
def test_a_stored_config_that_is_older_than_the_addresses_moves_none(here: Lab, user: str, seconds: float) -> None:
    """The installation was rolled back to the original, got other pools, and was upgraded again."""

    async def body() -> None:
        api = await connect(here.server.kubeconfig())
        real = api.request

        async def slow(method: str, path: str, **more: Any) -> dict[str, Any]:
            if path == "/api/v1/services":  # many Services take their time
                await asyncio.sleep(seconds)
            return await real(method, path, **more)

        api.request = slow  # type: ignore[method-assign]
        made = controller(api)
        task = asyncio.create_task(made.run())
        try:
            await asyncio.to_thread(
                wait, lambda: here.server.get(f"{MAPS}/accepted")["data"]["config"] == user and made.ready()[0]
            )
            await asyncio.sleep(0.5)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await api.close()
        text = made._metrics.registry.render().decode()
        assert "\nmetallb_k8s_client_config_stale_bool 0" in text

    here.configure(user)
    here.configure(STORED, "accepted")
    given = {}
    for i in range(3):
        here.create(f"s{i}")
        given[f"default/s{i}"] = (f"198.51.100.{i + 1}",)
        status = {"status": {"loadBalancer": {"ingress": [{"ip": f"198.51.100.{i + 1}"}]}}}
        here.server.merge(f"/api/v1/namespaces/default/services/s{i}/status", status)
    asyncio.run(body())
    assert here.addresses() == given
    told = [reason for name in ("s0", "s1", "s2") for _, reason, _ in here.events(name)]
    assert told == [], "nothing was given, and nothing taken"
