"""What rootfs.py takes along and what it leaves behind."""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path
from types import ModuleType

import pytest

from tests.cluster import images


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rootfs", images.CONTEXT / "rootfs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rootfs = _load()


def test_place_reproduces_every_link_on_the_way(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "usr/lib/deep").mkdir(parents=True)
    (base / "usr/lib/deep/libx.so.1.2").write_bytes(b"x")
    (base / "usr/lib/libx.so.1").symlink_to("deep/libx.so.1.2")
    (base / "lib").symlink_to("usr/lib")
    (base / "absolute").symlink_to(base / "lib")
    out = tmp_path / "out"

    rootfs.place(base / "absolute/libx.so.1", out)

    inside = out / base.relative_to("/")
    assert (inside / "absolute").is_symlink()
    assert os.readlink(inside / "lib") == "usr/lib"
    assert os.readlink(inside / "usr/lib/libx.so.1") == "deep/libx.so.1.2"
    assert (inside / "usr/lib/deep/libx.so.1.2").read_bytes() == b"x"


def test_place_climbs_out_of_a_relative_link(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "c").write_text("c")
    (tmp_path / "a/b/link").symlink_to("../../c")
    out = tmp_path / "out"
    rootfs.place(tmp_path / "a/b/link", out)
    assert (out / (tmp_path / "c").relative_to("/")).read_text() == "c"


def test_place_copies_a_file_once_and_never_keeps_setuid(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_text("#!")
    file.chmod(0o4755)
    out = tmp_path / "out"
    copy = rootfs.place(file, out)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o755
    assert rootfs.place(file, out) is None


@pytest.mark.parametrize(
    "path",
    [
        "test/test_ssl.py",
        "idlelib/run.py",
        "ensurepip/_bundled/pip.whl",
        "config-3.13-x/libpython.a",
        "lib-dynload/_sqlite3.cpython-313.so",
        "asyncio/tests/x.py",
    ],
)
def test_standard_library_left_behind(path: str) -> None:
    assert rootfs.dropped(Path(path), rootfs.STDLIB_DROP)


@pytest.mark.parametrize(
    "path", ["ssl.py", "asyncio/base_events.py", "lib-dynload/_ssl.cpython-313.so", "unittest/mock.py"]
)
def test_standard_library_taken_along(path: str) -> None:
    assert not rootfs.dropped(Path(path), rootfs.STDLIB_DROP)


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("kubernetes/aio/client/models/v1_pod.py", True),
        ("kubernetes/aio/client/models/__init__.py", False),
        ("kubernetes/client/api/core_v1_api.py", True),
        ("kubernetes/aio/client/api_client.py", False),
        ("bin/normalizer", True),
        ("attrs-26.1.0.dist-info/licenses/LICENSE", False),
        ("attrs-26.1.0.dist-info/RECORD", True),
    ],
)
def test_libraries(path: str, gone: bool) -> None:
    assert rootfs.dropped(Path(path), rootfs.SITE_DROP) is gone


def test_byte_code_is_the_same_for_the_same_source(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text('"""A docstring."""\nassert False\n')
    rootfs.place_library(source, tmp_path / "one/module.py", Path("/usr/lib/module.py"))
    os.utime(source, (1, 1))
    rootfs.place_library(source, tmp_path / "two/module.py", Path("/usr/lib/module.py"))
    first, second = (tmp_path / "one/module.pyc").read_bytes(), (tmp_path / "two/module.pyc").read_bytes()
    assert first == second
    assert b"A docstring" not in first
    assert b"/usr/lib/module.py" in first


def test_the_licence_beside_the_dockerfiles_is_the_project_s() -> None:
    assert (images.CONTEXT / "LICENSE").read_bytes() == (images.ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("path", ["controller/Dockerfile", "speaker/Dockerfile", "rootfs.py"])
@pytest.mark.parametrize("word", ["x86", "amd64", "arm64", "aarch64", "--platform", "TARGETARCH"])
def test_nothing_knows_an_architecture(path: str, word: str) -> None:
    assert word not in (images.CONTEXT / path).read_text()
