"""Which builder is chosen, and when an image is built anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster import builder, images


def _client(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on PATH; what is found out about it is forgotten afterwards."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("METALLB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALLB_BUILDER", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "script",
    ["exit 1", "echo; exit 0", "echo 'Cannot connect to the Docker daemon' >&2; exit 0"],
    ids=["fails", "says nothing", "only complains"],
)
def test_a_client_without_an_engine_is_passed_over(path: Path, script: str) -> None:
    _client(path, "docker", script)
    _client(path, "podman", "exit 1")
    _client(path, "buildah", "exit 0")
    assert builder.choose().kind == "buildah"


def test_an_engine_that_answers_is_used(path: Path) -> None:
    _client(path, "docker", "echo 28.2.2")
    assert builder.choose().kind == "docker"


def test_asking_for_an_engine_that_is_not_there_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _client(path, "docker", "exit 1")
    monkeypatch.setenv("METALLB_BUILDER", "docker")
    with pytest.raises(builder.BuildError, match="does not answer"):
        builder.choose()
    monkeypatch.setenv("METALLB_BUILDER", "kaniko")
    with pytest.raises(builder.BuildError, match="docker, podman or buildah"):
        builder.choose()


def test_a_failing_command_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(builder.BuildError, match=r"(?s)trying failed \(exit 3\).*because"):
        builder.run(["sh", "-c", "echo because >&2; exit 3"], what="trying")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what goes into the images, small."""
    for name in ("controller", "speaker"):
        (tmp_path / "images" / name / "src").mkdir(parents=True)
        (tmp_path / "images" / name / "pyproject.toml").write_text('version = "9.8.7"\n')
    (tmp_path / "images/common").mkdir()
    (tmp_path / "tests/cluster").mkdir(parents=True)
    (tmp_path / "tests/cluster/builder.py").write_text("")
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.setattr(images, "CONTEXT", tmp_path / "images")
    return tmp_path / "images"


def test_version_is_the_distribution_s(context: Path) -> None:
    assert images.tag("speaker") == "localhost/metallb/speaker:v9.8.7"


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("controller/src/a.py", {"controller"}),
        ("speaker/src/a.py", {"speaker"}),
        ("common/a.py", {"controller", "speaker"}),
        ("rootfs.py", {"controller", "speaker"}),
        ("common/__pycache__/a.pyc", set()),
        ("speaker/src/x.egg-info/PKG-INFO", set()),
    ],
)
def test_inputs_follow_what_goes_in(context: Path, path: str, changed: set[str]) -> None:
    before = {name: images.inputs(name) for name in images.NAMES}
    file = context / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("new")
    assert {name for name in images.NAMES if images.inputs(name) != before[name]} == changed


def test_moving_text_from_one_file_to_another_is_a_change(context: Path) -> None:
    (context / "common/a.py").write_text("xy")
    (context / "common/b.py").write_text("")
    before = images.inputs("speaker")
    (context / "common/a.py").write_text("x")
    (context / "common/b.py").write_text("y")
    assert images.inputs("speaker") != before


def test_podman_gets_the_libraries_mounted_and_docker_the_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither engine is here: a recorder stands in for their command lines."""
    monkeypatch.setenv("BASE", "python:3.13-slim")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.com/simple")
    for kind in ("docker", "podman", "buildah"):
        _client(path, kind, f'echo "$@" >{path}/{kind}.said')
        engine = builder.Builder(kind)
        engine.build("x:1", path / "Dockerfile", path, {"VERSION": "v1"}, path / "wheels")
        said = (path / f"{kind}.said").read_text()
        assert "BASE=python:3.13-slim" in said
        assert "VERSION=v1" in said
        mounted = f"--volume {path}/wheels:/wheels:ro" in said and "PIP_NO_INDEX=1" in said
        assert mounted is (kind != "docker")
        assert ("PIP_INDEX_URL=https://index.example.com/simple" in said) is (kind == "docker")
