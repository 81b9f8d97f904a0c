"""The cluster half alone, against a real API server: with less than all rights, and what it reads from where."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from metallb_common import app
from metallb_common.kube.client import connect
from metallb_speaker import stream
from metallb_speaker.cluster import follow, leases
from metallb_speaker.cluster.run import Cluster
from metallb_speaker.desired import BgpPeer, Layer2Group, Member
from metallb_speaker.flags import FLAGS
from tests.apiserver import ApiServer, Conflict
from tests.integration.test_speaker_cluster import CLUSTER_RULES, NAMESPACE, NAMESPACE_RULES, rule

ADDRESS = "192.0.2.1"
CONFIG = """
address-pools:
- {name: p, protocol: layer2, addresses: [192.0.2.0/24]}
peers:
- {my-asn: 64512, peer-asn: 64513, peer-address: 10.0.0.1, password-secret: {name: bgp}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        made.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for name in ("n1", "n2"):
            made.create("/api/v1/nodes", {"metadata": {"name": name}})
            status = {"conditions": [{"type": "Ready", "status": "True", "reason": "test"}]}
            made.merge(f"/api/v1/nodes/{name}/status", {"status": status})
        pod = {"containers": [{"name": "speaker", "image": "x", "env": [{"name": "METALLB_NODE_NAME", "value": "n1"}]}]}
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
        made.create(
            pods, {"metadata": {"name": "speaker", "labels": {"app": "metallb"}}, "spec": {**pod, "nodeName": "n1"}}
        )
        other = {"containers": [{"name": "x", "image": "x"}], "nodeName": "n2"}
        made.create(pods, {"metadata": {"name": "other"}, "spec": other})
        services = "/api/v1/namespaces/default/services"
        made.create(services, {"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})
        ingress = {"status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}}
        made.merge(f"{services}/web/status", ingress)
        made.create(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            {
                "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "n1", "conditions": {"ready": True}}],
                "ports": [],
            },
        )
        made.create(
            "/api/v1/namespaces/default/endpoints",
            {"metadata": {"name": "web"}, "subsets": [{"addresses": [{"ip": "10.1.0.1", "nodeName": "n1"}]}]},
        )
        made.create(
            f"/api/v1/namespaces/{NAMESPACE}/configmaps", {"metadata": {"name": "config"}, "data": {"config": CONFIG}}
        )
        yield made


class Announcer:
    """The other end of the stream."""

    def __init__(self) -> None:
        self.reader = stream.DesiredReader()
        self.state: stream.State | None = None
        self.output: asyncio.StreamWriter | None = None
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, output: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.output = output
        self.reader.connected()
        output.write(stream.hello("test"))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for event in self.reader.receive(data):
                    if isinstance(event, stream.State):
                        self.state = event
        output.close()

    def of(self, kind: type) -> dict[str, Any]:
        return {key: item for (_, key), item in self.reader.items.items() if isinstance(item, kind)}

    def number(self, name: str) -> float:
        assert self.state is not None
        return next(series[0][1] for found, _, _, _, series in self.state.numbers if found == name)


async def until(condition: Callable[[], Any]) -> None:
    """Fails when it does not come true in a minute."""
    end = asyncio.get_running_loop().time() + 60
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.02)


def grant(server: ApiServer, name: str, cluster: list[Any], namespaced: list[Any]) -> str:
    """A token for an account with these rights."""
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    rbac, group = "/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    inner = f"{rbac}/namespaces/{NAMESPACE}"
    for base, kind, rules in ((rbac, "ClusterRole", cluster), (inner, "Role", namespaced)):
        with contextlib.suppress(Conflict):
            server.create(f"{base}/{kind.lower()}s", {"metadata": {"name": name}, "rules": rules})
            ref = {"apiGroup": group, "kind": kind, "name": name}
            body = {"metadata": {"name": name}, "subjects": [subject], "roleRef": ref}
            server.create(f"{base}/{kind.lower()}bindings", body)
    return server.service_account_token(NAMESPACE, name)


@contextlib.asynccontextmanager
async def running(server: ApiServer, token: str, folder: Path, *flags: str) -> AsyncIterator[Announcer]:
    announcer = Announcer()
    path = str(folder / "s.sock")
    listening = await asyncio.start_unix_server(announcer.serve, path)
    options = app.parse(["--node-name=n1", f"--namespace={NAMESPACE}", *flags], FLAGS, {})
    api = await connect(server.kubeconfig(token))
    stop = app.Stop()
    task = asyncio.create_task(app.until_stopped(stop, Cluster(api, options, path).tasks()))
    try:
        yield announcer
    finally:
        stop.ask()
        assert await task == 0
        await api.close()
        listening.close()
        await asyncio.sleep(0.1)  # TLS connections say good-bye


def test_the_originals_rights(server: ApiServer, tmp_path: Path) -> None:
    async def main() -> None:
        token = grant(server, "full", CLUSTER_RULES, NAMESPACE_RULES)
        async with running(server, token, tmp_path, "--ml-labels=app=metallb") as announcer:
            await until(lambda: announcer.of(Layer2Group))
            assert announcer.of(Layer2Group)[ADDRESS].candidates == ("n1",)
            assert announcer.of(Member) == {"n1": Member("n1", (), False)}
            assert announcer.number("metallb_k8s_client_config_loaded_bool") == 1
            # The peer's password cannot be read: the session waits, and that is said.
            assert announcer.of(BgpPeer) == {}
            await until(lambda: announcer.state and announcer.state.problems)
            assert announcer.state is not None
            assert any("Secret 'bgp'" in problem for problem in announcer.state.problems)
            # A receiver that has lost track asks, and gets everything anew.
            assert announcer.output is not None
            before, announcer.reader.items = announcer.reader.items, {}
            announcer.output.write(stream.again())
            await until(lambda: announcer.reader.items == before)
            # A connection that ends is made anew, with a snapshot.
            announcer.output.close()
            await until(lambda: announcer.connections == 2 and announcer.reader.version > 0)
            assert announcer.reader.items == before

    asyncio.run(main())


def test_endpoints_where_slices_are_not_allowed(server: ApiServer, tmp_path: Path) -> None:
    async def main() -> None:
        rules = [r for r in CLUSTER_RULES if r["resources"] != ["endpointslices"]]
        async with running(server, grant(server, "endpoints", rules, NAMESPACE_RULES), tmp_path) as announcer:
            await until(lambda: announcer.of(Layer2Group))
            assert announcer.of(Layer2Group)[ADDRESS].reason == ""

    asyncio.run(main())


def test_every_node_where_pods_are_not_allowed(server: ApiServer, tmp_path: Path) -> None:
    async def main() -> None:
        rules = [r for r in NAMESPACE_RULES if r["resources"] != ["pods"]]
        async with running(server, grant(server, "podless", CLUSTER_RULES, rules), tmp_path) as announcer:
            await until(lambda: announcer.of(Layer2Group))
            assert announcer.of(Layer2Group)[ADDRESS].candidates == ("n1", "n2")
            assert announcer.of(Member) == {n: Member(n, (), True) for n in ("n1", "n2")}

    asyncio.run(main())


LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def renew(server: ApiServer, node: str) -> None:
    """As its kubelet does."""
    spec = {"renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    with contextlib.suppress(Conflict):
        server.create(LEASES, {"metadata": {"name": node}, "spec": spec})
    server.merge(f"{LEASES}/{node}", {"spec": spec})


@pytest.mark.parametrize("allowed", [True, False])
def test_node_leases_while_speakers_do_not_hear_each_other(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """A node that has stopped renewing is not alive any more, long before Kubernetes says so, where we may look."""
    monkeypatch.setattr(leases, "PERIOD", 0.1)
    monkeypatch.setattr(leases, "STALE", 5.0 if allowed else 1.5)
    rules = [*CLUSTER_RULES, rule("coordination.k8s.io", ["leases"], ["list"])] if allowed else CLUSTER_RULES
    podless = [r for r in NAMESPACE_RULES if r["resources"] != ["pods"]]

    def alive(announcer: Announcer) -> dict[str, bool]:
        return {name: member.alive for name, member in announcer.of(Member).items()}

    async def main() -> None:
        token = grant(server, f"leases-{allowed}".lower(), rules, podless)
        async with running(server, token, tmp_path) as announcer:
            await until(lambda: alive(announcer) == {"n1": True, "n2": True})
            assert announcer.output is not None
            announcer.output.write(stream.report(stream.MembersSeen(False, ("n1",))))
            renew(server, "n2")
            end = asyncio.get_running_loop().time() + (30 if allowed else 4)
            while alive(announcer)["n2"] and asyncio.get_running_loop().time() < end:
                renew(server, "n1")
                await asyncio.sleep(0.2)
            assert alive(announcer) == {"n1": True, "n2": not allowed}
            if allowed:
                renew(server, "n2")
                await until(lambda: alive(announcer)["n2"])
            # Membership works again: then its word counts, and nobody asks.
            announcer.output.write(stream.report(stream.MembersSeen(True, ("n1", "n2"))))
            await until(lambda: alive(announcer) == {"n1": True, "n2": True})
            await asyncio.sleep(0.2)
            assert alive(announcer) == {"n1": True, "n2": True}

    asyncio.run(main())


def test_speakers_are_known_without_labels(server: ApiServer, tmp_path: Path) -> None:
    async def main() -> None:
        token = grant(server, "full", CLUSTER_RULES, NAMESPACE_RULES)
        async with running(server, token, tmp_path) as announcer:
            await until(lambda: announcer.of(Layer2Group))
            assert announcer.of(Layer2Group)[ADDRESS].candidates == ("n1",)

    asyncio.run(main())


def test_a_password_from_a_secret(server: ApiServer, tmp_path: Path) -> None:
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"

    async def main() -> None:
        may = [*NAMESPACE_RULES, {**rule("", ["secrets"], ["get"]), "resourceNames": ["bgp"]}]
        async with running(server, grant(server, "secretive", CLUSTER_RULES, may), tmp_path) as announcer:
            await until(lambda: announcer.of(BgpPeer))
            (peer,) = announcer.of(BgpPeer).values()
            assert (peer.password, peer.address) == ("hush", "10.0.0.1")

    data = {"password": base64.b64encode(b"hush").decode()}
    server.create(secrets, {"metadata": {"name": "bgp"}, "data": data})
    try:
        asyncio.run(main())
    finally:
        server.delete(f"{secrets}/bgp")


def test_only_the_accepted_configuration(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE", 600.0)
    maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"

    async def main() -> None:
        token = grant(server, "full", CLUSTER_RULES, NAMESPACE_RULES)
        async with running(server, token, tmp_path, "--accepted-config=accepted") as announcer:
            # Until there is one only the members are told; nothing is taken away from what was kept.
            await until(lambda: announcer.of(Member))
            assert announcer.of(Layer2Group) == {}
            assert announcer.number("metallb_k8s_client_config_stale_bool") == 1
            server.create(maps, {"metadata": {"name": "accepted"}, "data": {"config": CONFIG}})
            await until(lambda: announcer.of(Layer2Group))
            # What the controller writes is taken, even if it leaves out an address that is held.
            server.merge(f"{maps}/accepted", {"data": {"config": CONFIG.replace("192.0.2.0/24", "192.0.2.128/25")}})
            await until(lambda: not announcer.of(Layer2Group))
            server.delete(f"{maps}/accepted")
            await until(lambda: announcer.number("metallb_k8s_client_config_stale_bool") == 1)
            assert announcer.of(Member)

    asyncio.run(main())


def test_the_users_own_where_none_can_be_accepted(server: ApiServer, tmp_path: Path) -> None:
    """As under the original's roles, where the controller may not write the accepted one; then it may."""
    maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"

    async def main() -> None:
        token = grant(server, "original", CLUSTER_RULES, NAMESPACE_RULES)
        async with running(server, token, tmp_path, "--accepted-config=accepted") as announcer:
            await until(lambda: announcer.of(Layer2Group))
            narrow = CONFIG.replace("192.0.2.0/24", "192.0.2.128/25")
            server.create(maps, {"metadata": {"name": "accepted"}, "data": {"config": narrow}})
            await until(lambda: not announcer.of(Layer2Group))
            server.delete(f"{maps}/accepted")

    asyncio.run(main())


def test_the_membership_key_is_handed_over_once_the_secret_is_there(server: ApiServer, tmp_path: Path) -> None:
    secrets, found = f"/api/v1/namespaces/{NAMESPACE}/secrets", tmp_path / "memberlist.key"
    flags = (f"--socket={tmp_path}/s.sock", "--ml-secret-name=memberlist")

    async def main() -> None:
        may = [*NAMESPACE_RULES, {**rule("", ["secrets"], ["get"]), "resourceNames": ["memberlist"]}]
        async with running(server, grant(server, "keyed", CLUSTER_RULES, may), tmp_path, *flags) as announcer:
            await until(lambda: announcer.of(Member))
            assert not found.exists()
            data = {"secretkey": base64.b64encode(b"the key").decode()}
            server.create(secrets, {"metadata": {"name": "memberlist"}, "data": data})
            await until(found.exists)
            assert found.read_text() == "the key"

    try:
        asyncio.run(main())
    finally:
        server.delete(f"{secrets}/memberlist")


def test_without_the_right_to_read_it_an_empty_key_says_so(server: ApiServer, tmp_path: Path) -> None:
    found = tmp_path / "memberlist.key"
    flags = (f"--socket={tmp_path}/s.sock", "--ml-secret-name=withheld")

    async def main() -> None:
        token = grant(server, "keyless", CLUSTER_RULES, NAMESPACE_RULES)
        async with running(server, token, tmp_path, *flags):
            await until(found.exists)
            assert found.read_text() == ""

    asyncio.run(main())
