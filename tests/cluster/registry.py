"""A registry for a cluster's nodes: Debian's docker-registry in the registry host, and pushing to it.

``start(cluster)`` makes it a part of the cluster: it ends with it, and what it stores is in the
cluster's own folder. ``push`` sends a docker archive, as ``docker push`` would send the image; the file
is a program of its own too (``registry.py ARCHIVE HOST:PORT/NAME:TAG``), so that it can be run inside a
network namespace. Plain HTTP: for registries that are reached over the namespaces' own switch.

Layers are sent as they are, not compressed: the wire is this machine's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster import Cluster

CHUNK = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class RegistryError(RuntimeError):
    """The registry does not take what it is sent, or does not answer; the text says which."""


def configuration(folder: Path, address: str) -> Path:
    """The registry's configuration file, written into `folder`, where it will keep what it is sent."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": {"addr": address, "secret": "one instance only"},
    }
    path = folder / "config.yml"
    path.write_text(json.dumps(config))  # YAML, of which JSON is a part
    return path


@contextlib.contextmanager
def local(folder: Path, port: int) -> Iterator[str]:
    """A registry on this machine's loopback for as long as the context lasts; its HOST:PORT."""
    config = configuration(folder, f"127.0.0.1:{port}")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > limit:
                raise RegistryError(f"docker-registry does not answer:\n{(folder / 'log').read_text()}")
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def start(cluster: Cluster) -> str:
    """Start the registry in the cluster's registry host, if it does not run; its HOST:PORT."""
    from tests.cluster.plan import REGISTRY, REGISTRY_PORT, url_host

    address = f"{url_host(cluster.plan.addresses(REGISTRY)[0])}:{REGISTRY_PORT}"
    folder = cluster.instance.folder / "registry"
    if "registry" not in cluster.processes.names():
        config = configuration(folder, f":{REGISTRY_PORT}")
        cluster.spawn("registry", "registry", "docker-registry", "serve", str(config))
    check = ["curl", "-sf", "-o", "/dev/null", f"http://{address}/v2/"]
    cluster.wait("the registry answers", lambda: cluster.run_in("registry", *check), timeout=20, every=0.05)
    return address


def push_from(cluster: Cluster, archive: Path, reference: str) -> None:
    """Push from the registry's own host, which is on the nodes' network. Raises ClusterError."""
    cluster.run_in("registry", sys.executable, "-S", str(Path(__file__).resolve()), str(archive), reference)


def push(archive: Path, reference: str) -> str:
    """Send a docker archive to HOST:PORT/NAME:TAG; the digest of its manifest. Raises RegistryError."""
    host, _, rest = reference.partition("/")
    name, _, tag = rest.rpartition(":")
    if not name:
        raise RegistryError(f"{reference}: expected HOST:PORT/NAME:TAG")
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        with contextlib.closing(connection), tarfile.open(archive) as tar:
            said = json.load(_member(tar, "manifest.json"))[0]
            layers = [_blob(connection, name, _member(tar, layer), LAYER) for layer in said["Layers"]]
            config = _blob(connection, name, _member(tar, said["Config"]), CONFIG)
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
            body = json.dumps(manifest).encode()
            headers = {"Content-Type": MANIFEST}
            answer = _send(connection, "PUT", f"/v2/{name}/manifests/{tag}", body, headers, expected=201)
            return answer.get("Docker-Content-Digest", "")
    except (OSError, http.client.HTTPException) as error:
        raise RegistryError(f"{host}: {error}") from None


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    member = tar.extractfile(name)
    if member is None:
        raise RegistryError(f"{name} in the archive is no file")
    return member


def _blob(connection: http.client.HTTPConnection, name: str, file: IO[bytes], media: str) -> dict[str, Any]:
    """Send one blob unless the registry has it; its descriptor."""
    digest, size = hashlib.sha256(), 0
    while part := file.read(CHUNK):
        digest.update(part)
        size += len(part)
    said = f"sha256:{digest.hexdigest()}"
    connection.request("HEAD", f"/v2/{name}/blobs/{said}")
    there = connection.getresponse()
    there.read()
    if there.status != 200:
        file.seek(0)
        where = _send(connection, "POST", f"/v2/{name}/blobs/uploads/", b"", {}, expected=202)["Location"]
        where += ("&" if "?" in where else "?") + f"digest={said}"
        path = where[where.index("/", where.index("//") + 2) :] if "//" in where else where
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        _send(connection, "PUT", path, file, headers, expected=201)
    return {"mediaType": media, "digest": said, "size": size}


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | IO[bytes],
    headers: dict[str, str],
    expected: int,
) -> dict[str, str]:
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != expected:
        raise RegistryError(f"{method} {path}: {answer.status} {text.decode(errors='replace')[:300]}")
    return dict(answer.getheaders())


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    start_time = time.monotonic()
    try:
        digest = push(Path(arguments[0]), arguments[1])
    except RegistryError as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    print(f"{arguments[1]} {digest} in {time.monotonic() - start_time:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
