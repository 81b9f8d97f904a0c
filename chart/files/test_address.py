"""Run by `helm test`: python3 -c THIS NAMESPACE SERVICE. Exits 0 when the Service's address answers."""

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

namespace, service = sys.argv[1:3]
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


def announcing():
    selector = f"involvedObject.kind=Service,involvedObject.name={service},reason=nodeAssigned"
    return [e["message"] for e in ask(f"events?fieldSelector={selector}")["items"]]


def page(address):
    return get(http.client.HTTPConnection(address, 80, timeout=3), "/", {}) == answer


threading.Thread(target=Server(("", 8080), Page).serve_forever, daemon=True).start()
found = until("address", addresses)
until("announcement", announcing)
for one in found:
    until(f"answer from {one}", partial(page, one))
