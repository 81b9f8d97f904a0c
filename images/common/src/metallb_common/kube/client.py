"""Requests to the API server: raw JSON over one aiohttp session.

Why no models: a list of ten thousand Services as model objects costs hundreds of MiB, as views a
few. Why `kubernetes` is imported for a kubeconfig only: importing it costs 19 MiB of resident
memory, and a pod's own credentials are three files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from metallb_common.kube.errors import ApiError, Backoff

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Api", "ApiError", "Backoff", "connect"]

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
#: How long a rotated token may stay unread. The kubelet rotates at 80 % of an hour or more.
TOKEN_PERIOD = 30.0
#: A line of a watch is one object; etcd's default limit for one is 1.5 MiB, and JSON escapes grow it.
MAX_LINE = 32 << 20
#: Connections to the server: bounds what our writes may occupy of its in-flight budget.
CONNECTIONS = 24
#: Seconds for which a refusal is not believed while the server does not say whether it is ready.
DOUBT = 5.0
#: The same where it has allowed us nothing at all since: as one that knows no roles yet. What follows from a
#: refusal may hold as long as the process does (leading without a Lease), and a start may take its time.
LONG_DOUBT = 60.0
#: After this many seconds without such a refusal the next one is a new case.
FORGET = 60.0


class Credentials(Protocol):
    """Who we are to the API server."""

    def headers(self, now: float) -> Mapping[str, str]:
        """Authorization header, if any. `now` is monotonic seconds."""

    async def renew(self) -> bool:
        """After a 401: read everything anew. False when nothing changed."""


class PodCredentials:
    """A pod's projected token. Re-read when it may have been rotated."""

    def __init__(self, folder: str = SERVICE_ACCOUNT) -> None:
        self._path = os.path.join(folder, "token")
        self._token = ""
        self._read_at = float("-inf")

    def headers(self, now: float) -> Mapping[str, str]:
        if now - self._read_at >= TOKEN_PERIOD:
            self._read_at = now
            self._read()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _read(self) -> None:
        try:
            with open(self._path, encoding="ascii") as file:
                self._token = file.read().strip() or self._token
        except (OSError, UnicodeDecodeError):
            return  # being replaced right now: the old one still serves

    async def renew(self) -> bool:
        before = self._token
        self._read()
        return self._token != before


class KubeconfigCredentials:
    """A kubeconfig file: client certificates ride in the TLS context, tokens here."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.configuration: Any = None

    async def load(self) -> None:
        """Raises OSError or the library's ConfigException."""
        import kubernetes.aio.client as models  # lazy inside: only Configuration is loaded
        from kubernetes.aio.config import load_kube_config

        configuration = type.__call__(models.Configuration)
        await load_kube_config(config_file=self._path, client_configuration=configuration, persist_config=False)
        self.configuration = configuration

    def headers(self, now: float) -> Mapping[str, str]:
        value = self.configuration.api_key.get("BearerToken")
        if value:
            return {"Authorization": value}
        basic = self.configuration.get_basic_auth_token() if self.configuration.username else None
        return {"Authorization": basic} if basic else {}

    async def renew(self) -> bool:
        before = dict(self.headers(0.0))
        with contextlib.suppress(Exception):  # a half-written file: keep what we have
            await self.load()
        return dict(self.headers(0.0)) != before


class LineSplitter:
    """Bytes in, whole lines out. Raises ApiError for a line longer than any object can be."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        head, newline, rest = data.partition(b"\n")
        self._parts.append(head)
        self._size += len(head)
        if self._size > self._limit:
            raise ApiError(0, "Unreachable", f"the server sent a line of more than {self._limit} bytes")
        if not newline:
            return []
        lines = [b"".join(self._parts)]
        *whole, tail = rest.split(b"\n")
        lines += whole
        self._parts, self._size = ([tail], len(tail)) if tail else ([], 0)
        return [line for line in lines if line]


def tuned_socket(info: Any) -> socket.socket:
    """A socket that notices a dead peer within about 30 s, also while only waiting (RFC 1122 4.2.3.6)."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock


class Api:
    """The API server. Safe to use from many tasks of one event loop."""

    def __init__(
        self, session: aiohttp.ClientSession, base: str, credentials: Credentials, extra: dict[str, Any] | None = None
    ) -> None:
        self._session, self._base, self._credentials = session, base.rstrip("/"), credentials
        self._extra = extra or {}  # per-request options: TLS server name, proxy
        self._doubts: tuple[float, float] | None = None  # the first and the last refusal of which nothing was certain
        self._allowed_at = float("-inf")  # when the server last did what it was asked
        self._cut_off = False  # whether the last attempt found no server
        self._at_return: set[Callable[[], None]] = set()
        self.requests = 0

    def when_back(self, call: Callable[[], None]) -> Callable[[], None]:
        """`call` when the server answers anybody, after one who could not reach it. Returns what ends that."""
        self._at_return.add(call)
        return lambda: self._at_return.discard(call)

    async def rest(self, seconds: float) -> None:
        """Wait before asking again: `seconds`, or about one when the server answers somebody else again."""
        back = asyncio.Event()
        end = self.when_back(back.set)
        try:
            # The second: where one of several servers is down, every other request finds one that answers.
            least = min(seconds, random.uniform(0.5, 1.0))  # noqa: S311
            await asyncio.sleep(least)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(back.wait(), seconds - least)
        finally:
            end()

    def _answered(self) -> None:
        self._allowed_at = asyncio.get_running_loop().time()
        if self._cut_off:
            self._cut_off = False
            for call in tuple(self._at_return):
                call()

    def _url(self, path: str, query: Mapping[str, str] | None) -> Any:
        from yarl import URL

        return URL(self._base + path + ("?" + urlencode(query) if query else ""), encoded=True)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109 (given to the HTTP client, which cleans up its connection)
        content_type: str = "application/json",
        once: bool = False,
        parse: bool = True,
    ) -> dict[str, Any]:
        """One request, `timeout` seconds. Raises ApiError; retries only an expired token.

        Without `parse` only whether it was done is of interest: the answer is ``{}``.

        A 403 is raised as such when it is certain: a server that has just started knows no roles yet, and
        refuses everybody everything. That is raised as 503. With `once` nothing is sent a second time, for who
        must look first whether it still may: the next request has the new token, and a 403 is less certain.
        """
        try:
            return await self._request(method, path, body, query, timeout, content_type, once=once, parse=parse)
        except ApiError as error:
            if not error.denied:
                raise
            await self._believe(error)
            if once:
                raise
        return await self._request(method, path, body, query, timeout, content_type, parse=parse)

    async def _believe(self, error: ApiError) -> None:
        """Whether a refusal was one: returns when the server is ready, so that asking again gives the answer."""
        now = asyncio.get_running_loop().time()
        try:
            await self._request("GET", "/readyz", None, None, 1.0, "", parse=False)
            self._doubts = None
            return
        except ApiError as state:
            if state.denied:  # it may be that we may not ask that, either
                first, last = self._doubts or (now, now)
                first = now if now - last > FORGET else first
                self._doubts = (first, now)
                if now - first >= (DOUBT if self._allowed_at > first else LONG_DOUBT):
                    return
        text = f"the server may have just started and know no roles yet: {error.message}"
        raise ApiError(503, "NotReady", text, error.retry_after) from None

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str] | None,
        seconds: float,
        content_type: str,
        *,
        parse: bool = True,
        once: bool = False,
    ) -> dict[str, Any]:
        import aiohttp

        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        limit = aiohttp.ClientTimeout(total=seconds)
        for last in (False, True):
            headers = dict(self._credentials.headers(asyncio.get_running_loop().time()))
            if data is not None:
                headers["Content-Type"] = content_type
            self.requests += 1
            try:
                async with self._session.request(
                    method, self._url(path, query), data=data, headers=headers, timeout=limit, **self._extra
                ) as answer:
                    raw, status = await answer.read(), answer.status
                    retry_after = answer.headers.get("Retry-After")
            except TimeoutError:
                raise ApiError(0, "Unreachable", f"{method} {path}: no answer in {seconds:g} s") from None
            except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
                self._cut_off = True
                raise ApiError(0, "Unreachable", f"{method} {path}: {error or type(error).__name__}") from None
            if status == 401 and not last and await self._credentials.renew() and not once:
                continue
            decoded = self._judge(status, raw if parse or status >= 300 else b"", retry_after)
            self._answered()  # and that it is of use: a server that starts or stops says so in an error
            return decoded
        raise AssertionError("unreachable")

    @staticmethod
    def _judge(status: int, raw: bytes, retry_after: str | None) -> dict[str, Any]:
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = {"message": raw[:200].decode("utf-8", "replace").strip()}
            if status < 300:
                raise ApiError(0, "Unreachable", "the answer is not JSON") from None
        if not isinstance(body, dict):
            body = {"message": str(body)[:200]}
        if status >= 300:
            raise ApiError.from_status(status, body, retry_after)
        return body

    async def stream(self, path: str, query: Mapping[str, str], *, idle: float) -> AsyncIterator[bytes]:
        """Lines of a watch until the server ends it. Raises ApiError, also after `idle` silent seconds.

        Close it (contextlib.aclosing) when leaving early. A 403 is certain, as in `request`.
        """
        lines = self._stream(path, query, idle)
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    yield line
            return
        except ApiError as error:
            if not error.denied:
                raise
            await self._believe(error)
        again = self._stream(path, query, idle)
        async with contextlib.aclosing(again):
            async for line in again:
                yield line

    async def _stream(self, path: str, query: Mapping[str, str], idle: float) -> AsyncGenerator[bytes, None]:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=idle)
        headers = self._credentials.headers(asyncio.get_running_loop().time())
        self.requests += 1
        try:
            async with self._session.get(
                self._url(path, query), headers=headers, timeout=limit, **self._extra
            ) as answer:
                if answer.status != 200:
                    raw, retry_after = await answer.read(), answer.headers.get("Retry-After")
                    if answer.status == 401:
                        await self._credentials.renew()
                    self._judge(max(answer.status, 300), raw, retry_after)
                self._answered()
                splitter = LineSplitter()
                async for chunk in answer.content.iter_any():
                    for line in splitter.feed(chunk):
                        yield line
        except TimeoutError:
            raise ApiError(0, "Unreachable", f"watch {path}: silent for {idle:g} s") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            self._cut_off = True
            raise ApiError(0, "Unreachable", f"watch {path}: {error or type(error).__name__}") from None

    async def close(self) -> None:
        """Drop every connection at once: nobody is told goodbye whose answer we would wait for."""
        if self._session.connector is not None:
            await self._session.connector.close(abort_ssl=True)
        await self._session.close()
        await asyncio.sleep(0.05)  # some turns for the transports to let go of their sockets, TLS above TCP


def _import_aiohttp() -> None:
    """Import it without the system's certificates.

    It reads them all as it is imported, for contexts that nothing here uses: 50 ms of every start, and 2 MiB.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        import aiohttp  # noqa: F401
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def in_pod() -> bool:
    """Whether Kubernetes told this process where its API server is."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST") and os.environ.get("KUBERNETES_SERVICE_PORT"))


def default_kubeconfig() -> str:
    return os.path.expanduser("~/.kube/config")


async def connect(kubeconfig: str = "", *, folder: str = SERVICE_ACCOUNT) -> Api:
    """An Api from `kubeconfig`, else from the pod's own files, else from $KUBECONFIG or ~/.kube/config.

    Opens no connection yet. Raises ApiError (status 0) when there are no usable credentials.
    """
    _import_aiohttp()
    import aiohttp

    extra: dict[str, Any] = {}
    credentials: Credentials
    if not kubeconfig and in_pod():
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        credentials = PodCredentials(folder)
        if not credentials.headers(asyncio.get_running_loop().time()):
            raise ApiError(0, "Unreachable", f"no ServiceAccount token in {folder}")
        try:
            context = ssl.create_default_context(cafile=os.path.join(folder, "ca.crt"))
        except (OSError, ssl.SSLError) as error:
            raise ApiError(0, "Unreachable", f"{folder}/ca.crt: {error}") from None
    else:
        path = kubeconfig or os.environ.get("KUBECONFIG") or default_kubeconfig()
        credentials = KubeconfigCredentials(path)
        try:
            await credentials.load()
            told = credentials.configuration
            base = told.host
            context = ssl.create_default_context(cafile=told.ssl_ca_cert)
            if told.cert_file:
                context.load_cert_chain(told.cert_file, told.key_file)
        except Exception as error:  # the library's own errors have no common base
            raise ApiError(0, "Unreachable", f"kubeconfig {path}: {error}") from None
        if not told.verify_ssl:  # the user's own insecure-skip-tls-verify
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if told.tls_server_name:
            extra["server_hostname"] = told.tls_server_name
        if told.proxy:
            extra["proxy"] = told.proxy
    # Python 3.13 turned on VERIFY_X509_STRICT; many clusters' own CAs lack a key identifier.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    connector = aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS, keepalive_timeout=60, socket_factory=tuned_socket)
    session = aiohttp.ClientSession(
        connector=connector,
        # Compressing costs the server more than a local wire does.
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "metallb"},
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=1 << 18,
    )
    return Api(session, base, credentials, extra)
