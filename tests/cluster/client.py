"""Any cluster, seen through its kubeconfig: kubectl, helm, waiting. Works with a cluster that is not ours, too."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster import toolchain
from tests.cluster.instance import ClusterError, until

#: A machine may stall, or do other things with all its cores: nothing is lost by waiting longer when all is well.
PATIENCE = 3


class KubeClient:
    """A user of a cluster. Failures raise ClusterError with what the program said."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    @property
    def kubeconfig(self) -> Path:
        return self._kubeconfig

    @property
    def environment(self) -> dict[str, str]:
        """The environment with KUBECONFIG of this cluster; the pinned kubectl, helm, ctr (if built) first in PATH."""
        programs = [toolchain.path("kubectl"), toolchain.path("helm"), toolchain.find("ctr")]
        folders = dict.fromkeys(str(p.parent) for p in programs if p)
        path = os.pathsep.join([*folders, os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def kubectl(self, *arguments: str, input: str | None = None, timeout: float = 120.0) -> str:
        """Standard output of kubectl."""
        return self.tool("kubectl", *arguments, input=input, timeout=timeout).stdout

    def helm(self, *arguments: str, input: str | None = None, timeout: float = 300.0) -> str:
        """Standard output of helm."""
        return self.tool("helm", *arguments, input=input, timeout=timeout).stdout

    def tool(
        self, command: str, *arguments: str, input: str | None = None, timeout: float = 120.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a client program against this cluster; `check=False` to look at a failure oneself.

        `timeout` as for `wait`: PATIENCE times as long at most.
        """
        argv = [str(toolchain.path(command)), *arguments]
        told = subprocess.run(
            argv,
            input=input,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout * PATIENCE,
            check=False,
        )
        if check and told.returncode:
            raise ClusterError(f"{command} {' '.join(arguments)}: {told.stderr.strip() or told.stdout.strip()}")
        return told

    def apply(self, *documents: dict[str, Any]) -> str:
        """``kubectl apply`` of objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        return self.kubectl("apply", "-f", "-", input=json.dumps(items))

    def json(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get ... -o json``."""
        return dict(json.loads(self.kubectl("get", *arguments, "-o", "json")))

    def wait(self, what: str, test: Callable[[], Any], timeout: float = 60.0, every: float = 0.2) -> None:
        """Until `test()` is true; an error of a program or of the network counts as false.

        `timeout` is what it takes on a machine that does nothing else; it may take PATIENCE times as long. How quick
        the product is, tests measure themselves.
        """
        last: list[Exception] = []

        def one() -> Any:
            try:
                return test()
            except (ClusterError, OSError, subprocess.SubprocessError) as error:
                last[:] = [error]
                return False

        try:
            until(what, one, timeout * PATIENCE, every)
        except ClusterError as error:
            raise ClusterError(f"{error}{f'; last: {last[0]}' if last else ''}") from None
