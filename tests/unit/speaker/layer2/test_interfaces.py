"""Which interfaces are used, and what is on-link where."""

from __future__ import annotations

import ipaddress

import pytest

from metallb_speaker.announcer.layer2.interfaces import (
    IFF_BROADCAST,
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_NOARP,
    IFF_UP,
    Link,
    OnLink,
    Routes,
    judge,
    matches,
    packed,
)

UP = IFF_UP | IFF_BROADCAST | IFF_LOWER_UP
MAC = bytes.fromhex("020000000001")


def link(name: str, index: int = 2, flags: int = UP, **fields: object) -> Link:
    return Link(index, name, flags, **{"mac": MAC, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (link("eth0"), ""),
        (link("eth0", flags=UP & ~IFF_LOWER_UP), ""),  # no cable now: sockets wait for it
        (link("eth0", kind="veth"), ""),  # a node in a container: its uplink is one side of a pair
        (link("bond0", kind="bond"), ""),
        (link("team0", kind="team"), ""),
        (link("br0", kind="bridge"), ""),
        (link("eth0.100", kind="vlan"), ""),
        (link("macvlan0", kind="macvlan"), ""),
        (link("enp1s0", master=9, slave_kind="vrf"), ""),
        (link("enp1s0", master=8), ""),  # the master is a VRF, and the port does not say so
        (link("lo", flags=UP | IFF_LOOPBACK), "loopback"),
        (link("eth0", flags=IFF_BROADCAST), "down"),
        (link("eth0", flags=UP & ~IFF_BROADCAST), "noBroadcast"),
        (link("eth0", flags=UP | IFF_NOARP), "noARP"),
        (link("wg0", hardware=65534, mac=b""), "notEthernet"),
        (link("ib0", hardware=32, mac=bytes(20)), "notEthernet"),
        (link("eth0", mac=bytes(6)), "notEthernet"),
        (link("eth1", master=7, slave_kind="bridge"), "enslaved"),
        (link("eth1", master=7, slave_kind="bond"), "enslaved"),
        (link("eth1", master=7, slave_kind="team"), "enslaved"),
        (link("eth1", master=7), "enslaved"),
        (link("eth1", master=99), "enslaved"),  # of a master that cannot be seen
        (link("kube-ipvs0", kind="dummy"), "virtual"),
        (link("kube-ipvs0"), "virtual"),
        (link("nodelocaldns", kind="dummy"), "virtual"),
        (link("dummy0", kind="dummy"), "virtual"),
        (link("docker0", kind="bridge"), "virtual"),
        (link("br-0123456789ab", kind="bridge"), "virtual"),
        (link("br-lan", kind="bridge"), ""),
        (link("cni0", kind="bridge"), "virtual"),
        (link("vethab12cd", kind="veth"), "virtual"),
        (link("cali0123456789a", kind="veth"), "virtual"),
        (link("flannel.1", kind="vxlan"), "virtual"),
        (link("cilium_host", kind="veth"), "virtual"),
        (link("lxc1234", kind="veth"), "virtual"),
        (link("virbr0", kind="bridge"), "virtual"),
    ],
    ids=lambda value: value.name if isinstance(value, Link) else value or "used",
)
def test_choice(candidate: Link, reason: str) -> None:
    others = (link("br0", 7, kind="bridge"), link("vrf-blue", 8, kind="vrf"))
    assert judge((candidate, *others))[2] == reason


@pytest.mark.parametrize(
    ("name", "reason", "interfaces", "exclude", "taken"),
    [
        ("eth0", "", (), (), True),
        ("eth0", "", ("eth0",), (), True),
        ("eth0", "", ("eth[0-3]", "bond*"), (), True),
        ("eth4", "", ("eth[0-3]", "bond*"), (), False),
        ("eth0", "", ("ETH0",), (), False),
        ("eth0", "", (), ("eth*",), False),
        ("eth0", "", ("eth0",), ("eth0",), False),
        ("cni0", "virtual", (), (), False),
        ("cni0", "virtual", ("*",), (), False),
        ("cni0", "virtual", ("cni*",), (), False),
        ("cni0", "virtual", ("cni0",), (), True),  # spelt out: meant
        ("eth0", "down", ("eth0",), (), False),
        ("eth0", "enslaved", ("eth0",), (), False),
    ],
)
def test_patterns(name: str, reason: str, interfaces: tuple[str, ...], exclude: tuple[str, ...], taken: bool) -> None:
    assert matches(link(name), reason, interfaces, exclude) is taken


def test_a_dummy_is_never_taken() -> None:
    assert not matches(link("kube-ipvs0", kind="dummy"), "virtual", ("kube-ipvs0",), ())


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("10.0.0.1", {2}),
        ("10.0.1.1", {2, 3}),
        ("10.0.2.1", set()),
        ("2001:db8::1", {4}),
        ("2001:db9::1", set()),
        ("0.0.0.10", set()),
        ("::a00:1", set()),  # the same number as 10.0.0.1, in the other family
    ],
)
def test_connected_routes(address: str, where: set[int]) -> None:
    routes = Routes(
        [
            OnLink(2, ipaddress.ip_network("10.0.0.0/23")),
            OnLink(3, ipaddress.ip_network("10.0.1.0/24")),
            OnLink(4, ipaddress.ip_network("2001:db8::/32")),
        ]
    )
    assert routes.interfaces(packed(address)) == where
    assert Routes().interfaces(packed(address)) == frozenset()
