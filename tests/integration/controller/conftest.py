"""A real API server, and controllers that run against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controller_lab import ORIGINAL_RIGHTS, OUR_RIGHTS, Lab, Start, lab


@pytest.fixture(scope="module")
def server_lab() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture
def here(server_lab: Lab) -> Iterator[Lab]:
    yield server_lab
    server_lab.clear()


@pytest.fixture(params=[OUR_RIGHTS, ORIGINAL_RIGHTS])
def start(request: pytest.FixtureRequest, here: Lab) -> Start:
    """Every test runs with both, but for those that say why not."""
    return Start(here, request.param)
