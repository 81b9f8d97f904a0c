"""Every single choice of the allocator, compared with a search over all pools and addresses."""

from __future__ import annotations

from itertools import count, product
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from metallb_common.config.model import Pool
from metallb_common.net.ranges import Address
from metallb_controller.allocator import Allocator, Refusal, Wish
from metallb_controller.wishes import wish
from tests.property.test_allocator import CONFIGS, FAMILIES, KEYS, PHASES, PORTS, naive_addresses
from tests.unit.controller.make import pool, service

#: A pool, an address of it, and whether somebody holds the address who would share it.
Candidate = tuple[Pool, Address, bool]

MIXED = (
    pool("a", "192.0.2.0/31"),
    pool("b", "2001:db8::/126", "192.0.2.4/32", protocol="bgp"),
    pool("c", "192.0.2.2/31", protocol="bgp"),
    pool("d", "2001:db8:1::/127"),
)


class Choices(RuleBasedStateMachine):
    """Every automatic choice is the first that a search over all pools and addresses finds."""

    @initialize(which=st.integers(0, 5))
    def begin(self, which: int) -> None:
        self.allocator = Allocator()
        self.pools = (*CONFIGS[:5], MIXED)[which]
        self.allocator.set_pools(self.pools)
        self.next = count()

    def _there(self, asked: Wish) -> list[Candidate]:
        """Every address that the wish could get, in order of the pools, and whether it would join others."""
        order = sorted(
            (p for p in self.pools if p.auto_assign and not p.disabled),
            key=lambda p: (p.service_allocation.priority or 1e9, p.name),
        )
        out = []
        for p in order:
            for address in (a for version in asked.families for a in naive_addresses(p, version)):
                owners = [a for a in self.allocator.held.values() if address in a.addresses]
                if all(a.keys == asked.keys and a.keys[0] and not set(a.ports) & set(asked.ports) for a in owners):
                    out.append((p, address, bool(owners)))
        return out

    def _best(self, asked: Wish) -> tuple[Address, ...]:
        """The first of all combinations."""
        there = self._there(asked)
        rank = {name: i for i, name in enumerate(dict.fromkeys(p.name for p, _, _ in there))}
        protocols = list(dict.fromkeys(p.protocol for p, _, _ in there))
        of = {v: [one for one in there if one[1].version == v] for v in asked.families}
        joined = {p.name for p, _, joins in there if joins}

        def grade(some: tuple[Candidate, ...]) -> tuple[Any, ...]:
            """Joining comes first, then one pool for both, then the order of pools and addresses."""
            names = [p.name for p, _, _ in some]
            joins = [joining for _, _, joining in some]
            protocol = protocols.index(some[0][0].protocol) if len(some) > 1 else 0
            apart = len(set(names)) > 1
            plain = [(rank[p.name], int(a)) for p, a, _ in some]
            if all(joins):
                return (0, protocol, plain)
            if any(joins) and not apart:
                return (1, protocol, 0, rank[names[0]], [(not j, int(a)) for _, a, j in some])
            if any(joins):
                return (1, protocol, 1, [(p.name not in joined, rank[p.name], not j, int(a)) for p, a, j in some])
            return (2, 1, protocol, plain) if apart else (2, 0, plain)

        complete = [some for some in product(*of.values()) if len({p.protocol for p, _, _ in some}) == 1]
        if complete:
            return tuple(address for _, address, _ in min(complete, key=grade))
        for version in asked.families if asked.optional else ():
            if of[version]:
                return (min(of[version], key=lambda one: (not one[2], rank[one[0].name], int(one[1])))[1],)
        return ()

    @rule(family=FAMILIES, ports=PORTS, share=KEYS)
    def take(self, family: tuple[str, str], ports: tuple[str, ...], share: str) -> None:
        view = service(f"s{next(self.next)}", families=family[0], policy=family[1], ports=ports, share=share)
        asked = wish(view, None)
        found = self.allocator.find(asked)
        expected = self._best(asked)
        if not expected:
            assert isinstance(found, Refusal)
        else:
            assert not isinstance(found, Refusal)
            assert found.addresses == expected
            self.allocator.hold(asked.key, found)

    @precondition(lambda self: self.allocator.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.allocator.release(data.draw(st.sampled_from(sorted(self.allocator.held))))


TestChoices = Choices.TestCase
TestChoices.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, phases=PHASES)
