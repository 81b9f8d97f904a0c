"""The README's first command: from nothing to a Service whose address answers, step by step.

``python -m tests.cluster.demo up`` (``make demo``) builds both images and the chart, starts a cluster of
three nodes and a client host on this machine, serves the images from a registry and the chart from a
repository as a publisher would, and then does what a user does, printing each command and its answer.
The cluster stays up to explore; ``down`` (``make demo-down``) ends it and all that it made.

Every run starts afresh, so it can be killed at any moment and run again. ``METALLB_DEMO`` names the
instance (default ``demo``), so that several can be up at once.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster import Cluster, ClusterError, builder, guests, images, registry, toolchain
from tests.cluster.controlplane import free_port
from tests.cluster.plan import REGISTRY

ROOT = images.ROOT
ADDRESS = "172.18.0.200"  # the first of the pool
NAMESPACE = "metallb-system"
VALUES = """\
global:
  imageRegistry: {registry}
configInline:
  address-pools:
    - name: my-ip-space
      protocol: layer2
      addresses:
        - 172.18.0.200-172.18.0.250
"""


class DemoError(RuntimeError):
    """A step failed; the text says which, why, and what to do."""


class Terminal:
    """What the newcomer reads: headings, commands, answers."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._number = 0

    def title(self, text: str) -> None:
        self._number += 1
        print(f"\n== {self._number}. {text}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def command(self, words: list[str] | str) -> None:
        shown = words if isinstance(words, str) else shlex.join(words)
        print(f"\n$ {shown}", flush=True)

    def answer(self, text: str) -> None:
        print(text.rstrip("\n"), flush=True)


class Demo:
    """One run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.out = Terminal()
        self.folder = cluster.instance.folder / "demo"
        self.charts = self.folder / "charts"  # its own: what the user has in dist/ stays as it is
        self.me = f"{os.path.relpath(sys.executable)} -m tests.cluster"
        # Apart from the user's own Helm repositories.
        self.environment = {
            **cluster.environment,
            "HELM_REPOSITORY_CONFIG": str(self.folder / "helm/repositories.yaml"),
            "HELM_REPOSITORY_CACHE": str(self.folder / "helm/cache"),
        }

    def run(self) -> None:
        self.out.say("MetalLB's demo: a Kubernetes cluster on this machine, and a Service that gets an address.")
        self.out.title("Build the images and the chart, and start a cluster")
        self.out.say("Three nodes and a client outside of the cluster, in network namespaces on 172.18.0.0/16.")
        self.out.command(f"make images package OUT={self.charts}")
        self.out.command(f"{self.me} up --name {self.cluster.name}")
        with ThreadPoolExecutor(1) as pool:  # both at once
            built = pool.submit(images.build, lambda text: self.out.progress(f"images: {text}"))
            self.start_cluster()
            archives = built.result()
        package = self.package()
        for path in [*archives.values(), package]:
            self.out.answer(f"{self.shown(path)}  {path.stat().st_size / 1e6:.2f} MB")
        self.user("kubectl", "get", "nodes")
        self.publish(archives)
        self.without()
        self.install()
        self.address()
        self.client()
        self.announcer()
        self.next_steps()

    # --- preparation -----------------------------------------------------------------------------

    def start_cluster(self) -> None:
        toolchain.packages(["images"])  # the registry
        if self.cluster.instance.exists():
            self.out.progress("an earlier demo is there: starting afresh")
            self.cluster.down()
        self.cluster.up()
        self.folder.mkdir(parents=True, exist_ok=True)

    def package(self) -> Path:
        env = os.environ | {"OUT": str(self.charts)}
        told = subprocess.run(["bash", ROOT / "tests/package.sh"], env=env, capture_output=True, text=True, check=False)
        if told.returncode:
            raise DemoError(f"the chart cannot be packaged:\n{told.stdout}{told.stderr}")
        return Path(told.stdout.split()[0])

    def publish(self, archives: dict[str, Path]) -> None:
        self.out.title("Publish them as one would: images in a registry, the chart in a repository")
        self.out.say("Both are local to the demo. (With a container engine: docker push, or podman push.)")
        address = registry.start(self.cluster)
        wanted = {f"metallb/{name}:{images.version()}": path for name, path in archives.items()}
        # Any image that a pod names is asked of this registry: here it stands in for Docker Hub, too.
        wanted["library/nginx:latest"] = guests.nginx()
        for name, archive in wanted.items():
            push = ["python", "tests/cluster/registry.py", self.shown(archive), f"{address}/{name}"]
            self.out.command(f"{self.me} in --name {self.cluster.name} {REGISTRY.name} {shlex.join(push)}")
            registry.push_from(self.cluster, archive, f"{address}/{name}")
        self.serve_charts()
        (self.folder / "values.yaml").write_text(VALUES.format(registry=address))

    def serve_charts(self) -> None:
        served = self.charts
        self.port = free_port()
        argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(served), str(self.port)]
        self.cluster.spawn("charts", "", *argv)
        self.repository = f"http://127.0.0.1:{self.port}"
        self.out.command(f"python -m http.server --bind 127.0.0.1 --directory {served} {self.port} &")
        check = ["curl", "-sf", "-o", "/dev/null", f"{self.repository}/index.yaml"]
        self.cluster.wait("the chart repository answers", lambda: not subprocess.run(check).returncode, 10, 0.05)

    # --- what a user does --------------------------------------------------------------------------

    def without(self) -> None:
        self.out.title("A Service of type LoadBalancer, before MetalLB is installed")
        self.user("kubectl", "create", "deployment", "web", "--image=nginx")
        self.user("kubectl", "expose", "deployment", "web", "--port=80", "--type=LoadBalancer")
        self.user("kubectl", "get", "service", "web")
        self.out.say("\nEXTERNAL-IP is <pending>: nothing in this cluster can give it an address.")

    def install(self) -> None:
        self.out.title("Install MetalLB with Helm")
        values = self.folder / "values.yaml"
        self.out.command("cat values.yaml")
        self.out.answer(values.read_text())
        self.user("helm", "repo", "add", "metallb", self.repository)
        self.installed = time.monotonic()
        words = ["helm", "install", "metallb", "metallb/metallb", "-f", "values.yaml"]
        self.user(*words, "--namespace", NAMESPACE, "--create-namespace")

    def address(self) -> None:
        self.out.title("The Service gets an address")
        self.wait("the Service gets an address", lambda: bool(self.assigned()))
        seconds = time.monotonic() - self.installed
        self.user("kubectl", "get", "service", "web")
        if self.assigned() != ADDRESS:
            raise DemoError(f"EXTERNAL-IP is {self.assigned()}, not {ADDRESS}, the first of the pool")
        self.out.say(
            f"\n{ADDRESS} is the first address of my-ip-space; it was there {seconds:.1f} s after helm install."
        )

    def client(self) -> None:
        self.out.title("A client outside the cluster fetches nginx's page from it")
        curl = ["curl", "-s", "-m", "2", f"http://{ADDRESS}/"]
        answer = ""

        def fetched() -> bool:
            nonlocal answer
            answer = self.cluster.run_in("client", *curl, check=False, timeout=10).stdout
            return "Welcome to nginx" in answer

        self.wait("nginx's page comes from the address", fetched)
        self.out.command(f"{self.me} in --name {self.cluster.name} client {shlex.join(curl)}")
        found = re.findall(r"<title>.*?</title>|<h1>.*?</h1>", answer)
        self.out.answer("\n".join(["...", *found, "..."]))
        self.out.say(f"\nThe first page came {time.monotonic() - self.installed:.1f} s after helm install.")
        self.user("kubectl", "rollout", "status", "-n", NAMESPACE, "daemonset/metallb-speaker", "--timeout=180s")
        self.user("kubectl", "get", "pods", "--all-namespaces", "-o", "wide")

    def announcer(self) -> None:
        self.out.title("Which node announces the address")
        select = ["--field-selector", "involvedObject.kind=Service,involvedObject.name=web"]
        columns = "custom-columns=FROM:.source.component,REASON:.reason,MESSAGE:.message"
        events = ["kubectl", "get", "events", *select, "--sort-by=.lastTimestamp", "-o", columns]
        arping = ["arping", "-c", "1", "-I", "eth0", ADDRESS]
        # ip asks the kernel of the namespace; /sys would show the machine's own devices.
        link = ("ip", "-br", "link", "show", "eth0")
        macs = {n: self.cluster.run_in(n, *link).stdout.split()[2] for n in self.cluster.nodes}

        said: list[str] = []

        def agree() -> bool:
            """The node that answers has sent the event."""
            said[:] = re.findall(r'announcing from node "([^"]+)', self.told(events))
            answer = self.cluster.run_in("client", *arping, check=False).stdout
            owners = [node for node, mac in macs.items() if mac in answer]
            self.node = owners[0] if len(owners) == 1 else ""
            return self.node in said

        self.wait("the node that answers ARP says so in an event", agree)
        self.user(*events)
        self.out.command(f"{self.me} in --name {self.cluster.name} client {shlex.join(arping)}")
        self.out.answer(self.cluster.run_in("client", *arping, check=False).stdout)
        self.out.say(f"\n{self.node} answers ARP for {ADDRESS}, and only it: its network card has that MAC address.")
        for other in sorted(set(said) - {self.node}):
            self.out.say(
                f"({other}'s speaker was ready first, or at the same moment, and has handed the address over.)"
            )

    def next_steps(self) -> None:
        env = self.folder.parent / "env"
        names = ("KUBECONFIG", "HELM_REPOSITORY_CONFIG", "HELM_REPOSITORY_CACHE", "PATH")
        env.write_text("".join(f"export {n}={shlex.quote(self.environment[n])}\n" for n in names))
        name = f"--name {self.cluster.name}"
        down = "make demo-down" if self.cluster.name == "demo" else f"METALLB_DEMO={self.cluster.name} make demo-down"
        self.out.say(f"\nDone in {time.monotonic() - self.out.began:.0f} s. The cluster stays up. What to try next:")
        steps = [
            (f". {env}", "kubectl and helm of this cluster, for your shell"),
            (f"kubectl get pods -n {NAMESPACE} -o wide", ""),
            ("kubectl create deployment more --image=nginx", ""),
            ("kubectl expose deployment more --port=80 --type=LoadBalancer", "gets the next address"),
            ("kubectl scale deployment web --replicas=3", "so that one is left when a node is gone"),
            (f"{self.me} power {name} off {self.node}", "another node announces..."),
            (f"{self.me} in {name} client curl -s http://{ADDRESS}/", "...and the address still answers"),
            (f"{self.me} power {name} on {self.node}", ""),
            (f"vi {self.folder}/values.yaml", "more pools, other addresses"),
            (f"helm upgrade metallb metallb/metallb -f {self.folder}/values.yaml -n {NAMESPACE}", ""),
            (down, "the end"),
        ]
        for command, why in steps:
            self.out.say(f"  {command}" + (f"    # {why}" if why else ""))

    # --- helpers -----------------------------------------------------------------------------------

    @staticmethod
    def shown(path: Path) -> str:
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)

    def told(self, words: list[str]) -> str:
        told = subprocess.run(
            words, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )
        if told.returncode:
            raise DemoError(f"{shlex.join(words)} failed:\n{(told.stderr or told.stdout).strip()}\n{self.state()}")
        return told.stdout

    def user(self, *words: str) -> None:
        """A command that a user types: shown, run, answered."""
        self.out.command(list(words))
        self.out.answer(self.told(list(words)))

    def assigned(self) -> str:
        path = "/api/v1/namespaces/default/services/web"
        ingress = self.cluster.api.get(path)["status"]["loadBalancer"].get("ingress") or [{}]
        return str(ingress[0].get("ip", ""))

    def wait(self, what: str, test: object, timeout: float = 40) -> None:
        assert callable(test)
        try:
            self.cluster.wait(what, test, timeout)
        except ClusterError as error:
            raise DemoError(f"{error}\n{self.state()}") from None

    def state(self) -> str:
        """What one looks at first when something does not work."""
        parts = []
        for words in (
            ["kubectl", "get", "pods", "--all-namespaces", "-o", "wide"],
            ["kubectl", "get", "events", "--all-namespaces", "--field-selector", "type=Warning"],
            *self.logs(),
        ):
            told = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
            parts.append(f"$ {shlex.join(words)}\n{(told.stdout + told.stderr).strip()}")
        return "\n".join(parts)

    def logs(self) -> list[list[str]]:
        """The commands that show the last words of each container that is not ready, of one pod per kind."""
        commands: dict[str, list[str]] = {}
        for pod in self.cluster.pods(NAMESPACE):
            for status in pod["status"].get("containerStatuses", []):
                if not status["ready"]:
                    words = [
                        "kubectl",
                        "logs",
                        "-n",
                        NAMESPACE,
                        pod["metadata"]["name"],
                        "-c",
                        status["name"],
                        "--tail=8",
                    ]
                    commands.setdefault(status["name"], words)
        return list(commands.values())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("up", "down"))
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print(
            f"demo: network namespaces and containers need root: sudo make demo{'-down' * (options.command == 'down')}"
        )
        return 1
    os.chdir(ROOT)
    again = "Run `make demo` again (it starts afresh), or `make demo-down` to end it."
    try:
        cluster = Cluster(os.environ.get("METALLB_DEMO") or "demo")
        with toolchain.locked(f"demo-{cluster.name}"):
            if options.command == "down":
                cluster.down()
            else:
                Demo(cluster).run()
    except (DemoError, ClusterError, builder.BuildError, registry.RegistryError, toolchain.ToolchainError) as error:
        print(f"\ndemo: {error}\n\n{again}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndemo: interrupted. {again}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
