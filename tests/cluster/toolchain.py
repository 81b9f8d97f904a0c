"""The programs that the embedded cluster and the tests need, each pinned, and where they are.

A program that is on PATH in the pinned version is used. Any other is built once from its Go
module into a cache outside the tree (``$METALLB_CACHE``, else ``$XDG_CACHE_HOME/metallb-tools``,
else ``~/.cache/metallb-tools``), one folder per version, so that the second run costs nothing.

Trust: each module is pinned by its ``h1:`` hash (the same hash that a go.sum line carries). That
hash covers the module's own go.sum, which seeds the build's, so every dependency is pinned too.

Only the standard library is used: this runs before there is a virtual environment.
Usage: ``python3 tests/cluster/toolchain.py [GROUP...]`` builds what is missing and prints paths.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

KUBERNETES = "1.36.3"


class ToolchainError(RuntimeError):
    """A program can neither be found nor built; the text says which, why, and what to do."""


@dataclass(frozen=True)
class GoModule:
    """A Go module and the commands to build from it."""

    name: str  # the group: what a user names on the command line
    module: str
    version: str
    h1: str  # hash of the module's tree, as in go.sum
    commands: dict[str, str]  # binary name -> package path below the module
    ldflags: str = "-s -w"
    replace: dict[str, str] = field(default_factory=dict)  # on top of the module's own replaces
    staging: str = ""  # version of modules that upstream replaces with a folder of its own tree
    sums: tuple[str, ...] = ()  # lines of go.sum for what `replace` and `staging` bring in
    optional: bool = False  # built only when named: what needs it can do without
    no_checksum_db: bool = False  # the checksum database may lack it; h1 still pins it
    path_version: tuple[str, ...] = ()  # how a program on PATH tells its version
    path_pattern: str = ""  # what its answer must contain to be taken from PATH

    @property
    def key(self) -> str:
        return f"{self.name}-{self.version}"


def _kubernetes_ldflags() -> str:
    major, minor, _ = KUBERNETES.split(".")
    base = "k8s.io/component-base/version"
    stamps = {
        "gitVersion": f"v{KUBERNETES}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    return "-s -w " + " ".join(f"-X {base}.{k}={v}" for k, v in stamps.items())


_K8S_COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")

MODULES: tuple[GoModule, ...] = (
    GoModule(
        "helm",
        "helm.sh/helm/v3",
        "v3.22.0",
        "h1:n1if5iQgHYsujPAcO5oonH/KiSNUmqmUF0iGVjSF3AU=",
        {"helm": "cmd/helm"},
        ldflags="-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0",
        path_version=("version", "--short"),
        path_pattern=r"^v3\.(1[4-9]|[2-9]\d)\.",
    ),
    GoModule(
        "containerd",
        "github.com/containerd/containerd/v2",
        "v2.4.2",
        "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw=",
        {
            "containerd": "cmd/containerd",
            "containerd-shim-runc-v2": "cmd/containerd-shim-runc-v2",
            "ctr": "cmd/ctr",
        },
        ldflags="-s -w -X github.com/containerd/containerd/v2/version.Version=v2.4.2",
        path_version=("--version",),
        path_pattern=r"v?2\.\d+\.\d+",
    ),
    GoModule(
        "kubernetes",
        "k8s.io/kubernetes",
        f"v{KUBERNETES}",
        "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o=",
        {c: f"cmd/{c}" for c in _K8S_COMMANDS},
        ldflags=_kubernetes_ldflags(),
        staging="v0" + KUBERNETES[1:],
        path_version=("--version",),
        path_pattern=rf"v{re.escape(KUBERNETES)}\b",
    ),
    GoModule(
        "helm-unittest",
        "github.com/helm-unittest/helm-unittest",
        "v1.1.2",
        "h1:r1Ah6Pr3h4kqvd65RN+r0FNTIGrJa+P9rcMyzwHEXXQ=",
        {"untt": "cmd/helm-unittest"},
    ),
    GoModule(
        "kubeconform",
        "github.com/yannh/kubeconform",
        "v0.8.0",
        "h1:loDYd3a3spjIFrauqW67CDKF55Oo9R6uvC8AvpVd4ug=",
        {"kubeconform": "cmd/kubeconform"},
        path_version=("-v",),
        path_pattern=r"v?0\.(6|7|8)\.",
    ),
    GoModule(
        "helm4",
        "helm.sh/helm/v4",
        "v4.3.1",
        "h1:UndCoLe9UPmNoL7IvWzaUXveL7T5t/ijoorEmgJdI9g=",
        {"helm4": "cmd/helm"},
        ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
    ),
    GoModule(
        "chart-testing",
        "github.com/helm/chart-testing/v3",
        "v3.14.0",
        "h1:OpvIyKdogEeeLK/LIWx3T/M4EC/mkYx4OUw64EODaB8=",
        {"ct": "ct"},
        no_checksum_db=True,
        path_version=("version",),
        path_pattern=r"Version:\s+v?3\.",
    ),
    GoModule(
        "helm-docs",
        "github.com/norwoodj/helm-docs",
        "v1.14.2",
        "h1:Ew3bCq1hZqMnnTopkk66Uy2mGwu/jAclAx+3JAVp1To=",
        {"helm-docs": "cmd/helm-docs"},
        path_version=("--version",),
        path_pattern=r"1\.14\.",
    ),
    GoModule(
        "actionlint",
        "github.com/rhysd/actionlint",
        "v1.7.12",
        "h1:vQ4GeJN86C0QH+gTUQcs8McmK62OLT3kmakPMtEWYnY=",
        {"actionlint": "cmd/actionlint"},
        path_version=("-version",),
        path_pattern=r"^v?1\.7\.",
    ),
    # What reads the chart in many clusters. The two of Flux are run; of Argo CD the schema of its Application is read.
    GoModule(
        "flux-source-controller",
        "github.com/fluxcd/source-controller",
        "v1.9.6",
        "h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc=",
        {"source-controller": "."},
        # The patch release of this library that it names is not served by every module proxy.
        replace={"github.com/fluxcd/pkg/artifact": "github.com/fluxcd/pkg/artifact v0.18.1"},
        staging="v1.9.6",
        sums=(
            "github.com/fluxcd/pkg/artifact v0.18.1 h1:YSaEWpEKgtcvUCBx9R71VknpPUzss7hWuvzdG0wjxr8=",
            "github.com/fluxcd/pkg/artifact v0.18.1/go.mod h1:JzPXOu/OQsPR3Wvh6ki249ENPD2CAorQXxEQ3bEiIT4=",
            "github.com/fluxcd/source-controller/api v1.9.6 h1:h9+CsJVw4CNbMEsnEb11SGEhLfKzVTkWC0w7M8VX4Hk=",
            "github.com/fluxcd/source-controller/api v1.9.6/go.mod h1:Y5mcHYzML/mJYjvSJRcIo7eLLjd+cZjnKR6WeIGrouE=",
        ),
        optional=True,
    ),
    GoModule(
        "flux-helm-controller",
        "github.com/fluxcd/helm-controller",
        "v1.6.4",
        "h1:u/Ew7LehrwDQaE/NqWdaB3XnNDCxRGDcp1FZl7RKj4g=",
        {"helm-controller": "."},
        staging="v1.6.4",
        sums=(
            "github.com/fluxcd/helm-controller/api v1.6.4 h1:jDgB87F6RRNF0QEZDAw+8+HPU13toF5IZpPsytA0Nuo=",
            "github.com/fluxcd/helm-controller/api v1.6.4/go.mod h1:mYa4WKwgCCE59dMdYzOJI6B17/wofN6wtmtjWWEQesQ=",
        ),
        optional=True,
    ),
    GoModule(
        "argo-cd",
        "github.com/argoproj/argo-cd/v3",
        "v3.4.13",
        "h1:kmnF4nE5SQ83OhtdX6DMmLSpH0eRIa1gNYdCLNHqB+A=",
        {},
        optional=True,
    ),
    # Of the Prometheus Operator, too, only the schemas of its kinds are read.
    GoModule(
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        {},
    ),
)
BY_NAME = {m.name: m for m in MODULES}
BY_COMMAND = {c: m for m in MODULES for c in m.commands}

#: Debian packages by what needs them. Keys are the groups that a caller names.
PACKAGES: dict[str, tuple[str, ...]] = {
    "cluster": (
        "etcd-server",
        "runc",
        "containernetworking-plugins",
        "nftables",
        "conntrack",
        "iproute2",
        "iptables",
        "openssl",
        "procps",
        "curl",
    ),
    "images": ("buildah", "debootstrap", "docker-registry", "fuse-overlayfs"),
    "wire": ("arping", "ndisc6", "iputils-ping", "tcpdump"),
    "routers": ("frr", "bird2", "gobgpd", "exabgp"),
    "monitoring": ("prometheus",),
}


def cache() -> Path:
    """The folder that keeps what was built, outside the tree."""
    explicit = os.environ.get("METALLB_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "metallb-tools"


def say(text: str) -> None:
    """One line of progress on standard error, so that standard output stays usable in scripts."""
    print(f"toolchain: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One builder of `name` at a time on this machine; a second one waits and says so."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / f".{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another run is at it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find(command: str) -> Path | None:
    """Where `command` is now: in the cache, or on PATH in the pinned version; else None."""
    module = BY_COMMAND[command]
    built = cache() / module.key / command
    if built.exists():
        return built
    if module.path_pattern and (on_path := shutil.which(command)):
        try:
            told = subprocess.run(
                [on_path, *module.path_version], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if re.search(module.path_pattern, told.stdout + told.stderr, re.MULTILINE):
            return Path(on_path)
    return None


def path(command: str) -> Path:
    """Where `command` is, built now if it is nowhere yet. Raises ToolchainError."""
    found = find(command)
    if found is None:
        ensure([BY_COMMAND[command].name])
        found = find(command)
    if found is None:
        raise ToolchainError(f"{command} was built but is not there; remove {cache()} and run again")
    return found


def ensure(groups: Iterable[str]) -> None:
    """Build every command of the named groups that is nowhere yet. Raises ToolchainError."""
    for name in groups:
        module = BY_NAME[name]
        if all(find(c) for c in module.commands):
            continue
        with locked(module.key):
            missing = [c for c in module.commands if not find(c)]
            if missing:
                _build(module, missing)


def _go_environment(module: GoModule) -> dict[str, str]:
    env = dict(os.environ, GOFLAGS="-mod=mod -trimpath -buildvcs=false", CGO_ENABLED="0", GOWORK="off")
    if module.no_checksum_db:
        env["GONOSUMDB"] = module.module.rsplit("/v", 1)[0]
        env["GONOSUMCHECK"] = "1"
    return env


def source(name: str) -> Path:
    """The tree of a group's module, fetched into Go's own cache and compared with the pin. Raises ToolchainError."""
    module = BY_NAME[name]
    return Path(_fetch(module, _go_environment(module))["Dir"])


#: What Go says when not the module but the way to it is at fault: worth another try.
_NETWORK = re.compile(
    r"timeout|timed out|connection re(set|fused)|EOF|TLS|no route|temporary failure|50[0-9] |429 ", re.I
)


def _fetch(module: GoModule, env: dict[str, str]) -> dict[str, str]:
    """What Go says of the fetched module, its hash checked. Raises ToolchainError."""
    go = shutil.which("go")
    if go is None:
        raise ToolchainError(
            f"{', '.join(module.commands) or module.name} not found on PATH, and there is no Go compiler to build "
            f"with: install Go 1.26 or newer, or put {module.name} {module.version} on PATH"
        )
    say(f"{module.name} {module.version}: fetching")
    for pause in (2, 10, None):
        told = subprocess.run(
            [go, "mod", "download", "-json", f"{module.module}@{module.version}"],
            env=env,
            capture_output=True,
            text=True,
            cwd=tempfile.gettempdir(),
            check=False,
        )
        try:
            info: dict[str, str] = json.loads(told.stdout)
        except json.JSONDecodeError:
            info = {"Error": told.stderr.strip()}
        if not info.get("Error"):
            break
        if pause is None or not _NETWORK.search(info["Error"]):
            raise ToolchainError(f"cannot fetch {module.module}@{module.version}: {info['Error']}")
        say(f"{module.name}: the network failed ({info['Error'].splitlines()[-1][:200]}); again in {pause} s")
        time.sleep(pause)
    if info.get("Sum") != module.h1:
        raise ToolchainError(f"{module.module}@{module.version}: hash is {info.get('Sum')}, pinned is {module.h1}")
    return info | {"Go": go}


def _build(module: GoModule, commands: list[str]) -> None:
    env = _go_environment(module)
    info = _fetch(module, env)
    go = info["Go"]
    final = cache() / module.key
    final.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{module.name}-", dir=cache()) as work:
        _write_wrapper(module, Path(info["GoMod"]), Path(info["Dir"]), Path(work), env, go)
        for number, command in enumerate(commands, 1):
            # Written next to its final place and renamed: a killed build leaves no half program.
            out = Path(work) / f"{command}.out"
            package = f"{module.module}/{module.commands[command]}"
            label = f"{module.name} {command} ({number} of {len(commands)})"
            _run_with_progress(
                [go, "build", "-v", f"-ldflags={module.ldflags}", "-o", str(out), package], work, env, label
            )
            out.rename(final / command)


def _write_wrapper(module: GoModule, go_mod: Path, source: Path, work: Path, env: dict[str, str], go: str) -> None:
    """A module of our own that requires `module` and repeats its replaces.

    Why: ``go install module@version`` refuses modules whose go.mod has replaces.
    """
    told = subprocess.run(
        [go, "mod", "edit", "-json", str(go_mod)], env=env, capture_output=True, text=True, check=True
    )
    upstream = json.loads(told.stdout)
    lines = ["module wrapper", "", f"go {upstream['Go']}", "", f"require {module.module} {module.version}"]
    for entry in upstream.get("Replace") or []:
        old, new = entry["Old"]["Path"], entry["New"]
        if new["Path"].startswith("."):
            lines.append(f"replace {old} => {old} {module.staging}")
        else:
            lines.append(f"replace {old} => {new['Path']} {new['Version']}")
    lines += [f"replace {old} => {new}" for old, new in module.replace.items()]
    (work / "go.mod").write_text("\n".join(lines) + "\n")
    sums = (source / "go.sum").read_text() if (source / "go.sum").exists() else ""
    (work / "go.sum").write_text(sums + "".join(f"{line}\n" for line in module.sums))


def _run_with_progress(command: list[str], cwd: str, env: dict[str, str], label: str) -> None:
    """Run a Go build, telling every ten seconds how many packages are compiled.

    A cold build of kube-apiserver takes minutes; silence would look like a hang.
    """
    start = time.monotonic()
    count = 0
    done = threading.Event()

    def heartbeat() -> None:
        while not done.wait(10):
            say(f"{label}: {count} packages compiled, {time.monotonic() - start:.0f} s")

    threading.Thread(target=heartbeat, daemon=True).start()
    try:
        for pause in (2, 10, None):
            tail: list[str] = []
            with subprocess.Popen(
                command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stderr is not None
                for line in process.stderr:
                    count += 1
                    tail = [*tail[-19:], line.rstrip()]
            if not process.returncode:
                break
            text = "\n  ".join(tail)
            if pause is None or not _NETWORK.search(text):  # what is compiled already is not compiled again
                raise ToolchainError(f"{label} failed:\n  {text}")
            say(f"{label}: the network failed ({tail[-1][:200]}); again in {pause} s")
            time.sleep(pause)
    finally:
        done.set()
    say(f"{label}: built in {time.monotonic() - start:.0f} s")


def packages(groups: Iterable[str]) -> None:
    """Install the Debian packages of the named groups that are missing. Raises ToolchainError.

    Services are kept from starting: the packages are wanted for their programs only.
    """
    wanted = [p for g in groups for p in PACKAGES[g]]
    told = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    there = {line.split()[0] for line in told.stdout.splitlines() if line.endswith(" installed")}
    missing = [p for p in wanted if p not in there]
    if not missing:
        return
    if os.geteuid() != 0:
        raise ToolchainError(f"missing packages; as root: apt-get install {' '.join(missing)}")
    with locked("apt"):
        say(f"installing {' '.join(missing)}")
        policy = Path("/usr/sbin/policy-rc.d")
        ours = not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
            options = ["-y", "-q", "-o", "Acquire::Retries=3", "--no-install-recommends"]
            install = ["apt-get", "install", *options, *missing]
            log = cache() / "apt.log"
            with open(log, "w") as out:
                for pause in (0, 20, None):
                    code = subprocess.run(install, env=env, stdout=out, stderr=out, check=False).returncode
                    if not code or pause is None:
                        break
                    say("refreshing the package lists")  # old or missing; or the network failed
                    time.sleep(pause)
                    subprocess.run(["apt-get", "update", "-q"], env=env, stdout=out, stderr=out, check=False)
            if code:
                raise ToolchainError(f"apt-get install {' '.join(missing)} failed:\n{log.read_text()[-2000:]}")
        finally:
            if ours:
                policy.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    try:
        for name in arguments or [m.name for m in MODULES if not m.optional]:
            if name in PACKAGES:
                packages([name])
            elif name in BY_NAME:
                ensure([name])
                if not BY_NAME[name].commands:
                    print(f"{name}\t{source(name)}")
                for command in BY_NAME[name].commands:
                    print(f"{command}\t{find(command)}")
            else:
                known = ", ".join([*BY_NAME, *PACKAGES])
                raise ToolchainError(f"unknown group {name!r}; known: {known}")
    except ToolchainError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
