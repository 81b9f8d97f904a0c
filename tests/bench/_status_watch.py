"""A watch of Services that notes when each address is first seen in a status; it parses nothing else.

Usage: ``python _status_watch.py URL CA-FILE TOKEN RESOURCE-VERSION``: writes ``SECONDS ADDRESS`` lines until killed.
"""

from __future__ import annotations

import re
import ssl
import sys
import time
import urllib.request

_INGRESS = re.compile(rb'"ingress":\[\{"ip":"([0-9a-f.:]+)"')


def main(url: str, ca: str, token: str, version: str) -> None:
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    path = f"{url}/api/v1/services?watch=1&timeoutSeconds=3600&resourceVersion={version}"
    request = urllib.request.Request(path, headers={"Authorization": f"Bearer {token}"})
    seen: set[bytes] = set()
    with urllib.request.urlopen(request, context=context) as answer:
        print("watching", flush=True)
        for line in answer:
            now = time.time()
            found = _INGRESS.search(line)
            if found and found[1] not in seen:
                seen.add(found[1])
                sys.stdout.write(f"{now:.6f} {found[1].decode()}\n")
                sys.stdout.flush()


main(*sys.argv[1:])
