"""The targets of giving out addresses, each printed as met or not: `make accept`."""

from __future__ import annotations

import pytest

from tests.bench import alloc
from tests.controller_lab import lab


@pytest.mark.accept
@pytest.mark.parametrize("count", [1000, 5000])
def test_addresses_are_given_at_the_speed_of_the_machine(count: int) -> None:
    """Ratio to the limit, restart to the first new address, memory, and what other clients feel."""
    with lab("--max-mutating-requests-inflight=400") as here:
        assert alloc.measure_rounds(here, count, alloc.ROUNDS, restart=True), "a target was missed"
