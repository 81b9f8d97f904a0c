"""What every process of the project starts with: flags, the namespace, signals, ordered shutdown.

Flags are read as the original's flag library reads them: `-port=7472`, `--port=7472`, `-port 7472` and
`--port 7472` are the same; a switch is `--flag`, `--flag=false` or `--flag false`. Every flag may have an
environment variable as its default. Standard library only, so that it costs no start-up time: signal
handlers must stand before anything heavy is imported.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metallb_common.obs import logs

if TYPE_CHECKING:
    import asyncio

#: Where Kubernetes mounts a pod's ServiceAccount.
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class FlagError(ValueError):
    """A command line that cannot be understood; the text says what to write instead."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One option. The default's type is the option's: str, int or bool."""

    name: str
    default: str | int | bool
    help: str
    env: str = ""  # variable that gives the default when it is set and not empty
    choices: tuple[str, ...] = ()
    without_effect: bool = False  # accepted for compatibility, said so in the log when given

    def read(self, text: str, source: str) -> str | int | bool:
        """The value that `text` spells. Raises FlagError."""
        if isinstance(self.default, bool):
            if text in _TRUE or text in _FALSE:
                return text in _TRUE
            raise FlagError(f"{source}: {text!r} is neither true nor false")
        if isinstance(self.default, int):
            try:
                return int(text, 10)
            except ValueError:
                raise FlagError(f"{source}: {text!r} is not a whole number") from None
        if self.choices and text not in self.choices:
            raise FlagError(f"{source}: {text!r} is none of {', '.join(self.choices)}")
        return text


#: Flags that the controller and the speaker share (contract section 4).
COMMON = (
    Flag("port", 7472, "TCP port of /metrics, /livez, /readyz and /status"),
    Flag("host", "", "address to serve them on; empty: every address", env="METALLB_HOST"),
    Flag("config", "config", "name of the ConfigMap with the configuration"),
    Flag("namespace", "", "namespace of the ConfigMap; empty: the pod's own", env="METALLB_NAMESPACE"),
    Flag("kubeconfig", "", "kubeconfig file; empty: the pod's ServiceAccount"),
    Flag(
        "accepted-config",
        "",
        "name of the ConfigMap that holds the accepted configuration; empty: none is used",
        env="METALLB_ACCEPTED_CONFIG",
    ),
    Flag("lb-class", "", "serve Services of this loadBalancerClass", env="METALLB_LB_CLASS"),
    Flag("also-classless", False, "with --lb-class: serve Services without a class, too"),
    Flag("log-level", "info", "lowest level that is logged", choices=tuple(logs.LEVELS)),
    Flag("disable-epslices", False, "accepted, without effect", without_effect=True),
    Flag("enable-pprof", False, "accepted, without effect", without_effect=True),
    Flag("version", False, "print the version and exit"),
)


class Options:
    """The values of all flags, by name; asking for an unknown name is a KeyError."""

    def __init__(self, values: Mapping[str, str | int | bool], given: frozenset[str]) -> None:
        self._values = values
        self.given = given  # names set by flag or environment, rather than left at their default

    def text(self, name: str) -> str:
        value = self._values[name]
        if not isinstance(value, str):
            raise TypeError(name)
        return value

    def with_text(self, name: str, value: str) -> Options:
        """The same options, but for one."""
        return Options({**self._values, name: value}, self.given | {name})

    def number(self, name: str) -> int:
        value = self._values[name]
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(name)
        return value

    def truth(self, name: str) -> bool:
        value = self._values[name]
        if not isinstance(value, bool):
            raise TypeError(name)
        return value


def parse(argv: Sequence[str], flags: Sequence[Flag], environ: Mapping[str, str]) -> Options:
    """Options from the arguments (without the program's name), else the environment, else the defaults.

    Raises FlagError for an unknown flag, a missing or wrong value, or an argument that is no flag.
    """
    known = {flag.name: flag for flag in flags}
    values: dict[str, str | int | bool] = {}
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--" and not rest:
            break
        if not argument.startswith("-") or argument in ("-", "--"):
            raise FlagError(f"{argument!r} is not a flag")
        name, equals, text = argument.lstrip("-").partition("=")
        flag = known.get(name)
        if flag is None:
            import difflib

            close = difflib.get_close_matches(name, known, 1)
            raise FlagError(f"unknown flag --{name}" + (f": did you mean --{close[0]}?" if close else ""))
        if not equals:
            if isinstance(flag.default, bool):
                text = rest.pop(0) if rest and rest[0] in _TRUE + _FALSE else "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise FlagError(f"--{name} needs a value")
        values[name] = flag.read(text, f"--{name}")
    for flag in flags:
        if flag.name not in values and flag.env and environ.get(flag.env):
            values[flag.name] = flag.read(environ[flag.env], flag.env)
    given = frozenset(values)
    return Options({flag.name: flag.default for flag in flags} | values, given)


def usage(program: str, flags: Sequence[Flag]) -> str:
    """The text of --help: one flag per line, with its environment variable and default."""
    lines = [f"usage: {program} [--flag=value ...]", ""]
    for flag in flags:
        default = {True: "true", False: "false"}.get(flag.default) if isinstance(flag.default, bool) else flag.default
        env = f", ${flag.env}" if flag.env else ""
        choices = f": {', '.join(flag.choices)}" if flag.choices else ""
        lines.append(f"  --{flag.name:<18} {flag.help}{choices} (default {default!s}{env})")
    return "\n".join(lines) + "\n"


def start(program: str, version: str, flags: Sequence[Flag], argv: Sequence[str] | None = None) -> Options:
    """Read the command line and set the log level; --help and --version print and exit 0, an error exits 2."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if any(a in ("-h", "-help", "--help") for a in arguments):
        sys.stdout.write(usage(program, flags))
        raise SystemExit(0)
    try:
        options = parse(arguments, flags, os.environ)
    except FlagError as failure:
        sys.stderr.write(f"{program}: {failure}\n{program} --help lists the flags\n")
        raise SystemExit(2) from None
    if options.truth("version"):
        sys.stdout.write(f"{program} v{version}\n")
        raise SystemExit(0)
    logs.configure(options.text("log-level"))
    for flag in flags:
        if flag.without_effect and flag.name in options.given:
            logs.warn(op="startup", msg=f"--{flag.name} is accepted and has no effect")
    return options


def namespace(given: str, path: str = f"{SERVICE_ACCOUNT}/namespace") -> str:
    """The namespace that was given, else the pod's own. Raises FlagError outside a pod."""
    if given:
        return given
    try:
        with open(path, encoding="utf-8") as file:
            found = file.read().strip()
    except OSError:
        found = ""
    if not found:
        raise FlagError(f"no namespace: give --namespace or METALLB_NAMESPACE ({path} cannot be read)")
    return found


class Stop:
    """INT, QUIT and TERM: the first asks for an ordered stop, a second ends the process at once.

    `fileno()` becomes readable with the first, for a selectors loop or `asyncio`'s add_reader.
    """

    SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal = 0  # number of the first signal
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def asked(self) -> bool:
        return self.signal != 0

    def fileno(self) -> int:
        return self._read

    def install(self) -> Stop:
        """Take the signals over. Call it first of all, in the main thread."""
        for number in self.SIGNALS:
            signal.signal(number, self._caught)
        return self

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask for an ordered stop from inside."""
        if not self.signal:
            self.signal = int(number)
            os.write(self._write, b"\0")

    def _caught(self, number: int, frame: object) -> None:
        if self.signal:
            os._exit(128 + number)
        self.ask(number)


def tune_gc() -> None:
    """What start-up made stays: look through new objects only, and seldom. Reference counts do most of it.

    A look through ten thousand Services stops an event loop for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def until_stopped(stop: Stop, tasks: Mapping[str, Coroutine[Any, Any, Any]], grace: float = 5.0) -> int:
    """Run the tasks until a stop is asked (returns 0), or one of them ends (logged, returns 1).

    Then they are cancelled, the last given first, each waited for at most `grace` seconds in all.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_reader(stop.fileno(), asked.set)
    running = {name: asyncio.create_task(task, name=name) for name, task in tasks.items()}
    waiter = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait([waiter, *running.values()], return_when=asyncio.FIRST_COMPLETED)
        code = 0
        if stop.asked:
            logs.info(op="shutdown", msg="stopping in order", signal=signal.Signals(stop.signal).name)
        for name, task in running.items():
            if task.done() and not stop.asked:
                code = 1
                logs.error(op="shutdown", msg=f"{name} ended", error=_why(task))
        return code
    finally:
        waiter.cancel()
        loop.remove_reader(stop.fileno())
        deadline = loop.time() + grace
        for task in reversed(running.values()):
            task.cancel()
            await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))


def _why(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "cancelled"
    failure = task.exception()
    return repr(failure) if failure else "returned"


def run(main: Callable[[], Awaitable[int]]) -> int:
    """An asyncio process: run `main` in a fresh loop and give its exit code."""
    import asyncio

    async def body() -> int:
        return await main()

    return asyncio.run(body())
