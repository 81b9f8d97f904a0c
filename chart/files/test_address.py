"""Run by `helm test`: python3 -c THIS NAMESPACE SERVICE SPEAKERS PORT. Exits 0 when the Service's address is announced
and answers. SPEAKERS is the label selector of their pods, PORT that of their pages.

What answers here may be this node's own kube-proxy, which lets no packet for the address leave the node. That the
network learns of the address, the speakers themselves must say.
"""

import http.client
import json
import os
import socketserver
import ssl
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote

namespace, service, speakers, port = sys.argv[1:5]
account = "/var/run/secrets/kubernetes.io/serviceaccount"
api = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
answer = os.urandom(16).hex().encode()


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    address_family = 10 if os.path.exists("/proc/net/if_inet6") else 2  # AF_INET6 takes IPv4 as well
    allow_reuse_address = True


def get(connection, path, headers):
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        body = reply.read()
    finally:
        connection.close()
    if reply.status != 200:
        raise OSError(f"{path}: {reply.status} {reply.reason}")
    return body


def ask(path):
    with open(f"{account}/token") as file:
        headers = {"Authorization": f"Bearer {file.read()}"}
    context = ssl.create_default_context(cafile=f"{account}/ca.crt")
    connection = http.client.HTTPSConnection(*api, context=context, timeout=5)
    return json.loads(get(connection, f"/api/v1/namespaces/{namespace}/{path}", headers))


def until(what, test):
    """Ask until there is an answer. `test` raises OSError, which says why there is none yet."""
    end = time.monotonic() + 50
    last = ""
    while time.monotonic() < end:
        try:
            found = test()
            if found:
                print(f"{what}: {found}", flush=True)
                return found
        except OSError as error:
            last = f" ({error})"
        time.sleep(0.5)
    sys.exit(f"no {what} after 50 s{last}")


def addresses():
    return [i["ip"] for i in ask(f"services/{service}")["status"].get("loadBalancer", {}).get("ingress", [])]


def announcement(address):
    """Who announces the address, and how; one node is enough. Raises OSError with what each speaker says instead."""
    reasons = []
    for pod in ask(f"pods?labelSelector={quote(speakers)}")["items"]:
        node, host = pod["spec"].get("nodeName"), pod["status"].get("hostIP")
        try:
            metrics, status = speaker(host, "/metrics").decode(), json.loads(speaker(host, "/status"))
            return f"{node} by {told(address, metrics, status)}"
        except OSError as error:
            reasons.append(f"{node}: {error}")
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    raise OSError("; ".join(reasons[:5] or ["there is no speaker"]) + more)


def speaker(host, path):
    try:
        return get(http.client.HTTPConnection(host, int(port), timeout=3), path, {})
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{host}:{port}{path} cannot be read from a pod: {error!r}") from None


def told(address, metrics, status):
    """How a speaker announces the address: the layer 2 interfaces where it answers, or the BGP peers that have it."""
    answering = ("trusting", "settled", "defending")
    states = status["layer2"]["addresses"].get(address) or {}
    links = [link for link, state in states.items() if state in answering]
    if links:
        return f"layer 2 on {', '.join(links)}"
    if states:
        raise OSError(f"layer 2 does not answer yet: {states}")
    if address in status["layer2"]["unreachable"]:
        raise OSError("no interface for the address")
    mine = f'service="{namespace}/{service}",protocol="bgp",'
    if not any(mine in line and f'ip="{address}"' in line for line in metrics.splitlines()):
        raise OSError("not announced from here")
    peers, down = [], []
    for peer in status["bgp"]:
        prefixes = peer["prefixes"]
        if peer["state"] != "Established":
            down.append(f"{peer['peer']} ({peer['address']}) is {peer['state']}: {peer['last_error'] or 'no answer'}")
        elif prefixes["advertised"] == prefixes["desired"] > 0:
            peers.append(peer["peer"])
    if not peers:
        raise OSError(f"no BGP session is up that carries it: {', '.join(down) or 'there is no peer for it'}")
    return f"BGP to {', '.join(peers)}"


def page(address):
    return get(http.client.HTTPConnection(address, 80, timeout=3), "/", {}) == answer


threading.Thread(target=Server(("", 8080), Page).serve_forever, daemon=True).start()
found = until("address", addresses)
for one in found:
    until(f"announcement of {one}", partial(announcement, one))
for one in found:
    until(f"answer from {one}", partial(page, one))
