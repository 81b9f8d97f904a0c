"""`metallb-config convert`: custom resources in, our document out, and what it cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metallb_common.config.check import main
from metallb_common.config.convert import convert
from metallb_common.config.parse import parse


def made(
    kind: str, name: str, spec: dict[str, Any], labels: dict[str, str] | None = None, version: str = "v1beta1"
) -> Any:
    metadata = {"name": name, "namespace": "metallb-system", "labels": labels or {}}
    return {"apiVersion": f"metallb.io/{version}", "kind": kind, "metadata": metadata, "spec": spec}


POOL = made("IPAddressPool", "a", {"addresses": ["192.0.2.0/24"]}, {"zone": "x"})
OTHER = made("IPAddressPool", "b", {"addresses": ["198.51.100.0-198.51.100.9"]})


def ours(*objects: Any) -> dict[str, Any]:
    """The document, which must be accepted and say everything."""
    document, notes = convert(objects)
    assert notes == []
    assert parse(yaml.safe_dump(document)).errors == ()
    return document


def test_layer2_for_every_pool() -> None:
    document = ours(POOL, OTHER, made("L2Advertisement", "all", {}))
    assert document == {
        "address-pools": [
            {"name": "a", "protocol": "layer2", "addresses": ["192.0.2.0/24"]},
            {"name": "b", "protocol": "layer2", "addresses": ["198.51.100.0-198.51.100.9"]},
        ]
    }


def test_advertisements_choose_pools_by_name_and_by_label() -> None:
    by_label = made(
        "L2Advertisement", "x", {"ipAddressPoolSelectors": [{"matchLabels": {"zone": "x"}}], "interfaces": ["eth0"]}
    )
    by_name = made("BGPAdvertisement", "y", {"ipAddressPools": ["b"], "localPref": 100, "peers": ["r"]})
    peer = made("BGPPeer", "r", {"myASN": 1, "peerASN": 1, "peerAddress": "192.0.2.1"}, version="v1beta2")
    first, second = ours(POOL, OTHER, by_label, by_name, peer)["address-pools"]
    assert (first["protocol"], first["l2-advertisements"]) == ("layer2", [{"interfaces": ["eth0"]}])
    assert (second["protocol"], second["bgp-advertisements"]) == ("bgp", [{"localpref": 100, "peers": ["r"]}])


def test_selector_expressions_choose_pools() -> None:
    expression = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    layer2 = made("L2Advertisement", "x", {"ipAddressPoolSelectors": [expression], "interfaces": ["eth0"]})
    rest = made("BGPAdvertisement", "y", {"ipAddressPools": ["b"]})
    first, second = ours(POOL, OTHER, layer2, rest)["address-pools"]
    assert (first["protocol"], second["protocol"]) == ("layer2", "bgp")


def test_pool_options() -> None:
    spec = {
        "addresses": ["192.0.2.0/24"],
        "autoAssign": False,
        "avoidBuggyIPs": True,
        "serviceAllocation": {
            "priority": 50,
            "namespaces": ["web"],
            "namespaceSelectors": [{"matchLabels": {"a": "b"}}],
            "serviceSelectors": [{"matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]}],
        },
    }
    (pool,) = ours(made("IPAddressPool", "a", spec), made("L2Advertisement", "l", {}))["address-pools"]
    assert pool["auto-assign"] is False
    assert pool["avoid-buggy-ips"] is True
    assert pool["service-allocation"] == {
        "priority": 50,
        "namespaces": ["web"],
        "namespace-selectors": [{"match-labels": {"a": "b"}}],
        "service-selectors": [{"match-expressions": [{"key": "app", "operator": "In", "values": ["x"]}]}],
    }


def test_peers_of_both_versions() -> None:
    common = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "holdTime": "90s", "ebgpMultiHop": True}
    old = made(
        "BGPPeer",
        "old",
        {
            **common,
            "peerPort": 180,
            "routerID": "10.0.0.1",
            "password": "x",
            "nodeSelectors": [{"matchExpressions": [{"key": "rack", "operator": "NotIn", "values": ["a"]}]}],
        },
    )
    new = made(
        "BGPPeer",
        "new",
        {
            "myASN": 64512,
            "dynamicASN": "external",
            "peerAddress": "2001:db8::1",
            "passwordSecret": {"name": "s", "namespace": "metallb-system"},
            "connectTime": "10s",
            "enableGracefulRestart": True,
            "disableMP": True,
            "localASN": 65000,
            "bfdProfile": "fast",
            "nodeSelectors": [{"matchLabels": {"rack": "a"}}],
        },
        version="v1beta2",
    )
    bfd = made("BFDProfile", "fast", {"receiveInterval": 50, "minimumTtl": 200, "echoMode": True})
    document = ours(old, new, bfd)
    assert document["peers"] == [
        {
            "name": "old",
            "my-asn": 64512,
            "peer-asn": 64513,
            "peer-address": "192.0.2.1",
            "peer-port": 180,
            "hold-time": "90s",
            "router-id": "10.0.0.1",
            "password": "x",
            "ebgp-multihop": True,
            "node-selectors": [{"match-expressions": [{"key": "rack", "operator": "NotIn", "values": ["a"]}]}],
        },
        {
            "name": "new",
            "my-asn": 64512,
            "peer-asn": "external",
            "peer-address": "2001:db8::1",
            "connect-time": "10s",
            "bfd-profile": "fast",
            "graceful-restart": True,
            "local-asn": 65000,
            "password-secret": {"name": "s", "key": "password"},
            "address-families": ["ipv6"],
            "node-selectors": [{"match-labels": {"rack": "a"}}],
        },
    ]
    assert document["bfd-profiles"] == [{"name": "fast", "receive-interval": 50, "echo-mode": True, "minimum-ttl": 200}]


def test_communities() -> None:
    aliases = [{"name": "vpn", "value": "1234:1"}, {"name": "big", "value": "large:1:2:3"}]
    advertisement = made("BGPAdvertisement", "y", {"communities": ["vpn", "65535:65282"], "aggregationLength": 32})
    document = ours(POOL, made("Community", "c", {"communities": aliases}), advertisement)
    assert document["bgp-communities"] == {"vpn": "1234:1", "big": "large:1:2:3"}
    assert document["address-pools"][0]["bgp-advertisements"][0]["communities"] == ["vpn", "65535:65282"]


def test_old_address_pool() -> None:
    spec = {
        "protocol": "bgp",
        "addresses": ["192.0.2.0/24"],
        "autoAssign": False,
        "bgpAdvertisements": [{"aggregationLength": 24, "localPref": 5}],
    }
    assert ours(made("AddressPool", "old", spec))["address-pools"] == [
        {
            "name": "old",
            "protocol": "bgp",
            "addresses": ["192.0.2.0/24"],
            "auto-assign": False,
            "bgp-advertisements": [{"aggregation-length": 24, "localpref": 5}],
        }
    ]


@pytest.mark.parametrize(
    ("objects", "note"),
    [
        (
            [POOL, made("L2Advertisement", "l", {}), made("BGPAdvertisement", "b", {})],
            "IPAddressPool a: it is announced by",
        ),
        ([POOL], "IPAddressPool a: nothing announces it"),
        (
            [made("BGPPeer", "p", {"myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "vrf": "red"})],
            "BGPPeer p: spec.vrf has no counterpart here",
        ),
        (
            [
                made(
                    "BGPPeer",
                    "p",
                    {"myASN": 1, "peerASN": 2, "peerAddress": "::1", "passwordSecret": {"name": "s", "namespace": "x"}},
                )
            ],
            "BGPPeer p: the Secret is in namespace x",
        ),
        (
            [
                made("Community", "a", {"communities": [{"name": "n", "value": "1:1"}]}),
                made("Community", "b", {"communities": [{"name": "n", "value": "1:2"}]}),
            ],
            "Community b: the name n has another value already: 1:1",
        ),
    ],
)
def test_what_cannot_be_expressed_is_said(objects: list[Any], note: str) -> None:
    _, notes = convert(objects)
    assert len(notes) == 1
    assert notes[0].startswith(note)


def run(tmp_path: Path, text: str) -> int:
    file = tmp_path / "objects.yaml"
    file.write_text(text, "utf-8")
    return main(["convert", str(file)])


def test_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [POOL, made("L2Advertisement", "l", {})]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    assert run(tmp_path, yaml.safe_dump_all([listed, service])) == 0
    captured = capsys.readouterr()
    assert parse(captured.out).config is not None
    assert captured.err.endswith("skipped: Service\n")


def test_program_says_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, yaml.safe_dump(POOL)) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("address-pools:")
    assert captured.err.startswith("not expressed: IPAddressPool a: nothing announces it")


def test_program_refuses_what_it_would_refuse_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = made("BGPPeer", "p", {"myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "bfdProfile": "gone"})
    assert run(tmp_path, yaml.safe_dump(peer)) == 1
    assert "referencing non existing bfd profile gone" in capsys.readouterr().err


def test_program_says_that_a_key_stands_there_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which of the two is meant nobody knows: what is printed may be the wrong one."""
    text = yaml.safe_dump_all([POOL, made("L2Advertisement", "l", {})])
    assert run(tmp_path, text) == 0
    capsys.readouterr()
    twice = text.replace("spec:\n  addresses:", "spec:\n  addresses: [198.51.100.0/24]\n  addresses:")
    assert run(tmp_path, twice) == 1
    captured = capsys.readouterr()
    line = twice.splitlines().index("  addresses:") + 1
    assert (
        f"objects.yaml:{line}: spec.addresses: could not parse config: key 'addresses' is already set" in captured.err
    )
    assert parse(captured.out).config is not None


@pytest.mark.parametrize("text", ["{apiVersion: metallb.io/v1beta1, kind: BGPPeer, spec: [1]}", ": : ["])
def test_program_on_broken_input(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, text) == 1
    assert capsys.readouterr().err


def test_program_on_a_missing_file(tmp_path: Path) -> None:
    assert main(["convert", str(tmp_path / "none")]) == 2
