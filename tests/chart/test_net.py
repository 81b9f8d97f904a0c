"""The templates' address arithmetic against Python's `ipaddress`, on random input."""

from __future__ import annotations

import ipaddress
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import CHART, helm

SEED = 20
ENTRIES = 400

#: Calls the helpers for every entry of a list and prints what they say, one line each.
PROBE = """
probed:
{{- range .Values.entries }}
{{- $ends := splitList " " (include "metallb.net.bounds" .) }}
- [{{ index $ends 0 | quote }}, {{ index $ends 1 | quote }}, \
{{ include "metallb.net.shortestPrefix" (dict "low" (index $ends 0) "high" (index $ends 1)) }}, \
{{ include "metallb.net.text" (index $ends 0) | quote }}]
{{- end }}
"""


def spelling(rng: random.Random, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """One of the ways in which RFC 4291 section 2.2 lets the address be written."""
    if address.version == 4:
        return str(address)
    ways = [address.compressed, address.exploded, address.compressed.upper()]
    groups = address.exploded.split(":")
    ways.append(":".join(g.lstrip("0") or "0" for g in groups))
    tail = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    ways.append(":".join([*groups[:6], str(tail)]))
    return rng.choice(ways)


def entries() -> list[tuple[str, int, int, int]]:
    """(text, first, last, version), CIDRs with and without host bits, and ranges."""
    rng = random.Random(SEED)
    out = []
    for _ in range(ENTRIES):
        version = rng.choice([4, 6])
        bits = 32 if version == 4 else 128
        make: Any = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        # The upper half of IPv6: no IPv4-mapped addresses, which are another family.
        value = rng.getrandbits(bits) | (1 << 127 if version == 6 else 0)
        if rng.random() < 0.3:  # many zeros, for "::" in every place
            value &= rng.getrandbits(bits) & rng.getrandbits(bits) | (1 << 127 if version == 6 else 0)
        if rng.random() < 0.5:
            prefix = rng.randint(0, bits)
            size = 1 << (bits - prefix)
            first = value - value % size
            out.append((f"{spelling(rng, make(value))}/{prefix}", first, first + size - 1, version))
        else:
            other = min(max(value + rng.choice([0, 1, 2, 255, 256, rng.getrandbits(40)]), 0), (1 << bits) - 1)
            dash = rng.choice(["-", " - ", "- "])
            out.append((f"{spelling(rng, make(value))}{dash}{spelling(rng, make(other))}", value, other, version))
    return out


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    chart: Path = tmp_path_factory.mktemp("probe")
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text(json.dumps({"apiVersion": "v2", "name": "probe", "version": "0.1.0"}))
    shutil.copy(CHART / "templates" / "_net.tpl", chart / "templates")
    (chart / "templates" / "probe.yaml").write_text(PROBE)
    told = helm("template", "probe", chart, "-f", "-", stdin=yaml.safe_dump({"entries": [e[0] for e in entries()]}))
    assert told.returncode == 0, told.stderr
    found: list[list[Any]] = yaml.safe_load(told.stdout)["probed"]
    return found


def test_bounds(probed: list[list[Any]]) -> None:
    assert len(probed) == ENTRIES
    for (text, first, last, version), (low, high, *_) in zip(entries(), probed, strict=True):
        width = 8 if version == 4 else 32
        assert (low, high) == (f"{first:0{width}x}", f"{last:0{width}x}"), text


def test_largest_network_inside(probed: list[list[Any]]) -> None:
    for (text, first, last, version), (_, _, prefix, _) in zip(entries(), probed, strict=True):
        make: Any = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        networks = ipaddress.summarize_address_range(make(first), make(last))
        assert prefix == min(n.prefixlen for n in networks), text


def test_usual_text(probed: list[list[Any]]) -> None:
    for (text, first, _, version), (*_, usual) in zip(entries(), probed, strict=True):
        make: Any = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        assert usual == str(make(first)), text


def test_mapped_addresses_count_as_ipv4() -> None:
    values = {
        "configInline": {
            "address-pools": [
                {"name": "a", "protocol": "layer2", "addresses": ["192.0.2.0/24"]},
                {"name": "b", "protocol": "layer2", "addresses": ["::ffff:192.0.2.128/121"]},
            ]
        }
    }
    told = helm("template", "metallb", CHART, "-f", "-", stdin=yaml.safe_dump(values))
    assert told.returncode != 0
    assert 'address-pools[1].addresses[0]: "::ffff:192.0.2.128/121" overlaps with "192.0.2.0/24"' in told.stderr


def test_ten_thousand_ranges_are_checked_in_reasonable_time() -> None:
    """Sorting first makes it n log n; comparing each with each would take minutes."""
    addresses = [f"10.{i >> 8}.{i & 255}.0/25" for i in range(5000)] + [f"fd00:{i:x}::/64" for i in range(5000)]
    pools = [{"name": f"p{i}", "protocol": "layer2", "addresses": addresses[i::10]} for i in range(10)]
    values = {"configInline": {"address-pools": pools}}
    told = helm("template", "metallb", CHART, "-f", "-", stdin=yaml.safe_dump(values))
    assert told.returncode == 0, told.stderr
    pools[3]["addresses"] = [*addresses[3::10], "fd00:ff::/63"]
    told = helm("template", "metallb", CHART, "-f", "-", stdin=yaml.safe_dump(values))
    assert told.returncode != 0
    assert told.stderr.count(" overlaps with ") == 1
