"""The images' targets, printed as met or not: `make accept`."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.cluster import builder, images, oci

pytestmark = [pytest.mark.root, pytest.mark.accept]


def test_size_and_start(archive: Path, name: str) -> None:
    size = images.compressed_size(archive)
    starts = sorted(images.start_time(name) for _ in range(7))
    median = statistics.median(starts)
    met = size <= images.SIZE_LIMIT and starts[-1] <= images.START_LIMIT
    print(
        f"{name}: {size / 1e6:.1f} MB compressed (target {images.SIZE_LIMIT / 1e6:.0f}); start to /metrics "
        f"{median:.2f} s median, {starts[-1]:.2f} s worst of {len(starts)} (target {images.START_LIMIT}): "
        f"{'met' if met else 'NOT met'}"
    )
    assert met


def test_the_same_input_gives_the_same_image(archive: Path, name: str, tmp_path: Path) -> None:
    """Built once more without any cached step, every layer has the digest that it had."""
    engine = builder.choose()
    if engine.kind != "buildah":
        pytest.fail("bit-for-bit images are promised for Buildah only: METALLB_BUILDER=buildah")
    engine.anew = True
    tag = f"localhost/metallb/again-{name}:1"
    wheels = builder.wheels(images.CONTEXT / name / "requirements.txt") if engine.base == builder.STAND_IN else None
    arguments = {"VERSION": images.version()}
    engine.build(tag, images.CONTEXT / name / "Dockerfile", images.CONTEXT, arguments, wheels)
    engine.save(tag, tmp_path / "again.tar")
    assert oci.read(tmp_path / "again.tar") == oci.read(archive)
