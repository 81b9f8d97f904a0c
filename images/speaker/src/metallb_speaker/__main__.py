"""`metallb-speaker`: signal handlers first, then the flags, then the half that was asked for."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence

from metallb_common import app
from metallb_speaker import __version__
from metallb_speaker.flags import FLAGS, LINK_FD

PROGRAM = "metallb-speaker"


def main(argv: Sequence[str] | None = None) -> int:
    """Run until stopped; gives the exit code."""
    stop = app.Stop()
    inherited = os.environ.pop(LINK_FD, "")
    if inherited:  # the announcer's child: it lives and ends with the announcer, by the end of the stream
        for number in app.Stop.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    else:
        stop.install()
    options = app.start(PROGRAM, __version__, FLAGS, argv)
    if not options.text("node-name"):
        return _refuse("no node name: give --node-name or METALLB_NODE_NAME (in a pod: fieldPath spec.nodeName)")
    if options.text("mode") == "cluster":
        return _cluster(options, stop, inherited)
    from metallb_speaker.announcer.run import run

    return run(options, stop, sys.argv[1:] if argv is None else argv)


def _cluster(options: app.Options, stop: app.Stop, inherited: str) -> int:
    where: str | socket.socket = options.text("socket")
    try:
        app.namespace(options.text("namespace"))
    except app.FlagError as failure:
        return _refuse(str(failure))
    if inherited:
        from metallb_speaker.cluster.privileges import drop

        drop()
        where = socket.socket(fileno=int(inherited))
    from metallb_speaker.cluster.run import main as run

    return app.run(lambda: run(options, stop, where))


def _refuse(message: str) -> int:
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
