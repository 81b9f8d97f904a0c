"""The product's images: built when their inputs have changed, and measured.

``python -m tests.cluster.images`` (``make images``) leaves ``dist/controller.tar`` and
``dist/speaker.tar``, docker archives, and prints of each the compressed size and the time from start
to the first answer of ``/metrics``. ``build()`` is what the demo and the tests call: it costs a
fraction of a second when nothing has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import sys
import tarfile
import time
import zlib
from pathlib import Path

from tests.cluster import builder, oci, toolchain

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = ROOT / "images"
DIST = ROOT / "dist"
NAMES = ("controller", "speaker")
REGISTRY = "localhost"  # nothing is published: the name by which a node finds what was loaded into it

SIZE_LIMIT = 45_000_000  # bytes, compressed
START_LIMIT = 1.5  # seconds from start to the first answer of /metrics


def version() -> str:
    """The images' tag: v and the distributions' version."""
    for line in (CONTEXT / "controller" / "pyproject.toml").read_text().splitlines():
        if line.startswith("version = "):
            return "v" + line.split('"')[1]
    raise builder.BuildError("images/controller/pyproject.toml names no version")


def tag(name: str) -> str:
    return f"{REGISTRY}/metallb/{name}:{version()}"


def archive(name: str) -> Path:
    return DIST / f"{name}.tar"


def inputs(name: str) -> str:
    """A hash over everything that goes into one image."""
    digest = hashlib.sha256(f"{platform.machine()} {builder.STAND_IN} {version()}".encode())
    other = next(n for n in NAMES if n != name)
    for path in sorted([*CONTEXT.rglob("*"), ROOT / "tests/cluster/builder.py"]):
        relative = path.relative_to(ROOT)
        if not path.is_file() or path.suffix == ".pyc" or relative.parts[1] == other:
            continue
        if any(part == "__pycache__" or part.endswith(".egg-info") for part in relative.parts):
            continue
        digest.update(f"{relative} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def prepare(say: builder.Say = builder.quiet) -> None:
    """Fetch what a build takes from elsewhere: base and libraries. Raises BuildError, ToolchainError."""
    with toolchain.locked("images"):
        engine = builder.choose(say)
        for name in NAMES:
            _wheels(engine, name, say)


def _wheels(engine: builder.Builder, name: str, say: builder.Say) -> Path | None:
    """The folder with the libraries of an image, if its base is ours to know; its base is there then, too."""
    if engine.base in (builder.STAND_IN, builder.BASE) and engine.kind != "docker":
        return builder.wheels(CONTEXT / name / "requirements.txt", say)
    return None


def build(say: builder.Say = builder.quiet) -> dict[str, Path]:
    """Both archives, built now if their inputs have changed. Raises BuildError, ToolchainError."""
    DIST.mkdir(exist_ok=True)
    with toolchain.locked("images"):
        stale = {n: i for n in NAMES if (i := inputs(n)) != _built_from(n) or not archive(n).exists()}
        if stale:
            engine = builder.choose(say)
            engine.tidy()
            for name, key in stale.items():
                start = time.monotonic()
                wheels = _wheels(engine, name, say)
                arguments = {"VERSION": version()}
                engine.build(tag(name), CONTEXT / name / "Dockerfile", CONTEXT, arguments, wheels)
                engine.save(tag(name), archive(name))
                _stamp(name).write_text(key)
                say(f"{tag(name)} built in {time.monotonic() - start:.1f} s")
    return {name: archive(name) for name in NAMES}


def _stamp(name: str) -> Path:
    return DIST / f".{name}.inputs"


def _built_from(name: str) -> str:
    return _stamp(name).read_text() if _stamp(name).exists() else ""


def compressed_size(path: Path) -> int:
    """Bytes that a node pulls: each layer after gzip at its best. Remembered by layer: the large one seldom changes."""
    known = toolchain.cache() / "layer-sizes.json"
    with contextlib.suppress(OSError, ValueError):
        _sizes.update(json.loads(known.read_text()))
    total = 0
    with tarfile.open(path) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        for name, digest in zip(json.load(manifest)[0]["Layers"], oci.read(path).layers, strict=True):
            if digest not in _sizes:
                layer = tar.extractfile(name)
                assert layer is not None
                packer = zlib.compressobj(9, wbits=31)
                size = 0
                while part := layer.read(1 << 20):
                    size += len(packer.compress(part))
                _sizes[digest] = size + len(packer.flush())
            total += _sizes[digest]
    # The newest are enough: what is forgotten is only counted anew.
    part_file = known.with_suffix(f".{os.getpid()}")
    part_file.write_text(json.dumps(dict(list(_sizes.items())[-50:])))
    part_file.rename(known)
    return total


_sizes: dict[str, int] = {}


def start_time(name: str) -> float:
    """Seconds from starting the image to the first 200 of /metrics, with no API server to be reached."""
    arguments = {
        "controller": ["--port=7472", "--namespace=metallb-system"],
        "speaker": ["--mode=announcer", "--port=7472", "--namespace=metallb-system", "--node-name=node1"],
    }[name]
    env, files = oci.pod()
    capabilities = ["CAP_NET_RAW"] if name == "speaker" else []
    with oci.Container(archive(name), arguments, env=env, capabilities=capabilities, files=files) as container:
        return container.wait_http("/metrics", 7472, timeout=15)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="images", description=__doc__)
    parser.add_argument("--no-start", action="store_true", help="do not start the images to measure them")
    options = parser.parse_args(arguments)
    failed = False
    try:
        build(lambda text: print(f"images: {text}", file=sys.stderr, flush=True))
        for name in NAMES:
            size = compressed_size(archive(name))
            line = f"{tag(name)}  {archive(name).relative_to(ROOT)}  {size / 1e6:.1f} MB compressed"
            failed |= size > SIZE_LIMIT
            if not options.no_start:
                seconds = min(start_time(name) for _ in range(2))
                line += f"  {seconds:.2f} s from start to /metrics"
                failed |= seconds > START_LIMIT
            print(line, flush=True)
    except (builder.BuildError, toolchain.ToolchainError, oci.ContainerError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    if failed:
        limits = f"{SIZE_LIMIT / 1e6:.0f} MB compressed and {START_LIMIT} s"
        print(f"images: over the limit of {limits}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
