"""What is in the images, and what is not."""

from __future__ import annotations

import gzip
import json
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.cluster import builder, images, oci

pytestmark = pytest.mark.root

#: Programs of which none may be inside, wherever they are: shells, package managers, build tools.
FORBIDDEN = re.compile(
    r"^(a|ba|da|z|k|c|tc)?sh$|^busybox|^toybox|^pip[\d.]*$|^easy_install|^apt|^dpkg|^perl|^gcc|^g\+\+|^cc$|^c\+\+|^ld$|"
    r"^as$|^make$|^strip$|^objdump$|^gdb$|^curl$|^wget$|^git$|^su$|^sudo$|^mount$|^tar$"
)


@pytest.fixture
def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    """Every path in the image; a later layer wins."""
    found: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        for layer in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(layer)) as files:
                found |= {m.name.removeprefix("./").rstrip("/"): m for m in files}
    return found


def test_programs_are_the_interpreter_and_our_own(members: dict[str, tarfile.TarInfo], name: str) -> None:
    programs = {p.rpartition("/")[2] for p in members if re.search(r"(^|/)s?bin/[^/]+$", p)}
    python = {p for p in programs if re.fullmatch(r"python3(\.\d+)?", p)}
    assert programs - python == {"metallb-config", f"metallb-{name}"}
    assert not {p for p in members if FORBIDDEN.match(p.rpartition("/")[2])}


def test_no_development_files_and_no_packagers(members: dict[str, tarfile.TarInfo]) -> None:
    assert not [p for p in members if p.endswith((".a", ".h", ".o", ".pc", ".whl", ".deb"))]
    modules = {part for p in members for part in p.split("/")}
    assert not modules & {
        "pip",
        "ensurepip",
        "setuptools",
        "wheel",
        "scapy",
        "pytest",
        "hypothesis",
        "tkinter",
        "idlelib",
    }
    assert not [p for p in members if p.startswith(("var/", "root/", "home/", "build/"))]


def test_nothing_is_setuid_or_writable_by_all(members: dict[str, tarfile.TarInfo]) -> None:
    for path, member in members.items():
        assert not member.mode & (stat.S_ISUID | stat.S_ISGID), path
        assert (member.uid, member.gid) == (0, 0), path
        assert member.issym() or not member.mode & stat.S_IWOTH or path == "tmp", path


def test_only_the_image_s_own_code(members: dict[str, tarfile.TarInfo], name: str) -> None:
    other = next(n for n in images.NAMES if n != name)
    assert [p for p in members if f"/metallb_{name}/" in p]
    assert not [p for p in members if f"metallb_{other}" in p]


def test_no_name_of_the_machine_that_built_it(archive: Path) -> None:
    """Neither folders nor package sources of the build machine are in the image."""
    with gzip.open(archive) if archive.suffix == ".gz" else open(archive, "rb") as file:
        blob = file.read()
    assert str(images.ROOT).encode() not in blob
    assert b"/build/libraries" not in blob
    assert b"PIP_INDEX_URL" not in blob


def test_settings(archive: Path, name: str) -> None:
    image = oci.read(archive)
    assert image.user == {"controller": "65534:65534", "speaker": "0:0"}[name]
    assert image.entrypoint == ("/usr/bin/python3", "-OO", "-m", f"metallb_{name}")
    assert image.labels["org.opencontainers.image.version"] == images.version()
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_both_images_share_the_large_layer(archives: dict[str, Path]) -> None:
    first, second = (oci.read(path).layers for path in archives.values())
    if builder.choose().layers:
        assert len(first) == len(second) == 2
        assert first[0] == second[0]
    else:  # Buildah makes one layer of an image then; the vfs driver would copy the base for each step
        assert len(first) == len(second) == 1
    assert first[-1] != second[-1]


def test_small_enough_compressed(archive: Path) -> None:
    assert 1_000_000 < images.compressed_size(archive) < images.SIZE_LIMIT


def test_every_component_has_its_licence(archive: Path, tmp_path: Path) -> None:
    oci.unpack(archive, tmp_path)
    documents = tmp_path / "usr/share/doc"
    assert (documents / "metallb/LICENSE").read_text() == (images.ROOT / "LICENSE").read_text()
    components = (documents / "metallb/COMPONENTS").read_text()
    locked = re.findall(
        r"^([a-z0-9-]+)==(\S+)", (images.CONTEXT / "controller/requirements.txt").read_text(), re.MULTILINE
    )
    for package, version in locked:
        spelling = package.replace("-", "[-_]")
        assert re.search(rf"^{spelling} {re.escape(version)}: \w", components, re.MULTILINE | re.IGNORECASE), package
    for folder in tmp_path.rglob("*.dist-info"):
        texts = [p for p in folder.rglob("*") if re.match(r"(?i)licen[cs]e|copying|notice|authors", p.name)]
        assert texts or "License" in (folder / "METADATA").read_text(), folder.name
    for path in re.findall(r": (/usr/share/doc/\S+/copyright);", components):
        assert (tmp_path / path.lstrip("/")).stat().st_size > 100


def test_rootfs_works_with_an_interpreter_that_lives_elsewhere(tmp_path: Path) -> None:
    """The script picks this machine's own Python as well: it knows no distribution's layout."""
    python = Path(sys._base_executable)  # type: ignore[attr-defined]  # not the virtual environment's link
    libraries, out = tmp_path / "libraries", tmp_path / "out"
    libraries.mkdir()
    script = images.CONTEXT / "rootfs.py"
    told = subprocess.run([python, "-I", script, "runtime", libraries, out], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    code = "import ssl, asyncio, ctypes, json, hashlib; print(ssl.OPENSSL_VERSION)"
    told = subprocess.run(["chroot", out, "/usr/bin/python3", "-OO", "-c", code], capture_output=True, text=True)
    assert told.stdout.startswith("OpenSSL"), told.stderr
    assert not (out / "bin/sh").exists()
