"""Faults of a cluster with the product, and what a client and a cold cache see of them.

A `Field` is nine dual-stack Services, so that every node owns some; the backends of each are on the two nodes that do
not own it: kube-proxy goes on sending to dead endpoints for forty seconds, which would be measured otherwise.
A `Watch` looks at them from outside: one host asks ARP and NDP for all addresses all the time, another (the client)
connects anew every 10 ms to both addresses of one Service, the focus. `strike` does a fault, undoes it, and gives a
`Row` for each half.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.cluster import Cluster
from tests.cluster.answers import Answers, Timeline
from tests.cluster.instance import ClusterError
from tests.cluster.observe import Outage, Report
from tests.e2e import product
from tests.e2e.kernels import Kernels

SERVICES = 9
#: An attempt of the client starts so often. It may take a second, less a bit: a lost SYN is sent again after one.
EVERY, PATIENCE = 0.01, 0.9
#: A try of the client whose outage is measured.
TRY = 0.1
SPEAKER = product.BY_HELM["speaker"]


@dataclass(frozen=True)
class Case:
    """One Service: its addresses, and the nodes in the order in which they would own it."""

    name: str
    v4: str
    v6: str
    order: list[str]

    @property
    def owner(self) -> str:
        return self.order[0]


@dataclass
class Row:
    """What one fault, or its end, did. Seconds; `moves` are needless ones, as text."""

    what: str
    silence: dict[str, float]  # by family: the longest time in which nobody answered for one of the addresses
    gap: dict[str, float]  # by family: of a client with TRY for each attempt
    doubled: float  # the longest time in which two answered for any address
    refused: int  # attempts of a patient client that made no connection
    broken: int  # those that did, and were open when the address moved
    attempts: int
    moves: list[str] = field(default_factory=list)
    notes: str = ""

    HEAD = f"{'fault':34} " + "".join(f"{t:>6} " for t in ("ARP", "NDP", "HTTP4", "HTTP6", "two")) + "refused broken of"

    def __str__(self) -> str:
        numbers = (self.silence["v4"], self.silence["v6"], self.gap["v4"], self.gap["v6"], self.doubled)
        counts = f"{self.refused:7} {self.broken:6} {self.attempts:6}"
        text = f"{self.what:34} " + " ".join(f"{n:6.2f}" for n in numbers) + f" {counts}"
        return (
            text + (f"  needless moves: {self.moves}" if self.moves else "") + (f"  {self.notes}" if self.notes else "")
        )

    @property
    def silent(self) -> float:
        return max(self.silence.values())

    @property
    def away(self) -> float:
        return max(self.gap.values())


class Field:
    """The Services, spread over all nodes."""

    last: Watch  # the one in use, or used last

    def __init__(self, lab: Cluster) -> None:
        self.lab = lab
        self.broken: set[tuple[str, int]] = set()  # addresses and client's ports of connections that broke
        self.kernels = Kernels(lab, lab.nodes)
        self.stalls: list[Outage] = []  # when the askers of all watches so far did not get to run
        product.apps(lab, [_backend(node, lab.nodes) for node in lab.nodes])
        names = [f"field{number}" for number in range(SERVICES)]
        first = product.POOL_V4.partition("-")[0].rpartition(".")
        self.cases: list[Case] = []
        wanted = []
        for number, name in enumerate(names):
            v4 = f"{first[0]}.{int(first[2]) + number}"
            order = product.ranked(lab.nodes, v4)
            v6 = f"{product.POOL_V6.partition('-')[0].rpartition(':')[0]}:{int(first[2]) + number}"
            self.cases.append(Case(name, v4, v6, order))
            one = product.service(name, **product.DUAL)
            one["metadata"]["annotations"] = {"metallb.universe.tf/loadBalancerIPs": f"{v4},{v6}"}
            one["spec"]["selector"] = {"app": "web", f"off-{order[0]}": "yes"}
            wanted.append(one)
        found = product.expose(lab, *wanted)
        assert found == [[case.v4, case.v6] for case in self.cases]
        assert {case.owner for case in self.cases} == set(lab.nodes), "every node owns some"

    @property
    def owners(self) -> dict[str, str]:
        """Who owns what when all is well, by Service."""
        return {case.name: case.owner for case in self.cases}

    def remove(self) -> None:
        product.remove(self.lab, *(case.name for case in self.cases))

    def focus(self, number: int = 0) -> Case:
        """A Service to look at closely: of another node each time."""
        owner = self.lab.nodes[number % len(self.lab.nodes)]
        mine = [case for case in self.cases if case.owner == owner]
        return mine[number // len(self.lab.nodes) % len(mine)]

    def wait_for_backends(self) -> None:
        """Until every backend is ready."""
        self.lab.wait("every backend", self._backends_ready, 60)

    def _backends_ready(self) -> bool:
        found = self.lab.api.get(f"/apis/apps/v1/namespaces/{product.APP}/deployments")["items"]
        return all(one["status"].get("readyReplicas") == 1 for one in found)

    def pids(self, node: str) -> list[int]:
        """Of the speaker's processes on a node: announcer, cluster half."""
        [pod] = [p for p in product.pods(self.lab, SPEAKER) if p["spec"].get("nodeName") == node]
        return [self.lab.container_pid(node, pod["metadata"]["name"], c) for c in ("speaker", "cluster")]

    def story(self, seconds: float) -> str:
        """What the speakers did lately, in order: for the message of a failure."""
        lines = []
        for pod in product.pods(self.lab, SPEAKER):
            command = ("-n", product.NAMESPACE, "logs", pod["metadata"]["name"], "--all-containers")
            told = self.lab.tool("kubectl", *command, f"--since={int(seconds) + 30}s", check=False).stdout
            for line in filter(lambda text: text.startswith("{"), told.splitlines()):
                said = json.loads(line)
                if said.get("op") == "watch":  # whether its view of the cluster was cut off
                    lines.append(f"{said['ts']} {pod['spec']['nodeName']} {said}")
                elif said.get("op") != "http" and "Responder" not in said.get("event", ""):
                    words = [
                        str(said[k]) for k in ("event", "service", "ip", "member", "reason", "seconds") if k in said
                    ]
                    lines.append(f"{said['ts']} {pod['spec']['nodeName']} {' '.join(words) or said.get('msg', '')}")
        return "\n".join(sorted(lines))

    @contextlib.contextmanager
    def watch(self, focus: Case, owners: dict[str, str] | None = None) -> Iterator[Watch]:
        """Begin to look when every address is at its node, or where `owners` says. Needs no API server."""
        others = [case for case in self.cases if case is not focus]
        addresses = [a for case in (focus, *others) for a in (case.v4, case.v6)]
        lab = self.lab
        with (
            Answers(lab, addresses, rest=0.02) as answers,
            lab.probe(focus.v4, every=EVERY, timeout=PATIENCE) as v4,
            lab.probe(focus.v6, every=EVERY, timeout=PATIENCE) as v6,
        ):
            self.last = one = Watch(self, focus, answers, lambda: {"v4": v4.report(), "v6": v6.report()})
            try:
                one.wait_for("every address at its node", owners or self.owners, 60)
                yield one
            finally:
                with contextlib.suppress(ClusterError):
                    answers.now()
                self.stalls += answers.stalls


@dataclass
class Watch:
    """A look at the field from outside."""

    field: Field
    focus: Case
    answers: Answers
    http: Callable[[], dict[str, Report]]

    def wait_for(self, what: str, owners: dict[str, str], timeout: float = 20.0) -> float:
        """Until these Services are answered for by these nodes alone and steadily, and the focus's page comes.

        Gives the moment at which the last of them had its node.
        """
        moment = [0.0]

        def reached() -> bool:
            seen, now = self.answers.now(), time.monotonic()
            begun = [
                self._steady(seen[address], owners[case.name], now)
                for case in self.field.cases
                if case.name in owners
                for address in (case.v4, case.v6)
            ]
            moment[0] = max(begun)
            if moment[0] > now - 0.5:
                return False
            return all(report.since(now - 0.5).impatient(TRY).good for report in self.http().values())

        try:
            self.field.lab.wait(what, reached, timeout, every=0.1)
        except ClusterError as error:
            told = {a: (line.owners[-4:], line.last) for a, line in self.answers.now().items()}
            raise AssertionError(f"{error}; seen: {told}") from None
        return moment[0]

    @staticmethod
    def _steady(line: Timeline, owner: str, now: float) -> float:
        """Since when `owner` alone has answered; `now` if it does not."""
        since = now
        for when, who in zip(reversed(line.asked[:-1]), reversed(line.answered[:-1]), strict=True):
            if who != {owner}:
                break
            since = when
        return since

    def _explain(self, http: dict[str, Report], start: float) -> str:
        """Of attempts that made no connection, too few to be an outage: when, why, whether the port was used before.

        A connection that breaks when its address moves leaves its pair of ports behind, at the node that it went by and
        at the backend; the next one from the same port may be taken for it.
        """
        told, memory = [], self.field.broken
        for family, report in http.items():
            address = self.focus.v4 if family == "v4" else self.focus.v6
            memory |= {(address, port) for port in report.ports(broken=True)}
            for port, begun in report.ports(broken=False).items():
                again = ", which a broken connection had" if (address, port) in memory else ""
                text = next(text for at, _, text in report.attempts if at == begun)
                said = "".join(f" ({line})" for line in self.field.kernels.of(address, port)) if len(told) < 4 else ""
                told.append(f"{family} after {begun - start:.3f} s: {text.lstrip('!')}{again}{said}")
        return "; ".join(told) if len(told) < 5 else ""

    def row(
        self,
        what: str,
        start: float,
        allowed: dict[str, list[list[str]]] | None = None,
        notes: str = "",
        *,
        any_move: bool = False,
    ) -> Row:
        """The stretch since `start`. `allowed`: by Service, the owners one after the other; others must stay.

        The first of them may be gone at once. Several ways may be right: any of them will do.
        """
        seen = {address: line.since(start) for address, line in self.answers.now().items()}
        http = {family: report.since(start) for family, report in self.http().items()}
        moves, cases = [], self.field.cases
        for case in cases:
            ways = (allowed or {}).get(case.name, [[case.owner]])
            right = [*ways, *(way[1:] for way in ways if way[1:])]
            for address in (case.v4, case.v6):
                if not any_move and seen[address].owners not in right:
                    told = " or ".join(" ".join(way) for way in ways)
                    moves.append(f"{address}: {' '.join(seen[address].owners)}, not {told}")
        said = [notes, self._explain(http, start), *(f"{name}: {report.set_apart}" for name, report in http.items())]
        return Row(
            what,
            {"v4": max(seen[c.v4].silence for c in cases), "v6": max(seen[c.v6].silence for c in cases)},
            {family: report.impatient(TRY).longest for family, report in http.items()},
            max(line.doubled for line in seen.values()),
            sum(sum(report.refused.values()) for report in http.values()),
            sum(sum(report.broken.values()) for report in http.values()),
            sum(len(report.attempts) for report in http.values()),
            moves,
            "; ".join(text for text in said if text and not text.endswith(": ")),
        )


Act = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """Something that happens to a node. `prepare` looks up what it needs, and gives how to do it and to undo it."""

    name: str
    prepare: Callable[[Field, str], tuple[Act, Act]]
    alone: bool = False  # the node lives on its own meanwhile, and answers for everything on its side


def strike(field: Field, fault: Fault, focus: Case, *, back: bool = True, linger: float = 0.5) -> list[Row]:
    """Do it to the focus's node, wait for the others, undo it, wait for the node's return: a row for each half."""
    node = focus.owner
    mine = [case for case in field.cases if case.owner == node]
    field.wait_for_backends()
    do, undo = fault.prepare(field, node)
    with contextlib.ExitStack() as otherwise:
        otherwise.callback(undo)  # also if not even the look from outside begins
        with field.watch(focus) as watch:
            try:
                start = time.monotonic()
                do()
                done = time.monotonic()
                taken = watch.wait_for(f"{fault.name}: taken over", {case.name: case.order[1] for case in mine}, 30)
                time.sleep(linger)
                notes = f"done in {done - start:.3f} s, steady after {taken - start:.2f} s"
                rows = [watch.row(fault.name, start, {case.name: [[node, case.order[1]]] for case in mine}, notes)]
                start = time.monotonic()
            finally:
                otherwise.pop_all().close()
            if back:
                returned = watch.wait_for(f"{fault.name}: returned", {case.name: node for case in mine}, 120)
                time.sleep(linger)
                expected = {case.name: _ways_back(case, node, alone=fault.alone) for case in field.cases}
                rows.append(watch.row(f"{fault.name}: return", start, expected, f"after {returned - start:.1f} s"))
    return rows


def _ways_back(case: Case, node: str, *, alone: bool) -> list[list[str]]:
    """Who answers for the case, one after the other, from the moment before a fault of `node` is undone.

    A node that was alone answers for everything still when it is back, until it has heard the others: whether theirs
    was asked for once more before that is chance. `doubled` says how long both answer.
    """
    meanwhile = case.order[1] if case.owner == node else case.owner
    home = [meanwhile, *([node] if case.owner == node else [])]
    return [[node, *home], [meanwhile, node, *home]] if alone else [home]


def roll(field: Field, focus: Case, what: str = "speakers rolled", linger: float = 0.5) -> Row:
    """Every speaker is replaced, one after the other; afterwards each address is with its own node again."""
    field.wait_for_backends()
    with field.watch(focus) as watch:
        start = time.monotonic()
        roll_out(field.lab)
        rolled = time.monotonic()
        back = watch.wait_for("rollout: returned", field.owners, 60)
        time.sleep(linger)
        moved = max(len(watch.answers.now()[case.v4].since(start).owners) - 1 for case in field.cases)
        notes = (
            f"{rolled - start:.0f} s, the last address back after {back - start:.0f} s, at most {moved} moves of one"
        )
        return watch.row(what, start, notes=notes, any_move=True)


def roll_out(lab: Cluster) -> None:
    """Replace all speakers, and wait for that."""
    lab.kubectl("-n", product.NAMESPACE, "rollout", "restart", "daemonset/metallb-speaker")
    lab.kubectl("-n", product.NAMESPACE, "rollout", "status", "daemonset/metallb-speaker", "--timeout=180s")


def move(field: Field, focus: Case) -> list[Row]:
    """The annotation moves one address to the node of its choice, and back when it is gone."""
    rows, target = [], focus.order[2]
    for what, value, path in (
        ("moved by annotation", f"={target}", [focus.owner, target]),
        ("moved by annotation: return", "-", [target, focus.owner]),
    ):
        owners = field.owners if path[0] == focus.owner else field.owners | {focus.name: target}
        field.wait_for_backends()
        with field.watch(focus, owners) as watch:
            start = time.monotonic()
            field.lab.kubectl(
                "-n", product.APP, "annotate", "service", focus.name, f"metallb.io/announce-from-node{value}"
            )
            moved = watch.wait_for(what, {focus.name: path[1]})
            time.sleep(0.5)
            rows.append(watch.row(what, start, {focus.name: [path]}, f"{moved - start:.2f} s after kubectl was called"))
    return rows


BLOCK = "table inet blocked { chain in { type filter hook input priority 0; udp dport 7946 counter drop; }; }"


@contextlib.contextmanager
def blocked(lab: Cluster) -> Iterator[None]:
    """Every node drops what comes to the membership port, as a firewall does that nobody has told of it."""
    for node in lab.nodes:
        lab.run_in(node, "nft", "-f", "-", input=BLOCK)
    try:
        yield
    finally:
        for node in lab.nodes:
            lab.run_in(node, "nft", "add table inet blocked; delete table inet blocked")


# --- the faults ------------------------------------------------------------------------------------


def nothing() -> None:
    """Kubernetes undoes it."""


def power_off(field: Field, node: str) -> tuple[Act, Act]:
    """The cable is pulled and the speaker's processes are gone; they are started anew when the power is back."""
    kubelet, pids = f"{node}-kubelet", field.pids(node)

    def do() -> None:
        field.lab.power_off(node)
        field.lab.pause(kubelet)
        send(pids, signal.SIGKILL)

    def undo() -> None:
        field.lab.power_on(node)
        field.lab.resume(kubelet)

    return do, undo


def unplugged(field: Field, node: str) -> tuple[Act, Act]:
    """The cable is pulled; all processes of the node live, and see that the link is down."""
    return lambda: field.lab.power_off(node), lambda: field.lab.power_on(node)


def cut(field: Field, node: str) -> tuple[Act, Act]:
    """The switch loses all frames of the node, which cannot tell: its link is up."""
    return lambda: field.lab.fabric.isolate(node), field.lab.fabric.heal


def killed(field: Field, node: str) -> tuple[Act, Act]:
    """The announcer dies; the kubelet starts it again."""
    pid = field.pids(node)[0]
    return lambda: send([pid], signal.SIGKILL), nothing


def stopped(field: Field, node: str) -> tuple[Act, Act]:
    """The announcer does not run for a while."""
    pid = field.pids(node)[0]
    return lambda: send([pid], signal.SIGSTOP), lambda: send([pid], signal.SIGCONT)


def frozen(field: Field, node: str) -> tuple[Act, Act]:
    """Both processes of the speaker do not run for a while."""
    pids = field.pids(node)
    return lambda: send(pids, signal.SIGSTOP), lambda: send(pids, signal.SIGCONT)


def drained(field: Field, node: str) -> tuple[Act, Act]:
    """Cordoned, and all pods evicted but those of DaemonSets."""

    def do() -> None:
        field.lab.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")

    return do, lambda: (field.lab.kubectl("uncordon", node), None)[1]


def without_api(fault: Callable[[Field, str], tuple[Act, Act]]) -> Callable[[Field, str], tuple[Act, Act]]:
    """The same while no API server runs."""

    def prepare(field: Field, node: str) -> tuple[Act, Act]:
        do, undo = fault(field, node)

        def again() -> None:
            undo()
            if field.lab.processes.pid("kube-apiserver") is None:
                field.lab.start("kube-apiserver")

        field.lab.stop("kube-apiserver")
        return do, again

    return prepare


def send(pids: Sequence[int], number: signal.Signals) -> None:
    """A signal to processes that `Field.pids` gave."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


POWER_OFF = Fault("power-off", power_off)
UNPLUGGED = Fault("cable pulled", unplugged, alone=True)
CUT = Fault("network cut, link up", cut, alone=True)
KILLED = Fault("speaker killed", killed)
STOPPED = Fault("speaker stopped", stopped)
FROZEN = Fault("speaker's whole pod stopped", frozen)
DRAINED = Fault("node drained", drained)
NO_API = Fault("power-off without API server", without_api(power_off))


def _backend(node: str, nodes: Sequence[str]) -> dict[str, object]:
    """The web backend on one node, found by Services that avoid any one of the others."""
    one = product.backend(f"on-{node}", node)
    labels = one["spec"]["template"]["metadata"]["labels"]
    labels.update({f"off-{other}": "yes" for other in nodes if other != node})
    return one
