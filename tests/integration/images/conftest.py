"""Both images, built once if their inputs have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import images, toolchain


@pytest.fixture(scope="session")
def archives() -> dict[str, Path]:
    return images.build(toolchain.say)


@pytest.fixture(params=images.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def archive(archives: dict[str, Path], name: str) -> Path:
    return archives[name]
