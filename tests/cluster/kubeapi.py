"""A minimal client of the Kubernetes API: JSON in, JSON out. Starting kubectl costs 50 ms each time; this does not."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.instance import ClusterError


class KubeApi:
    """Requests with the client certificate of a kubeconfig that `pki` wrote. One connection per request."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        where = urllib.parse.urlsplit(cluster["server"])
        self._host, self._port = where.hostname or "", where.port or 443
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as both:  # ssl reads client certificates from files only
            both.write(base64.b64decode(user["client-certificate-data"]))
            both.write(base64.b64decode(user["client-key-data"]))
            both.flush()
            self._tls.load_cert_chain(both.name)

    def text(self, path: str, *, method: str = "GET", body: Any = None, kind: str = "", timeout: float = 10.0) -> str:
        """The body of the answer. Raises ClusterError for any other status than 2xx, OSError if none answers."""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        try:
            headers = {"Content-Type": kind or "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise ClusterError(f"{method} {path}: {answer.status} {text.strip()[:500]}")
        return text

    def lines(self, path: str, timeout: float = 60.0) -> Iterator[bytes]:
        """The lines of an answer that goes on, such as a watch's. Raises OSError after `timeout` without one."""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        try:
            connection.request("GET", path)
            yield from iter(connection.getresponse().readline, b"")
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        return dict(json.loads(self.text(path)))

    def ready(self) -> bool:
        """Whether the API server answers and says that it is ready."""
        try:
            return self.text("/readyz", timeout=3).strip() == "ok"
        except (OSError, ClusterError):
            return False

    def ready_nodes(self) -> set[str]:
        """The names of the nodes whose condition Ready is True; none if the server does not answer."""
        try:
            items = self.get("/api/v1/nodes")["items"]
        except (OSError, ClusterError):
            return set()
        return {
            item["metadata"]["name"]
            for item in items
            for c in item["status"].get("conditions", [])
            if c["type"] == "Ready" and c["status"] == "True"
        }
