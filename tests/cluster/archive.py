"""Writes container images as docker archives: one layer, from files, the same bytes for the same input."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: As Go, and so every image, names the machine.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}


@dataclass(frozen=True)
class Entry:
    """A file, or a symbolic link, in the image."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""
    folder: bool = False


@dataclass(frozen=True)
class Settings:
    """What the image says about itself."""

    entrypoint: list[str]
    command: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)
    user: str = ""


def architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def write(path: Path, reference: str, entries: Mapping[str, Entry], settings: Settings) -> None:
    """A docker archive (the format of ``docker save``) that any runtime imports. Written whole or not at all."""
    layer = _tar(entries)
    config: dict[str, Any] = {
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": settings.entrypoint,
            "Cmd": settings.command,
            "Env": settings.environment,
            "ExposedPorts": {p: {} for p in settings.ports},
            "User": settings.user,
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "files"}],
    }
    config_bytes = json.dumps(config).encode()
    config_name = hashlib.sha256(config_bytes).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": ["layer.tar"]}]
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(
        _tar(
            {
                "manifest.json": Entry(json.dumps(manifest).encode()),
                config_name: Entry(config_bytes),
                "layer.tar": Entry(layer),
            }
        )
    )
    fresh.rename(path)


def _tar(entries: Mapping[str, Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, entry in sorted(entries.items()):
            info = tarfile.TarInfo(name)
            info.mode = entry.mode
            if entry.folder:
                info.type = tarfile.DIRTYPE
            elif entry.link:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
            else:
                info.size = len(entry.data)
            tar.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
