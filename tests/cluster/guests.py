"""Images that run in the cluster and are not the product: the sandbox and web backend, and a real nginx.

Built once into the toolchain's cache, named by a hash of what they are made of.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.cluster import toolchain
from tests.cluster.archive import Entry, Settings, architecture, write
from tests.cluster.instance import ClusterError

#: The sandbox of every pod, and the backend that says who answered: ``args: [web, "8080"]``.
GUEST = "localhost/cluster-guest:1"
_SOURCE = Path(__file__).with_name("guest")


def guest() -> Path:
    """The docker archive of `GUEST`, built now if its source has changed. Raises ToolchainError."""
    sources = sorted(p for p in _SOURCE.iterdir() if p.suffix in (".go", ".mod"))
    digest = hashlib.sha256(b"\0".join([architecture().encode(), *(p.read_bytes() for p in sources)])).hexdigest()[:16]
    out = toolchain.cache() / f"guest-{digest}.tar"
    if out.exists():
        return out
    with toolchain.locked("guest"):
        if not out.exists():
            toolchain.say("building the guest image")
            write(out, GUEST, {"guest": Entry(_compile(), 0o755)}, Settings(["/guest"], user="65534:65534"))
    return out


def _compile() -> bytes:
    go = shutil.which("go")
    if go is None:
        raise toolchain.ToolchainError("the guest image needs a Go compiler: install Go 1.24 or newer")
    with tempfile.TemporaryDirectory() as work:
        env = dict(os.environ, CGO_ENABLED="0", GOFLAGS="-trimpath -buildvcs=false", GOWORK="off")
        command = [go, "build", "-ldflags=-s -w", "-o", f"{work}/guest", "."]
        told = subprocess.run(command, cwd=_SOURCE, env=env, capture_output=True, text=True, check=False)
        if told.returncode:
            raise toolchain.ToolchainError(f"building the guest failed:\n{told.stderr}")
        return Path(work, "guest").read_bytes()


_NGINX_CONF = """daemon off;
user nobody nogroup;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {}
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server {
    listen 80 default_server;
    listen [::]:80 default_server;
    root /usr/share/nginx/html;
  }
}
"""


def nginx(reference: str = "docker.io/library/nginx:latest") -> Path:
    """A docker archive of Debian's nginx with its welcome page, under the name `reference`.

    Made of the Debian packages, the program and the libraries that it links to; nothing is installed
    on the machine. Raises ClusterError.
    """
    name = re.sub(r"[^a-zA-Z0-9.]+", "-", reference)
    digest = hashlib.sha256((_NGINX_CONF + architecture()).encode()).hexdigest()[:12]
    out = toolchain.cache() / f"nginx-{digest}-{name}.tar"
    if out.exists():
        return out
    with toolchain.locked("nginx"):
        if not out.exists():
            toolchain.say("making the nginx image from Debian's packages")
            with tempfile.TemporaryDirectory() as work:
                entries = _nginx_files(Path(work))
            write(out, reference, entries, Settings(["/usr/sbin/nginx"], ports=["80/tcp"]))
    return out


def _nginx_files(work: Path) -> dict[str, Entry]:
    _debian(work, ["nginx", "nginx-common"])
    root = work / "root"
    program = root / "usr/sbin/nginx"
    told = _run(["ldd", str(program)])
    libraries = re.findall(r"^\s*(?:\S+ => )?(/\S+) \(", told, re.MULTILINE)
    missing = re.findall(r"^\s*(\S+) => not found", told, re.MULTILINE)
    if missing:
        raise ClusterError(f"nginx needs libraries that this machine lacks: {', '.join(missing)}")
    entries = {
        "usr/sbin/nginx": Entry(program.read_bytes(), 0o755),
        "etc/nginx/nginx.conf": Entry(_NGINX_CONF.encode()),
        "etc/nginx/mime.types": Entry((root / "etc/nginx/mime.types").read_bytes()),
        "usr/share/nginx/html/index.html": Entry((root / "usr/share/nginx/html/index.html").read_bytes()),
        "etc/passwd": Entry(b"root:x:0:0:root:/:/none\nnobody:x:65534:65534:nobody:/:/none\n"),
        "etc/group": Entry(b"root:x:0:\nnogroup:x:65534:\n"),
        "tmp": Entry(folder=True, mode=0o1777),
        "var/log/nginx": Entry(folder=True, mode=0o755),
        "var/lib/nginx": Entry(folder=True, mode=0o755),
    }
    for library in libraries:
        entries[library.lstrip("/")] = Entry(Path(library).read_bytes(), 0o755)
    return entries


def _debian(work: Path, packages: list[str]) -> None:
    """Fetch Debian packages and unpack them below `work`/root."""
    (work / "root").mkdir()
    for pause in (0, 20, None):
        told = subprocess.run(
            ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *packages],
            cwd=work, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if told.returncode == 0:
            break
        if pause is None:
            raise ClusterError(f"apt-get download {' '.join(packages)}: {told.stderr.strip()}")
        time.sleep(pause)
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)  # the list may be old
    for package in work.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(work / "root")])


def _run(argv: list[str]) -> str:
    told = subprocess.run(argv, capture_output=True, text=True, check=False)
    if told.returncode:
        raise ClusterError(f"{' '.join(argv)}: {told.stderr.strip()}")
    return told.stdout
