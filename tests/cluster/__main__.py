"""The command line: ``python -m tests.cluster COMMAND``; see ``--help``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cluster import guests, images, lifecycle, toolchain
from tests.cluster.api import Cluster, instances
from tests.cluster.builder import BuildError
from tests.cluster.instance import ClusterError, say
from tests.cluster.plan import CLIENT, MAX_NODES, Family
from tests.cluster.toolchain import ToolchainError


def up(o: argparse.Namespace) -> None:
    cluster = Cluster(o.name, nodes=o.nodes, family=o.ip_family).up()
    print(cluster.kubectl("get", "nodes", "-o", "wide"), end="")
    name = f" --name {cluster.name}" if cluster.name != "dev" else ""
    me = f"{shlex.quote(os.path.relpath(sys.executable))} -m tests.cluster"
    print(f"""
Use it:
  {me} kubectl{name} get pods -A           also: helm
  eval "$({me} env{name})"                 KUBECONFIG and PATH for this shell
  {me} in{name} client curl -s http://...  from a host outside the cluster
  {me} power{name} off node1               pull a node's cable
  {me} down{name}""")


def down(o: argparse.Namespace) -> None:
    Cluster(o.name).down()


def status(o: argparse.Namespace) -> None:
    names = [o.name] if o.name else list(instances())
    if not names:
        print("no cluster is up")
    for name in names:
        cluster = Cluster(name)
        plan, complete = cluster.instance.read()
        print(f"{name}: {plan.nodes} node(s), {plan.family.value}, {'up' if complete else 'NOT complete'}")
        for process in cluster.processes.names():
            pid = cluster.processes.pid(process)
            print(f"  {process:26} {pid or 'ended':>8}  {_memory(pid):>8}  {cluster.processes.log(process)}")


def _memory(pid: int | None) -> str:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return ""
    return f"{int(fields[1]) * os.sysconf('SC_PAGE_SIZE') >> 20} MiB"


def env(o: argparse.Namespace) -> None:
    cluster = Cluster.attach(o.name)
    for key in ("KUBECONFIG", "PATH"):
        print(f"export {key}={shlex.quote(cluster.environment[key])}")
    print(f"export METALLB_CLUSTER={cluster.name}")


def load(o: argparse.Namespace) -> None:
    Cluster.attach(o.name).load(*o.archive)


def enter(o: argparse.Namespace) -> None:
    cluster = Cluster.attach(o.name)
    argv = [*cluster.inside(o.host), *(o.command or [os.environ.get("SHELL", "/bin/sh")])]
    os.execvpe(argv[0], argv, cluster.environment)


def client(o: argparse.Namespace) -> None:
    cluster = Cluster.attach(o.name)
    program = lifecycle.binary(o.verb)
    os.execve(program, [program, *o.arguments], cluster.environment)


def power(o: argparse.Namespace) -> None:
    cluster = Cluster.attach(o.name)
    (cluster.power_off if o.state == "off" else cluster.power_on)(o.host)


def net(o: argparse.Namespace) -> None:
    fabric = Cluster.attach(o.name).fabric
    if o.fault == "heal":
        fabric.heal()
        return
    if not (o.source and o.target):
        raise ClusterError("net cut|loss needs two hosts: net cut node1 node2 [--match 'udp dport 7946'] [--percent N]")
    for source, target in ((o.source, o.target), (o.target, o.source)):
        fabric.drop(source, target, o.match, o.percent)


def owners(o: argparse.Namespace) -> None:
    found = Cluster.attach(o.name).owners(o.address)
    print("\n".join(found) or f"nobody answers for {o.address}")


def prepare(o: argparse.Namespace) -> None:
    lifecycle.prepare()
    toolchain.packages(["images"])
    images.prepare(say)
    guests.nginx()


def restart(o: argparse.Namespace) -> None:
    Cluster.attach(o.name).processes.restart(o.process)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description="A Kubernetes cluster in network namespaces of this machine (needs root).",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.add_argument("--name", default="", help="the instance; default $METALLB_CLUSTER, else dev")
        sub.set_defaults(function=function)
        return sub

    start = verb("up", up, "start the cluster; fine if it is up already")
    start.add_argument("--nodes", type=int, default=3, choices=range(1, MAX_NODES + 1), metavar="N", help="default 3")
    start.add_argument("--ip-family", default="dual", choices=[f.value for f in Family], help="default dual")
    verb("down", down, "end it and remove all that belongs to it")
    verb("status", status, "what runs, of one instance or of all")
    verb("env", env, "print KUBECONFIG and PATH for a shell to eval")
    into = verb("in", enter, "run a command in a host (cp, client, registry, node1...); a shell if none is given")
    into.add_argument("host", help=f"such as {CLIENT.name}")
    into.add_argument("command", nargs=argparse.REMAINDER)
    for tool in ("kubectl", "helm"):
        sub = verb(tool, client, f"run {tool} against the cluster")
        sub.add_argument("arguments", nargs="*")
    verb("load", load, "import image archives into every node").add_argument("archive", nargs="+")
    cable = verb("power", power, "pull a host's cable, or plug it in")
    cable.add_argument("state", choices=["off", "on"])
    cable.add_argument("host")
    faults = verb("net", net, "lose frames between two hosts (cut), or lose no more (heal)")
    faults.add_argument("fault", choices=["cut", "heal"])
    faults.add_argument("source", nargs="?")
    faults.add_argument("target", nargs="?")
    faults.add_argument("--match", default="", help="only frames that match this nft expression")
    faults.add_argument("--percent", type=int, default=100, help="lose so many of 100")
    verb("owners", owners, "which hosts answer ARP or NDP for an address").add_argument("address")
    verb("prepare", prepare, "fetch and build all that clusters, images and the demo take from elsewhere")
    verb("restart", restart, "restart one process of the cluster, such as node1-kubelet").add_argument("process")
    return parser


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("kubectl", "helm"):  # whatever follows is theirs, options too
        ours = 3 if arguments[1:2] == ["--name"] else 1
        arguments = [*arguments[:ours], "--", *arguments[ours:]]
    options = _parser().parse_args(arguments)
    try:
        options.function(options)
        sys.stdout.flush()
    except (ClusterError, ToolchainError, BuildError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `status | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
