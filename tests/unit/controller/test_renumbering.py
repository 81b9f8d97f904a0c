"""What docs/controller.md says about renumbering a pool without an outage, step by step."""

from __future__ import annotations

import pytest

from metallb_common.config.model import Pool
from metallb_controller.metrics import Metrics
from tests.unit.controller.make import config, pool, service, world

OLD = "192.0.2.0/29"
NEW = "198.51.100.0/29"
#: Step 2 of the document: the old range gives nothing any more; then step 4: it is gone.
WAYS: dict[str, tuple[tuple[Pool, ...], tuple[Pool, ...]]] = {
    "a pool of its own": (
        (pool("p", OLD, disabled=True), pool("new", NEW)),
        (pool("new", NEW),),
    ),
    "the same pool": (
        (pool("p", OLD, NEW, exclude=(OLD,)),),
        (pool("p", NEW),),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_pool_is_renumbered_one_service_at_a_time(way: str) -> None:
    beside, after = WAYS[way]
    made = world(pool("p", OLD))
    names = [f"s{i}" for i in range(3)]
    for i, name in enumerate(names):
        made.put(service(name, created=i))
    made.settle()
    before = {name: made.ips(name) for name in names}
    made.configure(*beside)
    made.settle()
    assert {name: made.ips(name) for name in names} == before, "step 2 moves nobody"
    assert not any("Warning" in say.type for _, say in made.events)
    made.put(service("fresh", created=9))
    made.settle()
    assert made.ips("fresh") == ("198.51.100.0",)
    for i, name in enumerate(names):
        in_the_way = [c.key for c in made.assigner.conflicts(config(*after))]
        assert in_the_way == [f"default/{n}" for n in names[i:]], "the end of it is refused, and says for whose sake"
        wish = {"pool": "new"} if way == "a pool of its own" else {"addresses": f"198.51.100.{i + 1}"}
        made.edit(f"default/{name}", annotations=service(**wish).annotations)  # type: ignore[arg-type]
        made.settle()
        assert made.ips(name) == (f"198.51.100.{i + 1}",)
        cleared = [t for t in made.said(name) if t.startswith("ClearAssignment")]
        assert not cleared, "from one address to the other in one write"
    assert made.assigner.conflicts(config(*after)) == []
    moved = {name: made.ips(name) for name in names}
    made.configure(*after)
    made.settle()
    assert {name: made.ips(name) for name in names} == moved


def test_a_pool_is_exhausted_only_when_it_has_nothing_to_give() -> None:
    """The alert fires when as many addresses are in use as there are: not because of those that move away."""
    made = world(pool("p", "192.0.2.0/30"))
    numbers = Metrics()
    numbers.assigner = lambda: made.assigner

    def shown() -> tuple[float, float]:
        text = numbers.registry.render().decode()
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if '{pool="p"}' in line)
        prefix = "metallb_allocator_addresses_"
        return float(lines[prefix + 'in_use_total{pool="p"}']), float(lines[prefix + 'total{pool="p"}'])

    for i in range(4):
        made.put(service(f"s{i}", created=i))
    made.settle()
    assert shown() == (4, 4)
    made.configure(pool("p", "192.0.2.0/30", "198.51.100.0/30", exclude=("192.0.2.0/30",)))
    made.settle()
    assert shown() == (4, 8)
    for i in range(4):
        made.put(service(f"t{i}", created=10 + i))
    made.settle()
    assert shown() == (8, 8), "now it is"
    made.remove("default/s0")
    made.settle()
    assert shown() == (7, 7), "nobody gets what it had"
    made.remove("default/t0")
    made.settle()
    assert shown() == (6, 7)
    made.configure(pool("p", "192.0.2.0/29", "198.51.100.0/30", avoid_buggy_ips=True))
    made.settle()
    assert shown() == (6, 10)
