"""Properties of the configuration: any input is judged, and every rule agrees with a second opinion."""

from __future__ import annotations

import ipaddress
import json
import re
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import yaml
from hypothesis import assume, example, given, settings
from jsonschema import Draft7Validator

from metallb_common.config.addresses import Refusal, parse_address, parse_range
from metallb_common.config.communities import parse_community
from metallb_common.config.compose import compose
from metallb_common.config.durations import format_duration, parse_duration
from metallb_common.config.normal import normalise
from metallb_common.config.parse import Parsed, parse, parse_node
from metallb_common.config.structure import schema
from metallb_common.net.ranges import AddressRange, to_address
from tests.conftest import ROOT
from tests.vectors.config_corpus import cases

CORPUS = [case.text for kind in ("accept", "reject") for case in cases(kind)]
CHART = json.loads((ROOT / "chart/values.schema.json").read_text("utf-8"))
DEFINITIONS = CHART["definitions"]


def by_helm(definition: str, value: Any) -> bool:
    """Whether the chart's schema accepts a value, by a general validator."""
    found = {**DEFINITIONS[definition], "definitions": DEFINITIONS}
    return Draft7Validator(found).is_valid(value)


def judged(parsed: Parsed) -> None:
    assert (parsed.config is None) == bool(parsed.errors)
    for error in (*parsed.errors, *parsed.warnings):
        assert error.reason
        assert str(error).isprintable(), "one line, and nothing that a terminal would do"


# --- any input -------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    judged(parse(data))


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    judged(parse(text))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A document of the corpus with lines dropped, swapped, repeated, or characters put in."""
    lines = draw(st.sampled_from(CORPUS)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                lines[i] = ""
            case 1:
                lines.insert(i, draw(st.sampled_from(lines)))
            case 2:
                lines[i] = " " * draw(st.integers(0, 4)) + lines[i].strip()
            case 3:
                at = draw(st.integers(0, len(lines[i])))
                lines[i] = lines[i][:at] + draw(st.text("-:{}[]&*!|>'\"%@`,#? \t0x~\x00é", max_size=3)) + lines[i][at:]
            case 4:
                lines[i] = lines[i].replace(draw(st.sampled_from(["a", "1", ":", "-", "2"])), "", 1)
    return "\n".join(lines) + "\n"


@settings(max_examples=400)
@given(mutated())
def test_mutated_documents(text: str) -> None:
    parsed = parse(text)
    judged(parsed)
    if parsed.config is not None:
        json.dumps(normalise(parsed.config))


JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70000)
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(["192.0.2.0/24", "layer2", "bgp", "In", "90s", "64512:1", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(sorted({k for d in schema()["definitions"].values() for k in d.get("properties", ())})),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(sorted(schema()["properties"])), JSONISH, max_size=4))
def test_what_the_parser_accepts_the_schema_accepts(document: dict[str, Any]) -> None:
    """The walk over nodes and a general validator over data, on the same schema.

    JSON is YAML, and leaves no room for re-typing. The parser knows rules that the schema does not:
    so what it accepts is valid, and what is invalid it refuses.
    """
    documents, failure = compose(json.dumps(document, ensure_ascii=False))
    assume(failure is None)  # YAML forbids some characters that JSON allows
    assert documents[0].root is not None
    parsed = parse_node(documents[0].root, helm=True)
    judged(parsed)
    if parsed.config is not None:
        assert by_helm("config", document)


@st.composite
def valid_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Documents whose every value is right on its own."""
    count = draw(st.integers(0, 4))
    pools = []
    for i in range(count):
        protocol = draw(st.sampled_from(["layer2", "bgp"]))
        pool: dict[str, Any] = {
            "name": f"p{i}",
            "protocol": protocol,
            "addresses": [f"10.{i}.0.0/16", f"2001:db8:{i}::/64"],
        }
        if draw(st.booleans()):
            pool["auto-assign"] = draw(st.booleans())
        if protocol == "bgp" and draw(st.booleans()):
            pool["bgp-advertisements"] = [
                {
                    "aggregation-length": draw(st.integers(16, 32)),
                    "aggregation-length-v6": draw(st.integers(64, 128)),
                    "localpref": draw(st.integers(0, 2**32 - 1)),
                    "communities": draw(st.lists(st.sampled_from(["1:2", "no-export", "large:1:2:3"]), unique=True)),
                }
            ]
        pools.append(pool)
    hold = draw(st.integers(3, 65535))
    peers = [
        {
            "my-asn": draw(st.integers(1, 2**32 - 1)),
            "peer-asn": draw(st.sampled_from(["internal", "external"]) | st.integers(1, 2**32 - 1)),
            "peer-address": f"192.0.2.{i}",
            "hold-time": f"{hold}s",
            "keepalive-time": f"{draw(st.integers(1, hold))}s",
        }
        for i in range(draw(st.integers(0, 3)))
    ]
    return {"address-pools": pools, "peers": peers}


@given(valid_documents())
def test_valid_documents_are_accepted_by_both(document: dict[str, Any]) -> None:
    assert by_helm("config", document)
    for text in (json.dumps(document), yaml.safe_dump(document)):
        parsed = parse(text)
        assert parsed.errors == ()
        assert parsed.config is not None
        assert [p.name for p in parsed.config.pools] == [p["name"] for p in document["address-pools"]]
        assert [p.my_asn for p in parsed.config.peers] == [p["my-asn"] for p in document["peers"]]


# --- addresses --------------------------------------------------------------------------------------

V4 = st.integers(0, 2**32 - 1)
V6 = st.integers(0, 2**128 - 1)
TEXTS = st.text("0123456789abcdefABCDEF:./- ", max_size=24)


@given(st.one_of(st.tuples(st.just(4), V4, V4), st.tuples(st.just(6), V6, V6)))
def test_ranges_round_trip(drawn: tuple[Any, int, int]) -> None:
    version, one, two = drawn
    low, high = sorted((one, two))
    if version == 6 and (low >> 32 == 0xFFFF or high >> 32 == 0xFFFF):
        return  # IPv4-mapped: taken as IPv4
    written = f"{to_address(version, low)}-{to_address(version, high)}"
    found, _ = parse_range(written)
    assert found == AddressRange(version, low, high)
    networks = list(found.networks())
    assert sum(n.num_addresses for n in networks) == found.size
    assert parse_range(str(found))[0] == found
    assert by_helm("configAddressRange", written)


@given(TEXTS)
@example("192.0.2.0/024")
@example("::ffff:1.2.3.4/128")
@example("1:2:3:4:5:6:7::/64")
@example("::2:3:4:5:6:7:8-::2:3:4:5:6:7:9")
@example("1::1.2.3.4/128")
@example("::1:2:3:4:5:1.2.3.4/128")
def test_schema_and_parser_agree_on_ranges(text: str) -> None:
    """The pattern says nothing about order and families: what it refuses, the parser refuses too, and
    what it accepts, the parser refuses for these reasons only."""
    by_pattern = by_helm("configAddressRange", text)
    why = ""
    try:
        parse_range(text)
    except Refusal as refusal:
        why = refusal.reason
    if by_pattern:
        assert not why or re.search("is after the end IP|it mixes|prefix length of an IPv4 CIDR", why)
    else:
        assert why


def reference_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


@given(TEXTS | V6.map(lambda n: str(ipaddress.IPv6Address(n))) | V6.map(lambda n: ipaddress.IPv6Address(n).exploded))
@example("::")
@example("1:2:3:4:5:6:7:8")
@example("1:2:3:4:5:6:1.2.3.4")
@example("1::2::3")
@example("1:2:3:4:5:6:7:8:9")
@example("1.2.3")
@example("01.2.3.4")
@example("256.1.1.1")
def test_schema_and_parser_agree_on_addresses(text: str) -> None:
    try:
        parse_address(text)
        accepted = True
    except Refusal:
        accepted = False
    assert accepted == by_helm("configAddress", text) == reference_address(text)


def naive_overlap(entries: list[tuple[int, int]]) -> bool:
    return any(a[0] <= b[1] and b[0] <= a[1] for i, a in enumerate(entries) for b in entries[:i])


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), min_size=1, max_size=8))
def test_overlap_as_the_naive_check_says(drawn: list[tuple[int, int]]) -> None:
    entries = [(low, low + size) for low, size in drawn]
    text = "address-pools:\n" + "".join(
        f"- {{name: p{i}, protocol: layer2, addresses: [192.0.2.{low}-192.0.2.{high}]}}\n"
        for i, (low, high) in enumerate(entries)
    )
    parsed = parse(text)
    assert bool(parsed.errors) == naive_overlap(entries)
    for error in parsed.errors:
        assert "overlaps with already defined CIDR" in error.reason


# --- durations, communities ------------------------------------------------------------------------

UNIT = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
PART = st.tuples(st.integers(0, 10**6), st.none() | st.text("0123456789", max_size=6), st.sampled_from(sorted(UNIT)))


@given(st.lists(PART, min_size=1, max_size=4), st.sampled_from(["", "+", "-"]))
def test_durations_as_go_reads_them(parts: list[tuple[int, str | None, str]], sign: str) -> None:
    text = sign + "".join(f"{whole}{'' if part is None else '.' + part}{unit}" for whole, part, unit in parts)
    exact = sum(
        whole * UNIT[unit] + int(Fraction(int(part), 10 ** len(part)) * UNIT[unit] if part else 0)
        for whole, part, unit in parts
    )
    assert parse_duration(text) == (-exact if sign == "-" else exact)
    if sign != "-":
        assert by_helm("configDuration", text)


@given(st.text("0123456789.nsumhµ+- ", max_size=8))
@example("0")
@example(".5s")
@example("5.s")
@example(".s")
@example("")
@example("1h30")
@example("+0")
def test_schema_and_parser_agree_on_durations(text: str) -> None:
    try:
        accepted = parse_duration(text) >= 0 and not text.startswith("-")
    except ValueError:
        accepted = text == ""  # the schema lets it mean the default
    assert accepted == by_helm("configDuration", text)


@given(st.integers(0, 10**14))
def test_durations_round_trip(nanoseconds: int) -> None:
    whole = nanoseconds - nanoseconds % 10**9
    assert parse_duration(format_duration(whole)) == whole
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.text("0123456789:large", max_size=14) | st.tuples(V4, V4, V4).map(lambda p: f"large:{p[0]}:{p[1]}:{p[2]}"))
@example("65535:65535")
@example("65536:0")
@example("0:65536")
@example("large:4294967295:0:1")
@example("large:4294967296:0:1")
@example("no-export")
@example("1:2:3")
def test_schema_and_parser_agree_on_communities(text: str) -> None:
    try:
        accepted = parse_community(text) is not None
    except ValueError:
        accepted = False
    assert accepted == by_helm("configCommunity", text)
    if accepted:
        assert parse_community(str(parse_community(text))) == parse_community(text)
