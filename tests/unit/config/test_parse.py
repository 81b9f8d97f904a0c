"""What a document means, and what is said about it: one behaviour per test."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from metallb_common.config.model import BgpAdvertisement, Community, Config, Peer, Pool, ServiceAllocation
from metallb_common.config.parse import Parsed, from_config_map, parse
from metallb_common.config.structure import MAX_ERRORS
from metallb_common.net.ranges import AddressRange
from metallb_common.net.selectors import LabelSelector, Requirement
from tests.vectors.config_corpus import cases

TEXTS = {case.name: case.text for case in cases("accept")}


def good(text: str) -> Config:
    parsed = parse(text)
    assert parsed.errors == ()
    assert parsed.config is not None
    return parsed.config


def pool(text: str) -> Pool:
    return good(f"address-pools:\n- {{name: p, protocol: layer2, {text}}}\n").pools[0]


def peer(text: str = "") -> Peer:
    more = f", {text}" if text else ""
    return good(f"peers:\n- {{my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.1{more}}}\n").peers[0]


def test_what_is_quoted_makes_no_second_line_and_controls_no_terminal() -> None:
    told = parse('address-pools:\n- {name: p, protocol: "a\\nb\\e[31m\\u2028", "\\ex": 1, addresses: ["1.2.3.4\\t"]}\n')
    assert [error.reason.split(" in pool")[0] for error in told.errors] == [
        'unknown protocol "a\\nb\\u001b[31m\\u2028"',
        'could not parse config: unknown key "\\u001bx"',
        'invalid CIDR "1.2.3.4\\t"',
    ]
    assert told.errors[1].path == 'address-pools[0]["\\u001bx"]'


def test_pool_defaults() -> None:
    assert pool("addresses: [192.0.2.0/30]") == Pool(
        name="p", protocol="layer2", addresses=(AddressRange(4, 0xC0000200, 0xC0000203),)
    )


def test_bgp_pool_has_one_default_advertisement() -> None:
    found = good(TEXTS["bgp-simple"]).pools[0]
    assert found.bgp_advertisements == (BgpAdvertisement(),)


def test_peer_defaults() -> None:
    assert peer() == Peer(name="192.0.2.1", my_asn=64512, peer_asn=64513, peer_address=IPv4Address("192.0.2.1"))


def test_nulls_mean_defaults() -> None:
    config = good(TEXTS["nulls-mean-defaults"])
    assert config.peers == (peer(),)
    assert config.pools[0] == good(TEXTS["bgp-simple"]).pools[0]


def test_ranges_are_merged_and_sorted() -> None:
    found = pool("addresses: [192.0.2.8-192.0.2.11, 192.0.2.0/29, '2001:db8::/127']")
    assert list(map(str, found.addresses)) == ["192.0.2.0-192.0.2.11", "2001:db8::/127"]


def test_all_pool_options() -> None:
    found = good(TEXTS["all-pool-options"]).pools[0]
    assert (found.avoid_buggy_ips, found.auto_assign, found.disabled) == (True, False, True)
    assert list(map(str, found.exclude_addresses)) == ["192.0.2.1/32", "192.0.2.250-192.0.2.255"]
    assert found.service_allocation == ServiceAllocation(
        priority=10,
        namespaces=("web", "8080"),
        namespace_selectors=(LabelSelector((Requirement("team", "In", ("web",)),)),),
        service_selectors=(
            LabelSelector((Requirement("app", "In", ("a", "b")), Requirement("app.kubernetes.io/part-of", "Exists"))),
        ),
    )
    (layer2,) = found.l2_advertisements
    assert layer2.interfaces == ("eth0", "bond*", "en?")
    assert layer2.exclude_interfaces == ("eth0.100",)
    assert layer2.node_selectors == (LabelSelector((Requirement("kubernetes.io/hostname", "In", ("worker1",)),)),)
    assert layer2.service_selectors == (LabelSelector((Requirement("tier", "NotIn", ("internal",)),)),)


def test_all_peer_options() -> None:
    first, second, third = good(TEXTS["all-peer-options"]).peers
    assert first == Peer(
        name="rack1",
        my_asn=64512,
        peer_asn=4200000000,
        peer_address=IPv6Address("2001:db8::1"),
        peer_port=1179,
        source_address=IPv6Address("2001:db8::2"),
        hold_time=90,
        keepalive_time=30,
        connect_time=10,
        router_id=IPv4Address("192.0.2.2"),
        password_secret="bgp-rack1",
        password_secret_key="md5",
        node_selectors=(
            LabelSelector((Requirement("rack", "In", ("1",)),)),
            LabelSelector((Requirement("rack", "DoesNotExist"),)),
        ),
        bfd_profile="fast",
        ebgp_multihop=True,
        local_asn=65000,
        graceful_restart=True,
        graceful_restart_time=10,
        address_families=("ipv4", "ipv6"),
        listen=True,
    )
    assert (second.peer_asn, second.hold_time, second.keepalive_time) == ("internal", 0, 0)
    assert (second.password, second.graceful_restart, second.graceful_restart_time) == ("correct horse", True, 15)
    assert second.gtsm
    assert third.peer_asn == "external"


def test_all_advertisement_options() -> None:
    config = good(TEXTS["all-advertisement-options"])
    first, second = config.pools[0].bgp_advertisements
    assert first.communities == (
        Community((1234, 1)),
        Community((64512, 1, 2)),
        Community((64512, 3, 4)),
        Community((65535, 0)),
        Community((65535, 65282)),
    )
    assert first.peers == ("rack1", "192.0.2.2")
    assert first.service_selectors == (LabelSelector(),)
    assert (second.aggregation_length, second.aggregation_length_v6) == (24, 64)
    assert config.communities["tagged"] == Community((64512, 1, 2))


def test_bfd_profile_defaults() -> None:
    fast, defaults = good(TEXTS["all-peer-options"]).bfd_profiles
    assert fast.receive_interval_ms == 50
    assert (defaults.receive_interval_ms, defaults.detect_multiplier, defaults.minimum_ttl) == (300, 3, 254)


def test_unquoted_scalars_keep_their_source_text() -> None:
    assert [p.name for p in good(TEXTS["unquoted-text"]).pools] == ["0123", "yes", "1.10"]
    assert peer("password: 0123").password == "0123"
    assert peer("password: 2001-01-01").password == "2001-01-01"
    assert peer("bfd-profile: ''").bfd_profile == ""


@pytest.mark.parametrize(
    ("text", "asn"), [("64512", 64512), ("0xFC00", 64512), ("64_512", 64512), ("64512.0", 64512), ("010", 8)]
)
def test_whole_numbers(text: str, asn: int) -> None:
    """As 0.12 reads them; a leading zero is octal there."""
    assert good(f"peers: [{{my-asn: {text}, peer-asn: 1, peer-address: 192.0.2.1}}]").peers[0].my_asn == asn


def test_mapped_addresses_are_ipv4() -> None:
    assert good(TEXTS["mapped-v4"]).pools == good(TEXTS["layer2-simple"]).pools


@pytest.mark.parametrize(("hold", "keepalive"), [("3s", 1), ("10s", 3), ("90s", 30), ("0s", 0)])
def test_keepalive_is_a_third_of_the_hold_time(hold: str, keepalive: int) -> None:
    assert peer(f"hold-time: {hold}").keepalive_time == keepalive


def test_peers_without_a_name_are_told_apart() -> None:
    text = "".join(
        f"- {{my-asn: 1, peer-asn: 2, peer-address: '2001:db8::1', peer-port: {port}, router-id: 10.0.0.{i}}}\n"
        for i, port in enumerate((179, 180, 180, 181))
    )
    assert [p.name for p in good("peers:\n" + text).peers] == [
        "2001:db8::1",
        "[2001:db8::1]:180",
        "[2001:db8::1]:180#2",
        "[2001:db8::1]:181",
    ]


def test_made_name_avoids_given_one() -> None:
    text = """
    peers:
    - {my-asn: 1, peer-asn: 2, peer-address: 192.0.2.1}
    - {name: 192.0.2.1, my-asn: 1, peer-asn: 2, peer-address: 192.0.2.2}
    """
    assert [p.name for p in good(text).peers] == ["192.0.2.1:179", "192.0.2.1"]


def test_alias_goes_before_well_known_name() -> None:
    text = TEXTS["bgp-simple"] + "  bgp-advertisements: [{communities: [no-export]}]\n"
    assert good(text).pools[0].bgp_advertisements[0].communities == (Community((65535, 65281)),)
    aliased = good("bgp-communities: {no-export: '1:2'}\n" + text)
    assert aliased.pools[0].bgp_advertisements[0].communities == (Community((1, 2)),)


def test_merge_keys() -> None:
    one, two = good(TEXTS["anchors-and-merges"]).peers
    assert (two.my_asn, str(two.peer_address)) == (one.my_asn, "192.0.2.2")


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "{}", "~", "null", b"", b"\xef\xbb\xbf"])
def test_empty_is_valid_and_said(text: str | bytes) -> None:
    parsed = parse(text)
    assert parsed.config == Config()
    assert [w.reason for w in parsed.warnings] == ["the configuration is empty: no addresses are given out"]


def test_every_error_is_reported_at_once_with_its_position() -> None:
    text = """
address-pools:
- name: a
  protocol: arp
  addresses:
  - 192.0.2.1
  - 172.18.0.0/33
peers:
- my-asn: "64512"
  peer-asn: 1
  peer-address: here
"""
    found = [(e.path, e.line, e.column) for e in parse(text).errors]
    assert found == [
        ("address-pools[0].protocol", 4, 13),
        ("address-pools[0].addresses[0]", 6, 5),
        ("address-pools[0].addresses[1]", 7, 5),
        ("peers[0].my-asn", 9, 11),
        ("peers[0].peer-address", 11, 17),
    ]


def test_str_is_one_line() -> None:
    (error,) = parse("address-pools:\n- {name: a, protocol: layer2, addresses: [192.0.2.1]}\n").errors
    assert str(error) == (
        'line 2: address-pools[0].addresses[0]: invalid CIDR "192.0.2.1" in pool "a": an address without a prefix '
        "length (write 192.0.2.1/32; a CIDR such as 192.0.2.0/24, one address such as 192.0.2.1/32, or a range such as "
        "192.0.2.10-192.0.2.20)"
    )


def test_errors_of_a_hopeless_document_are_bounded() -> None:
    parsed = parse("address-pools:\n" + "- x\n" * 5000)
    assert len(parsed.errors) == MAX_ERRORS + 1
    assert "the rest was not looked at" in parsed.errors[-1].reason


def test_second_document_is_warned_about() -> None:
    parsed = parse("address-pools: []\n---\npeers: []\n---\n: : [\n")
    assert parsed.config == Config()
    assert [(w.line, w.reason) for w in parsed.warnings] == [
        (2, "only the first YAML document is read: from here on nothing has any effect")
    ]


def test_later_syntax_error_is_a_warning() -> None:
    parsed = parse("address-pools: []\n---\n: : [\n")
    assert parsed.config == Config()
    assert parsed.warnings[0].reason.startswith("only the first YAML document is read")


def test_config_map_key() -> None:
    text = TEXTS["layer2-simple"]
    assert from_config_map({"config": text}) == parse(text)
    for key in ("config.yaml", "config.yml", "other"):
        parsed = from_config_map({key: text})
        assert parsed.config == Config()
        assert parsed.errors == ()
        assert parsed.warnings[0].fix == f"only the key 'config' is read, not '{key}': rename it"
    assert from_config_map({}).warnings[0].fix == "put the configuration under the key 'config'"


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\xff",
        b"address-pools: \xff",
        "a: \ud800",
        "\x00",
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 100_000,
        "&a [*a]",
        "peers: &a [*a, *a]",
        "a: &a {<<: *a}",
        "? {a: b}\n: c",
        "*unknown",
        "- !!binary x",
        "my-asn: " + "9" * 100_000,
        "peers: [{my-asn: .inf, peer-asn: .nan, peer-address: 1}]",
        "peers: [{my-asn: 1, peer-asn: 2, peer-address: 192.0.2.1, hold-time: " + "9" * 5000 + "h}]",
    ],
)
def test_hostile_input_is_refused(text: str | bytes) -> None:
    parsed = parse(text)
    assert isinstance(parsed, Parsed)
    assert parsed.config is None
    assert parsed.errors


def test_aliases_cannot_grow_without_bound() -> None:
    """A text of a few hundred bytes stands for a tree of 10^9 nodes."""
    text = (
        "peers:\n- my-asn: 1\n  peer-asn: 2\n  peer-address: 192.0.2.1\n  node-selectors: &s\n"
        "  - match-expressions: &e\n    - &o {key: a, operator: In, values: ["
        + ",".join("x" * 1000)
        + "]}\n"
        + "    - *o\n" * 1000
        + "  - match-expressions: *e\n" * 1000
    )
    (error,) = parse(text).errors
    assert error.reason == "could not parse config: it is too large"


def test_merges_cannot_grow_without_bound() -> None:
    keys = ", ".join(f"k{i}: 1" for i in range(1000))
    text = f"a: &a {{{keys}}}\n" + "".join(f"b{i}: {{<<: *a}}\n" for i in range(1000))
    (error,) = parse(text).errors
    assert "excessive merging" in error.reason
