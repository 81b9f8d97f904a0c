"""What the speaker may take: memory of both halves, and the announcer's longest stall (`make accept`)."""

from __future__ import annotations

import pytest

from tests.bench import memory, stall

pytestmark = [pytest.mark.root, pytest.mark.accept]


def test_memory_with_a_thousand_services() -> None:
    assert memory.main([]) == 0


def test_no_turn_is_long_while_thousands_of_services_load() -> None:
    assert stall.main(["--runs", "5"]) == 0
