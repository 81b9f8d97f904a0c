"""Collects what an image needs at run time out of the build stage's file system, and nothing else.

Runs inside the build stage of both Dockerfiles, with the interpreter that will be shipped. Two
steps, so that the two images share the layer that is large and seldom changes:

``rootfs.py runtime SITE OUT``
    the interpreter, the standard library, the libraries that pip installed into SITE, every shared
    object that any of these needs, accounts, licences. No shell, no package manager, no compiler.
``rootfs.py app OUT SOURCE...``
    our own packages, their commands, their licence.

Nothing here knows an architecture or a distribution: paths are asked of the interpreter, shared
objects of the dynamic loader, licences of dpkg where there is one. Symbolic links on the way to a
file are reproduced, so the loader and the interpreter find everything where they expect it.
The result is the same for the same input, file times included: equal layers are stored and pulled once.
"""

from __future__ import annotations

import compileall
import fnmatch
import os
import py_compile
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path

#: Parts of the standard library that nothing here uses. Each either is a program for developers, or
#: drags in a shared library of its own (Tk, curses, readline, SQLite, Berkeley DB).
STDLIB_DROP = (
    "test", "*/test", "*/tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "venv",
    "lib2to3", "pydoc_data", "curses", "sqlite3", "dbm", "distutils",
    "config-*", "site-packages", "dist-packages", "__phello__", "EXTERNALLY-MANAGED", "sitecustomize.py",
    "lib-dynload/_tkinter.*", "lib-dynload/_curses*", "lib-dynload/readline.*", "lib-dynload/_sqlite3.*",
    "lib-dynload/_dbm.*", "lib-dynload/_gdbm.*", "lib-dynload/_test*", "lib-dynload/_ctypes_test.*",
    "lib-dynload/_xx*", "lib-dynload/xx*", "lib-dynload/_codecs_??.*", "lib-dynload/_codecs_iso2022.*",
)  # fmt: skip

#: Parts of the libraries that are not used. The Kubernetes client is used for its configuration and
#: its transport, with raw JSON: its model and API classes (both flavours) are nine tenths of its size.
SITE_DROP = (
    "bin", "*/tests", "*/test", "*_test.py", "*.pyx", "*.pxd", "*.pyi", "*.c", "*.h", "*.hash",
    "kubernetes/client/models/[!_]*", "kubernetes/client/api/[!_]*", "kubernetes/docs",
    "kubernetes/aio/client/models/[!_]*", "kubernetes/aio/client/api/[!_]*", "kubernetes/aio/setup.py",
    "*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED", "*.dist-info/WHEEL",
    "*.dist-info/direct_url.json", "*.dist-info/top_level.txt", "*.dist-info/entry_points.txt",
)  # fmt: skip

#: Opened by name at run time, so that no file says it is needed: glibc asks for it when a thread ends.
LOADED_BY_NAME = ("libgcc_s.so.1",)

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
#: Folders that a volume may be mounted on; the root itself is read-only in the chart.
FOLDERS = {"tmp": 0o1777, "run/metallb": 0o755, "dev": 0o755, "proc": 0o755, "sys": 0o755}

DOC = "usr/share/doc"
#: Of every shipped file (2026-01-01), unless the builder gives its own.
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "1767225600"))


def run(command: list[str], *, check: bool = True) -> str:
    """Standard output of a command of the base."""
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout  # noqa: S603


def place(source: Path, out: Path) -> Path | None:
    """Copy one file to the same path below `out`, with every symbolic link on its way.

    Returns the path of the copy, or None if it was there already.
    """
    walked = Path("/")
    parts = list(source.absolute().parts[1:])
    for _ in range(1000):  # a loop of links must not hang the build
        if not parts:
            break
        step = walked / parts.pop(0)
        if step.name == "..":
            walked = walked.parent
        elif step.is_symlink():
            target = os.readlink(step)
            link = out / step.relative_to("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(target)
            parts = [*Path(target).parts, *parts]
            if os.path.isabs(target):
                walked, parts = Path("/"), parts[1:]
        else:
            walked = step
    copy = out / walked.relative_to("/")
    if copy.exists():
        return None
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(walked, copy)
    copy.chmod(0o755 if os.access(walked, os.X_OK) else 0o644)
    return copy


def dropped(relative: Path, patterns: Iterable[str]) -> bool:
    """Whether the path, or a folder above it, matches one of the patterns."""
    names = [relative.as_posix(), *(p.as_posix() for p in relative.parents)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def kept(root: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """The files below `root` that are shipped, in a fixed order."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and "__pycache__" not in relative.parts and not dropped(relative, patterns):
            yield path


def place_library(path: Path, copy: Path, shown: Path) -> None:
    """Put one file of a library at `copy`: a module as byte code only, anything else as it is.

    `shown` is the module's path in tracebacks.
    Byte code alone halves the size, and a read-only root could not keep it otherwise. Tracebacks still
    name file and line.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".py":
        py_compile.compile(
            str(path),
            cfile=str(copy.with_suffix(".pyc")),
            dfile=str(shown),
            doraise=True,
            optimize=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    else:
        shutil.copyfile(path, copy)
        copy.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def is_elf(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def needed(path: Path) -> set[Path]:
    """The shared objects that the loader opens for `path`, itself included. Exits if one is missing."""
    told = run(["ldd", str(path)], check=False)  # says so, and fails, for a statically linked one
    if "not found" in told:
        sys.exit(f"rootfs: {path} needs a shared object that is not there:\n{told}")
    return {Path(match) for match in re.findall(r"(/\S+) \(0x", told)}


def by_name(name: str) -> Path:
    """A shared object from the loader's cache."""
    told = run(["ldconfig", "-p"])
    match = re.search(rf"^\s*{re.escape(name)} .*=> (/\S+)$", told, re.MULTILINE)
    if match is None:
        sys.exit(f"rootfs: the base has no {name}")
    return Path(match.group(1))


def owners(files: Iterable[Path]) -> set[str]:
    """The Debian packages that the files come from; empty where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return set()
    names: set[str] = set()
    for file in files:
        # A merged /usr: the package may have recorded the path without it.
        spellings = [str(file), re.sub("^/usr", "", str(file)), str(file.resolve())]
        for line in run(["dpkg-query", "-S", *spellings], check=False).splitlines():
            if not line.startswith("diversion"):
                names.update(p.strip().split(":")[0] for p in line.rpartition(": ")[0].split(","))
    return names


def licences(out: Path, files: list[Path], site_out: Path) -> None:
    """Put the licence of every shipped component in place, and a list that names them all."""
    version = sys.version.split()[0]
    lines = [f"Python {version}: Python Software Foundation License 2.0, https://docs.python.org/3/license.html"]
    text = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if text.exists():
        target = out / DOC / "python" / "LICENSE.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(text, target)
    for package in sorted(owners(files)):
        told = run(["dpkg-query", "-W", "-f", "${Version} ${source:Package}", package]).split()
        where = Path("/", DOC, package, "copyright")
        if where.exists():
            target = out / where.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(where, target)
        lines.append(f"{package} {told[0]}: /{DOC}/{package}/copyright; Debian source package {told[1]}")
    for metadata in sorted(site_out.glob("*.dist-info/METADATA")):
        said = HeaderParser().parsestr(metadata.read_text())
        licence = said["License-Expression"] or (said["License"] or "").partition("\n")[0]
        if not licence:
            licence = "; ".join(c.rpartition(":: ")[2] for c in said.get_all("Classifier", []) if "License" in c)
        folder = metadata.parent.relative_to(out)
        lines.append(f"{said['Name']} {said['Version']}: {licence}; texts in /{folder}; sources on PyPI")
    notice = out / DOC / "metallb" / "COMPONENTS"
    notice.parent.mkdir(parents=True, exist_ok=True)
    notice.write_text(
        "What this image holds besides MetalLB itself, and under which licence:\n" + "\n".join(lines) + "\n"
    )


def runtime(libraries: Path, out: Path) -> None:
    """Everything but our own code."""
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    packages = Path(site.getsitepackages()[0])
    objects = [interpreter]
    sources = [interpreter]
    place(interpreter, out)
    command = out / "usr/bin/python3"
    if not command.exists():
        command.parent.mkdir(parents=True, exist_ok=True)
        command.symlink_to(os.path.relpath(interpreter, "/usr/bin"))
    for root, target, patterns in ((stdlib, stdlib, STDLIB_DROP), (libraries, packages, SITE_DROP)):
        for path in kept(root, patterns):
            shown = target / path.relative_to(root)
            place_library(path, out / shown.relative_to("/"), shown)
            if path.suffix != ".py" and is_elf(path):
                objects.append(path)
    sources.append(stdlib / "os.py")
    shared = {by_name(name) for name in LOADED_BY_NAME}.union(*(needed(path) for path in objects))
    carried = libraries.resolve()  # wheels bring some shared objects themselves: already in place
    for path in sorted(shared):
        if carried not in path.resolve().parents:
            place(path, out)
            sources.append(path)
    for name, text in ACCOUNTS.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    for name, mode in FOLDERS.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name).chmod(mode)
    licences(out, sources, out / packages.relative_to("/"))
    loader_cache(out)


def loader_cache(out: Path) -> None:
    """Tell the loader where the shared objects are, for folders that it does not know by itself."""
    folders = sorted(
        {f"/{p.parent.relative_to(out)}" for p in out.rglob("*.so*") if "python" not in p.parent.as_posix()}
    )
    conf = out / "etc/ld.so.conf"
    conf.write_text("\n".join(folders) + "\n")
    run(["ldconfig", "-X", "-r", str(out)])
    shutil.rmtree(out / "var", ignore_errors=True)  # ldconfig's own notes


def app(out: Path, trees: list[Path]) -> None:
    """Our packages, with sources (tracebacks show them) and byte code; their commands; the licence."""
    packages = out / Path(site.getsitepackages()[0]).relative_to("/")
    commands: dict[str, str] = {}
    for tree in trees:
        for path in kept(tree / "src", ("*.egg-info",)):
            copy = packages / path.relative_to(tree / "src")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o644)
        said = (tree / "pyproject.toml").read_text()
        section = re.search(r"^\[project\.scripts\]\n((?:\S.*\n)*)", said, re.MULTILINE)
        commands.update(re.findall(r'^(\S+) = "([^"]+)"$', section.group(1), re.MULTILINE) if section else [])
    compiled = compileall.compile_dir(
        packages,
        quiet=1,
        optimize=2,
        stripdir=str(out),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        sys.exit("rootfs: a module does not compile")
    for name, entry in sorted(commands.items()):
        module, _, function = entry.partition(":")
        script = out / "usr/bin" / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(
            f"#!/usr/bin/python3 -OO\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        script.chmod(0o755)
    licence = out / DOC / "metallb" / "LICENSE"
    licence.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("LICENSE"), licence)


def stamp(out: Path) -> None:
    """Give everything the same time."""
    for path in [*out.rglob("*"), out]:
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def main(arguments: list[str]) -> None:
    os.umask(0o022)
    match arguments:
        case ["runtime", libraries, out]:
            runtime(Path(libraries), Path(out))
            stamp(Path(out))
        case ["app", out, *trees] if trees:
            app(Path(out), [Path(t) for t in trees])
            stamp(Path(out))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
