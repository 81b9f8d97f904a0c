"""The pure controller against naive models: random histories, one answer, nobody robbed.

`Histories` drives the whole pure half (adoption, plans, waking, config judgement) as a world of Services
would, with restarts and lost writes.
"""

from __future__ import annotations

import ipaddress
from itertools import combinations, count
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metallb_common.config.model import Pool, ServiceAllocation
from metallb_common.kube.views import PREFIXES, Service
from metallb_common.net.ranges import Address
from metallb_common.net.selectors import LabelSelector, Requirement
from metallb_common.obs import logs
from metallb_controller.allocator import Refusal, Wish
from metallb_controller.plan import status_addresses
from metallb_controller.wishes import Rules, families, wish
from tests.unit.controller.make import World, config, pool, service

PROD = LabelSelector((Requirement("env", "In", ("prod",)),))
NOT_PROD = LabelSelector((Requirement("env", "NotIn", ("prod",)),))
WEB = LabelSelector((Requirement("tier", "NotIn", ("batch",)),))
B = "198.51.100.254-198.51.101.0"
CONFIGS: tuple[tuple[Pool, ...], ...] = (
    (pool("a", "192.0.2.0/31"), pool("b", "2001:db8::/127", B, avoid_buggy_ips=True)),
    (pool("a", "192.0.2.0/30", exclude=("192.0.2.1/32", "192.0.2.3/32")), pool("b", "2001:db8::/127", B)),
    (pool("z", "192.0.2.0/30", priority=1), pool("b", "2001:db8::/126", B)),
    (pool("a", "192.0.2.0/31", disabled=True), pool("b", "2001:db8::/126", B)),
    (pool("a", "192.0.2.0/32"), pool("c", "192.0.2.1/32", auto_assign=False), pool("b", "2001:db8::/127")),
    (
        pool(
            "a", "192.0.2.0/31", allocation=ServiceAllocation(2, namespaces=("dev",), namespace_selectors=(NOT_PROD,))
        ),
        pool("b", "2001:db8::/126", B, allocation=ServiceAllocation(1, service_selectors=(WEB,))),
        pool("d", "192.0.2.2/31", "203.0.113.0/31", allocation=ServiceAllocation(namespace_selectors=(PROD,))),
    ),
    (
        pool("a", "192.0.2.0/31", protocol="bgp"),
        pool("b", "2001:db8::/126", protocol="bgp", auto_assign=False),
        pool("d", "192.0.2.2/31", B, "2001:db8:1::/127", priority=5),
    ),
    (pool("other", "203.0.113.0/29"),),
)

PICK = st.integers(0, 6)
THEN = st.sampled_from([True, True, False])
FAMILIES = st.sampled_from(
    [("4", "SingleStack"), ("6", "SingleStack"), ("46", "PreferDualStack"), ("64", "RequireDualStack")]
)
PORTS = st.sampled_from([("TCP/80",), ("UDP/80",), ("TCP/443",), ("TCP/1",), ("TCP/80", "TCP/443")])
KEYS = st.sampled_from(["", "k", "k", "l"])
POOLS = st.sampled_from(["", "", "", "a", "b", "nowhere"])
WISHES = st.sampled_from(["", "", "192.0.2.0", "192.0.2.1", "2001:db8::1", "2001:db8::, 198.51.100.254"])
OTHER = st.sampled_from(["", "", "", "k", "l"])
NAMESPACES = st.sampled_from(["default", "default", "dev", "shop"])
TIERS = st.sampled_from(["web", "web", "batch"])
LABELS = st.sampled_from([None, {}, {"env": "prod"}, {"env": "test"}])
TRAFFIC = st.sampled_from(["Cluster", "Cluster", "Local"])


def naive_addresses(p: Pool, version: int) -> list[Address]:
    """Every address that a pool may give, by looking at each."""
    out: list[Address] = []
    for r in p.addresses:
        if r.version != version:
            continue
        for value in range(r.first, r.last + 1):
            address = ipaddress.ip_address(value) if version == 6 else ipaddress.IPv4Address(value)
            buggy = p.avoid_buggy_ips and version == 4 and value % 256 in (0, 255)
            if not buggy and not any(address in hole for hole in p.exclude_addresses):
                out.append(address)
    return sorted(out, key=int)


def sharing_keys(view: Service) -> set[str]:
    """What a Service says under either prefix."""
    said = (view.annotations.get(prefix + "allow-shared-ip", "") for prefix in PREFIXES)
    return {key for key in said if key}


def contradicts_itself(view: Service) -> bool:
    return len(sharing_keys(view)) > 1


def some_services(machine: Histories) -> bool:
    return bool(machine.world.objects)


class Histories(RuleBasedStateMachine):
    """Services come, change and go; configs and labels change; writes get lost; controllers restart."""

    @initialize(which=st.integers(0, 6), watched=st.booleans())
    def begin(self, which: int, watched: bool) -> None:
        self.world = World()
        self.labels: dict[str, dict[str, str]] | None = {"default": {}} if watched else None
        self._tell_labels()
        self.world.sync()
        self.world.configure(*CONFIGS[which])
        self.clock = count(1)
        self.entitled: set[tuple[str, str, str]] = set()
        self.before: dict[str, tuple[str, ...]] = {}

    def _tell_labels(self) -> None:
        if self.labels is not None:
            self.world.assigner.set_namespaces(dict(self.labels))

    def _restart(self) -> None:
        """A new process, which has seen the labels before it decides anything."""
        self.world.restart()
        self._tell_labels()

    def _wish(self, view: Service) -> Wish:
        return wish(view, None if self.labels is None else self.labels.get(view.namespace))

    @rule(
        family=FAMILIES,
        ports=PORTS,
        share=KEYS,
        pool=POOLS,
        addresses=WISHES,
        traffic=TRAFFIC,
        namespace=NAMESPACES,
        tier=TIERS,
        then=THEN,
    )
    def create(
        self,
        family: tuple[str, str],
        ports: tuple[str, ...],
        share: str,
        pool: str,
        addresses: str,
        traffic: str,
        namespace: str,
        tier: str,
        then: bool,
    ) -> None:
        if len(self.world.objects) >= 7:
            return
        number = next(self.clock)
        self.world.put(
            service(
                f"s{number}",
                namespace=namespace,
                labels={"tier": tier},
                families=family[0],
                policy=family[1],
                ports=ports,
                share=share,
                pool=pool,
                addresses=addresses,
                external_traffic_policy=traffic,
                created=number,
            )
        )
        self._perhaps_settle(then)

    def _one_of(self, pick: int) -> str:
        return sorted(self.world.objects)[pick % len(self.world.objects)]

    def _perhaps_settle(self, then: bool) -> None:
        if then:
            self.settle()

    @precondition(some_services)
    @rule(pick=PICK, share=KEYS, other=OTHER, pool=POOLS, addresses=WISHES, then=THEN)
    def annotate(self, pick: int, share: str, other: str, pool: str, addresses: str, then: bool) -> None:
        """With `other` the sharing key is there under both prefixes, equal or not."""
        key = self._one_of(pick)
        asked = service(share=share, pool=pool, addresses=addresses).annotations
        asked = {**asked, "metallb.io/allow-shared-ip": other} if other else asked
        ours = {k: v for k, v in self.world.objects[key].annotations.items() if k.endswith("from-pool")}
        self.world.edit(key, annotations={**asked, **ours})
        self._perhaps_settle(then)

    @precondition(some_services)
    @rule(pick=PICK, ports=PORTS, traffic=TRAFFIC, then=THEN)
    def respec(self, pick: int, ports: tuple[str, ...], traffic: str, then: bool) -> None:
        self.world.edit(self._one_of(pick), ports=service(ports=ports).ports, external_traffic_policy=traffic)
        self._perhaps_settle(then)

    @precondition(some_services)
    @rule(pick=PICK, family=FAMILIES, tier=TIERS, then=THEN)
    def refamily(self, pick: int, family: tuple[str, str], tier: str, then: bool) -> None:
        """One family more or fewer, or another primary one; other labels."""
        cluster_ips = service(families=family[0]).cluster_ips
        changes = {"cluster_ips": cluster_ips, "ip_family_policy": family[1], "labels": {"tier": tier}}
        self.world.edit(self._one_of(pick), **changes)
        self._perhaps_settle(then)

    @rule(namespace=NAMESPACES, labels=LABELS, then=THEN)
    def relabel(self, namespace: str, labels: dict[str, str] | None, then: bool) -> None:
        """The labels of a namespace come, change, or go, if they are watched."""
        if self.labels is None:
            return
        self.labels.pop(namespace, None)
        if labels is not None:
            self.labels[namespace] = labels
        self._tell_labels()
        self._perhaps_settle(then)

    @precondition(some_services)
    @rule(pick=PICK, then=THEN)
    def delete(self, pick: int, then: bool) -> None:
        key = self._one_of(pick)
        self.world.remove(key)
        self.before.pop(key, None)
        self._perhaps_settle(then)

    @precondition(some_services)
    @rule(pick=PICK, kind=st.sampled_from(["ClusterIP", "LoadBalancer"]), then=THEN)
    def retype(self, pick: int, kind: str, then: bool) -> None:
        key = self._one_of(pick)
        self.world.edit(key, type=kind)
        self.before.pop(key, None)
        self._perhaps_settle(then)

    @rule(which=st.integers(0, len(CONFIGS) - 1))
    def reconfigure(self, which: int) -> None:
        """Refused when it orphans an address in use, as the controller does."""
        new = config(*CONFIGS[which])
        refused = self.world.assigner.conflicts(new)
        naive = {
            (key, str(a))
            for key, held in self.world.assigner.allocator.held.items()
            for a in held.addresses
            if not any(p.contains(a) for p in new.pools)
        }
        assert {(c.key, str(c.address)) for c in refused} == naive
        if not refused:
            self.world.configure(*CONFIGS[which])

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self._judge_moves()

    @rule()
    def lose_writes_and_restart(self) -> None:
        """Killed between deciding and writing: what was not written was never given."""
        while self.world.assigner.busy:
            self.world.assigner.reconcile(3)
        contested = self._contested()
        self.before = {key: tuple(ip for ip in ips if (key, ip) not in contested) for key, ips in self.before.items()}
        self._restart()

    @rule()
    def restart(self) -> None:
        self.world.settle()
        self._judge_moves()
        shown = {k: v.ingress_ips for k, v in self.world.objects.items()}
        contested = self._contested()
        self._restart()
        self.world.settle()
        for key, ips in shown.items():
            now = self.world.objects[key].ingress_ips
            if not contested:
                assert now == ips, "a restart moved an address"
            # Two owners became one: an older wish that this made possible may be met, and nothing else moves.
            for old in set(ips) - set(now):
                assert (key, old) in contested or self._asked_for_it(key), "a restart moved an address"
        self._remember()

    def _contested(self) -> set[tuple[str, str]]:
        """What younger sharers whose keys were edited apart hold: the one case that a restart resolves.

        Who says two keys is apart only from those that say neither.
        """
        out: set[tuple[str, str]] = set()
        order = sorted(self.world.objects.values(), key=lambda v: (v.created, v.key))
        for older, younger in combinations(order, 2):
            if not sharing_keys(older) & sharing_keys(younger):
                out |= {(younger.key, ip) for ip in set(older.ingress_ips) & set(younger.ingress_ips)}
        return out

    def _asked_for_it(self, key: str) -> bool:
        """Whether the Service has an address, or a pool, that it asks for."""
        view = self.world.objects[key]
        held = self.world.assigner.allocator.held.get(key)
        if contradicts_itself(view):
            return False
        asked = self._wish(view)
        return bool(set(map(str, asked.requested)) & set(view.ingress_ips) or (held and asked.pool in held.pools))

    def _judge_moves(self) -> None:
        """An address is left only for one that was asked for, or when its family is gone."""
        for key, ips in self.before.items():
            view = self.world.objects.get(key)
            if view is None or not ips or view.type != "LoadBalancer":
                continue
            for old in set(ips) - set(view.ingress_ips):
                version = ipaddress.ip_address(old).version
                if version not in families(view):
                    continue
                there = version in {a.version for a in status_addresses(view)}
                assert there, f"{key} lost {old} and got none of its family: {view.ingress_ips}"
                met = self._asked_for_it(key)
                assert met, f"{key} moved from {old} to {view.ingress_ips} and did not ask for it"
        self._remember()

    def _remember(self) -> None:
        self.before = {k: v.ingress_ips for k, v in self.world.objects.items()}

    @invariant()
    def no_two_owners_without_a_reason(self) -> None:
        if not hasattr(self, "world"):
            return
        held = self.world.assigner.allocator.held
        objects = self.world.objects
        present = {  # also what only the statuses say: a restart goes by them
            (a, b, address)
            for a, b in combinations(sorted(objects), 2)
            for address in set(objects[a].ingress_ips) & set(objects[b].ingress_ips)
        }
        for a, b in combinations(sorted(held), 2):
            for address in set(held[a].addresses) & set(held[b].addresses):
                present.add((a, b, str(address)))
                if (a, b, str(address)) in self.entitled:
                    continue  # they share since before; edits since then take nothing away
                assert held[a].wanted == held[b].wanted
                assert held[a].wanted[0]
                assert not set(held[a].ports) & set(held[b].ports)
        self.entitled = present

    @invariant()
    def every_address_is_in_a_pool_and_counted(self) -> None:
        if not hasattr(self, "world"):
            return
        allocator = self.world.assigner.allocator
        taken: dict[str, set[Address]] = {}
        for held in allocator.held.values():
            for address, name in zip(held.addresses, held.pools, strict=True):
                p = allocator.table.by_name[name].pool
                assert p.contains(address)
                taken.setdefault(name, set()).add(address)
        for name, space in allocator.table.by_name.items():
            assert allocator.in_use(name) == len(taken.get(name, set()))
            gives = {a for version in (4, 6) for a in naive_addresses(space.pool, version)}
            assert allocator.total(name) == len(gives | taken.get(name, set()))
            for version, one in space.spaces.items():
                free = [a for a in naive_addresses(space.pool, version) if a not in taken.get(name, set())]
                assert one.free.size == len(free)
                assert one.lowest() == (free[0] if free else None)

    @rule()
    def nobody_waits_in_vain(self) -> None:
        """After settling, what is shown is what is held, and no waiting wish could be met."""
        self.settle()
        allocator = self.world.assigner.allocator
        for key, view in self.world.objects.items():
            held = allocator.held.get(key)
            assert set(status_addresses(view)) == set(held.addresses if held else ())
            if held and contradicts_itself(view):
                assert (held.ports, held.wanted[0]) == (view.ports, "")
                assert {key for key, _ in held.either} == sharing_keys(view)
            elif held:
                asked = self._wish(view)
                assert (held.ports, held.wanted, held.either) == (asked.ports, asked.keys, ())
        for key in self.world.assigner.waiting:
            if key not in allocator.held:
                found = allocator.find(self._wish(self.world.objects[key]))
                assert isinstance(found, Refusal), f"{key} waits for what is there"


#: Shrinking a history takes minutes. A failure prints its steps and a line to reproduce it: to make it
#: shorter, add that line and `Phase.shrink`.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=50, deadline=None, phases=PHASES)


#: The same rules for the bulk: Hypothesis finds the odd ones, this goes on for longer.
BULK: dict[str, dict[str, list[object]]] = {
    "create": {
        "family": [("4", "SingleStack"), ("4", "SingleStack"), ("46", "PreferDualStack"), ("64", "RequireDualStack")],
        "ports": [("TCP/80",), ("UDP/80",), ("TCP/443",), ("TCP/1",)],
        "share": ["", "k", "k", "l"],
        "pool": ["", "", "", "a", "b", "nowhere"],
        "addresses": ["", "", "", "192.0.2.0", "192.0.2.1", "2001:db8::1", "2001:db8::, 198.51.100.254"],
        "traffic": ["Cluster", "Cluster", "Local"],
        "namespace": ["default", "default", "dev", "shop"],
        "tier": ["web", "web", "batch"],
    },
    "annotate": {
        "share": ["", "k", "l"],
        "other": ["", "", "", "k", "l"],
        "pool": ["", "", "a", "c"],
        "addresses": ["", "", "192.0.2.1", "2001:db8::1", "198.51.100.255"],
    },
    "respec": {"ports": [("TCP/80",), ("UDP/80",), ("TCP/1",)], "traffic": ["Cluster", "Local"]},
    "refamily": {
        "family": [("4", "SingleStack"), ("6", "SingleStack"), ("46", "PreferDualStack"), ("64", "RequireDualStack")],
        "tier": ["web", "batch"],
    },
    "relabel": {"namespace": ["default", "dev", "shop"], "labels": [None, {}, {"env": "prod"}, {"env": "test"}]},
    "delete": {},
    "retype": {"kind": ["ClusterIP", "LoadBalancer", "LoadBalancer"]},
    "reconfigure": {"which": list(range(len(CONFIGS)))},
    "lose_writes_and_restart": {},
    "restart": {},
    "nobody_waits_in_vain": {},
}
WEIGHTS = [8, 4, 2, 1, 2, 4, 1, 2, 1, 1, 2]


STEPS = 100


@pytest.mark.parametrize("block", range(8))
def test_long_histories(block: int) -> None:
    walk(range(block * 50, block * 50 + 50))


@pytest.mark.accept
def test_thousands_of_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make accept` goes on where `make test` stops."""
    monkeypatch.setattr(logs, "_write", lambda level, fields: None)  # some hundred thousand lines
    seeds = range(400, 5400)
    walk(seeds)
    print(f"\nallocator: {len(seeds)} random histories of {STEPS} steps, no rule broken (target: 5000): met")


def walk(seeds: range) -> None:
    """One history for each seed; the seed is in the message of a failure."""
    for seed in seeds:
        random = Random(seed)
        machine = Histories()
        machine.begin(random.randrange(7), watched=random.random() < 0.7)
        for step in range(STEPS):
            (name,) = random.choices(list(BULK), WEIGHTS)
            needs = name in ("annotate", "respec", "refamily", "delete", "retype")
            if needs and not machine.world.objects:
                continue
            arguments = {k: random.choice(values) for k, values in BULK[name].items()}
            if needs:
                arguments["pick"] = random.randrange(7)
            if needs or name in ("create", "relabel"):
                arguments["then"] = random.random() < 0.7
            try:
                getattr(machine, name)(**arguments)
                machine.no_two_owners_without_a_reason()
                machine.every_address_is_in_a_pool_and_counted()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {step}, {name}({arguments}): {error}") from error


@given(st.permutations(range(6)), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_equal_events_in_any_order_give_one_answer(order: list[int], which: int) -> None:
    answers = []
    for sequence in (sorted(order), order):
        made = World(rules=Rules())
        made.sync()
        made.configure(*CONFIGS[which])
        for i in sequence:
            made.put(service(f"s{i}", families=["4", "6", "46"][i % 3], policy="PreferDualStack", created=3))
        made.settle()
        answers.append({k: v.ingress_ips for k, v in made.objects.items()})
    assert answers[0] == answers[1]
