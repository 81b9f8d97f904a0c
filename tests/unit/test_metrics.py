"""The metrics text, read back with Prometheus' own client library."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from metallb_common.obs import metrics


def read(registry: metrics.Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(registry.render().decode())
        for sample in family.samples
    }


def test_names_are_exactly_as_given() -> None:
    registry = metrics.Registry(process=False)
    requests = registry.counter("metallb_layer2_requests_received", "Requests", ("ip",))
    requests.inc("192.0.2.1")
    requests.inc("192.0.2.1", by=2)
    registry.gauge(*metrics.CONFIG_LOADED).set(1)
    assert registry.render().decode().splitlines() == [
        "# HELP metallb_layer2_requests_received Requests",
        "# TYPE metallb_layer2_requests_received counter",
        'metallb_layer2_requests_received{ip="192.0.2.1"} 3',
        "# HELP metallb_k8s_client_config_loaded_bool "
        "1 if the MetalLB configuration was successfully loaded at least once.",
        "# TYPE metallb_k8s_client_config_loaded_bool gauge",
        "metallb_k8s_client_config_loaded_bool 1",
    ]


def test_series_are_removed() -> None:
    registry = metrics.Registry(process=False)
    gauge = registry.gauge("g", "G", ("a", "b"))
    for n in range(4):
        gauge.set(n, str(n), "x")
    gauge.remove("0", "x")
    gauge.remove("never", "x")
    gauge.keep([("2", "x"), ("3", "x"), ("9", "x")])
    assert read(registry) == {("g", (("a", "2"), ("b", "x"))): 2.0, ("g", (("a", "3"), ("b", "x"))): 3.0}


def test_mistakes_are_refused() -> None:
    registry = metrics.Registry(process=False)
    gauge = registry.gauge("g", "G", ("a",))
    with pytest.raises(ValueError, match="exists already"):
        registry.counter("g", "again")
    with pytest.raises(ValueError, match="labels"):
        gauge.set(1, "x", "y")


@given(st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=5), st.text(max_size=20))
def test_any_label_and_value_comes_back(series: dict[str, float], help: str) -> None:
    registry = metrics.Registry(process=False)
    # The text format's line separator is "\n" alone; the client's parser splits on it alone, too.
    gauge = registry.gauge("g", help, ("label",))
    for label, value in series.items():
        gauge.set(value, label)
    assert read(registry) == {("g", (("label", label),)): value for label, value in series.items()}


def test_process_and_interpreter() -> None:
    values = read(metrics.Registry())
    assert values["process_resident_memory_bytes", ()] > 1 << 20
    assert values["process_open_fds", ()] >= 3
    assert values["python_gc_collections_total", (("generation", "0"),)] >= 0
    assert 1.7e9 < values["process_start_time_seconds", ()] < math.inf


def test_large_pages_come_in_slices() -> None:
    registry = metrics.Registry(process=False)
    gauge = registry.gauge("g", "G", ("n",))
    for n in range(5000):
        gauge.set(n, str(n))
    chunks = list(registry.chunks())
    assert max(map(len, chunks)) < 8192
    assert len(read(registry)) == 5000


def test_a_family_may_come_in_parts() -> None:
    registry = metrics.Registry(process=False)
    parts = [metrics.Family("c", "C", "counter", ("n",), {(str(i),): 1.0}, more=i > 0) for i in range(3)]
    registry.collector(lambda: parts)
    assert registry.render().decode().count("# TYPE") == 1
    assert len(read(registry)) == 3
