"""Builds container images from Dockerfiles, with what the machine has.

Docker or Podman where their engine answers (a client without an engine does not count), else
Buildah, which needs no engine. Where no registry can be reached, the base that the Dockerfiles name
(python:3.13-slim) is stood in for by a Debian root made with debootstrap: the same Python, once per
machine. All state is in the cache outside the tree.

Environment: ``METALLB_BUILDER`` (docker, podman or buildah) and ``BASE`` (an image reference) override
the choice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.cluster import toolchain

SUITE = "trixie"  # Debian 13: the release that python:3.13-slim is made of
PYTHON = "3.13"
BASE = f"docker.io/library/python:{PYTHON}-slim"
STAND_IN = f"localhost/metallb/base:{SUITE}-2"  # the number changes with the recipe below
STAND_IN_PACKAGES = "python3,python3-pip"
#: Of everything in an image, so that the same input gives the same digest (2026-01-01).
EPOCH = 1767225600

Say = Callable[[str], None]


class BuildError(RuntimeError):
    """An image cannot be built; the text says why and what to do."""


def quiet(text: str) -> None:
    """Say nothing."""


def run(command: Sequence[str | Path], *, what: str, env: dict[str, str] | None = None, say: Say = quiet) -> str:
    """Standard output of a command; all of its output is shown only when it fails. Raises BuildError.

    `say` hears every ten seconds that it still runs, and its latest line: silence looks like a hang.
    """
    with tempfile.TemporaryFile("w+") as complaints:
        start = time.monotonic()
        process = subprocess.Popen(
            [str(c) for c in command], stdout=subprocess.PIPE, stderr=complaints, text=True, errors="replace", env=env
        )
        lines: list[str] = []
        done = threading.Event()

        def heartbeat() -> None:
            while not done.wait(10):
                say(f"{what}, {time.monotonic() - start:.0f} s" + (f": {lines[-1].strip()[:70]}" if lines else ""))

        threading.Thread(target=heartbeat, daemon=True).start()
        try:
            assert process.stdout is not None
            lines.extend(process.stdout)
            code = process.wait()
        finally:
            done.set()
            if process.poll() is None:
                process.terminate()
            assert process.stdout is not None
            process.stdout.close()
        if code:
            complaints.seek(0)
            output = ("".join(lines) + complaints.read()).strip()
            raise BuildError(f"{what} failed (exit {code}):\n" + "\n".join(output.splitlines()[-25:]))
        return "".join(lines)


def fetched(once: Callable[[], object], what: str, say: Say) -> None:
    """Do what needs the network; up to three times, for that fails at times. Raises BuildError."""
    for pause in (5, 30, None):
        try:
            once()
            return
        except BuildError as error:
            if pause is None:
                raise
            say(f"{what} failed ({str(error).splitlines()[-1][:200]}); again in {pause} s")
            time.sleep(pause)


@dataclass
class Builder:
    """One engine with its storage."""

    kind: str  # docker, podman or buildah
    say: Say = quiet
    storage: list[str] = field(default_factory=list)  # Buildah's global options
    layers: bool = True  # whether steps are layers, and cached: with the vfs driver each would be a whole copy
    anew: bool = False  # take no step from the cache

    @property
    def command(self) -> list[str]:
        return [self.kind, *self.storage]

    def has(self, image: str) -> bool:
        told = subprocess.run([*self.command, "inspect", "--type=image", image], capture_output=True, check=False)
        return told.returncode == 0

    def pull(self, image: str) -> bool:
        """Fetch an image; False when no registry answers within a minute."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run([*self.command, "pull", "-q", image], capture_output=True, timeout=60).returncode == 0
        return False

    @cached_property
    def base(self) -> str:
        """The image that both Dockerfiles start from, fetched or made now if it is not there."""
        if wanted := os.environ.get("BASE"):
            return wanted
        for image in (STAND_IN, BASE):  # what an earlier run settled on
            if self.has(image):
                return image
        self.say(f"fetching {BASE}")
        if self.pull(BASE):
            return BASE
        self.say(f"no registry answers: making a stand-in for {BASE} from Debian {SUITE} (once, a minute or two)")
        self._make_stand_in()
        return STAND_IN

    def _make_stand_in(self) -> None:
        if os.geteuid() != 0:
            raise BuildError("debootstrap needs root: run as root, or give BASE=IMAGE with Python and pip in it")
        toolchain.packages(["images"])
        root = toolchain.cache() / "base"
        include = f"--include={STAND_IN_PACKAGES}"

        def debootstrap() -> None:
            shutil.rmtree(root, ignore_errors=True)
            run(["debootstrap", "--variant=minbase", include, SUITE, root, *mirror()], what="debootstrap", say=self.say)

        fetched(debootstrap, "debootstrap", self.say)
        for folder in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder / "partial").mkdir(parents=True)
        # The mirror of this machine stays out of the image's history; the file itself is not shipped.
        archive = root.with_suffix(".tar")
        run(["tar", "-C", root, "--one-file-system", "-cf", archive, "."], what="packing the base")
        shutil.rmtree(root)
        if self.kind == "buildah":
            dockerfile = root.with_suffix(".dockerfile")
            dockerfile.write_text(f"FROM scratch\nADD {archive.name} /\n")
            # A context of one file: everything in the context is hashed.
            context = root.with_suffix(".context")
            context.mkdir(exist_ok=True)
            archive.rename(context / archive.name)
            run([*self.command, "bud", "-q", "-f", dockerfile, "-t", STAND_IN, context], what="importing the base")
            shutil.rmtree(context)
            dockerfile.unlink()
        else:
            run([self.kind, "import", archive, STAND_IN], what="importing the base")
            archive.unlink()

    def build(self, tag: str, dockerfile: Path, context: Path, arguments: dict[str, str], wheels: Path | None) -> None:
        """Build `dockerfile` and name the result `tag`.

        `wheels` is where pip finds what it installs; without, and with Docker, which cannot mount a folder
        while it builds, pip asks the index that this machine's pip is set up with.
        """
        arguments = {"BASE": self.base, **arguments}
        command = [*self.command, "build" if self.kind != "buildah" else "bud", "-q", "-t", tag, "-f", str(dockerfile)]
        env = dict(os.environ, SOURCE_DATE_EPOCH=str(EPOCH), DOCKER_BUILDKIT="1")
        if self.kind == "buildah":
            command += ["--isolation", "chroot", "--timestamp", str(EPOCH), f"--layers={str(self.layers).lower()}"]
        if wheels is not None and self.kind in ("buildah", "podman"):
            command += ["--volume", f"{wheels}:/wheels:ro"]
            arguments |= {"PIP_FIND_LINKS": "/wheels", "PIP_NO_INDEX": "1"}
        else:
            arguments |= pip_index()
        if self.anew:
            command.append("--no-cache")
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        run([*command, str(context)], what=f"building {tag}", env=env, say=self.say)

    def save(self, tag: str, archive: Path) -> None:
        """Write an image as a docker archive; the file appears whole or not at all."""
        part = archive.with_name(archive.name + ".part")
        part.unlink(missing_ok=True)
        if self.kind == "buildah":
            run([*self.command, "push", "-q", tag, f"docker-archive:{part}:{tag}"], what=f"saving {tag}")
        else:
            form = ["--format", "docker-archive"] if self.kind == "podman" else []
            run([self.kind, "save", *form, "-o", str(part), tag], what=f"saving {tag}")
        part.rename(archive)

    def tidy(self) -> None:
        """Remove what killed builds left, and old layers when they have grown large."""
        if self.kind != "buildah":
            return
        subprocess.run([*self.command, "rm", "-a"], capture_output=True, check=False)
        root = Path(self.storage[self.storage.index("--root") + 1])
        used = run(["du", "-sm", root], what="du").split()[0]
        if int(used) > 6000:
            self.say("the store of layers has grown large: starting it anew")
            subprocess.run([*self.command, "rmi", "-a", "-f"], capture_output=True, check=False)


def choose(say: Say = quiet) -> Builder:
    """The builder of this machine. Raises BuildError, ToolchainError."""
    wanted = os.environ.get("METALLB_BUILDER", "")
    if wanted not in ("", "docker", "podman", "buildah"):
        raise BuildError(f"METALLB_BUILDER={wanted}: use docker, podman or buildah")
    for kind in ("docker", "podman"):
        if wanted in ("", kind) and _answers(kind):
            return Builder(kind, say)
        if wanted == kind:
            raise BuildError(f"METALLB_BUILDER={kind}, but its engine does not answer `{kind} info`")
    if shutil.which("buildah") is None:
        toolchain.packages(["images"])
    for driver in ("overlay", "vfs"):
        root = toolchain.cache() / "buildah" / driver
        storage = ["--root", str(root), "--runroot", f"{root}-run", "--storage-driver", driver]
        if (root / "usable").exists() or _usable(storage):
            (root / "usable").touch()
            return Builder("buildah", say, storage, layers=driver == "overlay")
    raise BuildError("Buildah can use neither overlay nor vfs below " + str(toolchain.cache()))


def _answers(kind: str) -> bool:
    """Whether the engine behind a client answers: the client alone exits 0 without one."""
    if shutil.which(kind) is None:
        return False
    form = "{{.ServerVersion}}" if kind == "docker" else "{{.Version.Version}}"
    with contextlib.suppress(subprocess.TimeoutExpired):
        told = subprocess.run([kind, "info", "--format", form], capture_output=True, text=True, timeout=10, check=False)
        return told.returncode == 0 and bool(re.match(r"\d", told.stdout.strip()))
    return False


def _usable(storage: list[str]) -> bool:
    """Whether Buildah can mount a container with this driver here."""
    Path(storage[1]).mkdir(parents=True, exist_ok=True)
    buildah = ["buildah", *storage]
    made = subprocess.run([*buildah, "from", "--name", "probe", "scratch"], capture_output=True, check=False)
    mounted = subprocess.run([*buildah, "mount", "probe"], capture_output=True, check=False)
    subprocess.run([*buildah, "rm", "probe"], capture_output=True, check=False)
    return made.returncode == 0 and mounted.returncode == 0


def mirror() -> list[str]:
    """The Debian mirror that this machine's apt uses, if it has the suite; else debootstrap's own choice."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(s.read_text() for s in sources if s.suffix in (".list", ".sources") and s.is_file())
    found = re.findall(r"^URIs:\s*(\S+)", text, re.MULTILINE)
    found += re.findall(r"^deb\s+(?:\[.*?\]\s+)?(\S+)", text, re.MULTILINE)
    for uri in dict.fromkeys(found):
        if not uri.startswith("http"):
            continue
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{uri.rstrip('/')}/dists/{SUITE}/Release", timeout=10),
        ):
            return [uri]
    return []


def pip_index() -> dict[str, str]:
    """This machine's pip index, if it is not the usual one, as the build arguments that our Dockerfiles take."""
    found: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"], what="pip config").splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2].replace("-", "_").upper()
        if key in ("INDEX_URL", "EXTRA_INDEX_URL"):
            found[f"PIP_{key}"] = value.strip("'\"")
    return found


def wheels(requirements: Path, say: Say = quiet) -> Path:
    """A folder with the locked libraries for the images' Python, fetched by this machine's own pip.

    The build then needs no index, whatever proxies or certificates the machine's pip is set up with.
    """
    machine = platform.machine()
    key = hashlib.sha256(requirements.read_bytes() + machine.encode() + PYTHON.encode()).hexdigest()[:16]
    folder = toolchain.cache() / f"wheels-{key}"
    if folder.exists():
        return folder
    say("fetching the libraries")
    part = toolchain.cache() / f"wheels-{key}.part"
    shutil.rmtree(part, ignore_errors=True)
    # glibc names its platforms by its own version; the base has 2.41.
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(41, 4, -1)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "-d", str(part), "-r", str(requirements)]
    for abi in ("cp" + PYTHON.replace(".", ""), "abi3", "none"):
        command += ["--abi", abi]
    for name in [*platforms, f"manylinux2014_{machine}", f"manylinux1_{machine}"]:
        command += ["--platform", name]
    fetched(lambda: run(command, what="pip download", say=say), "pip download", say)
    part.rename(folder)
    return folder
