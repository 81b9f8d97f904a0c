"""metallb-controller: wiring only. Signals first, then HTTP, then everything heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metallb_common import app
from metallb_common.app import Flag
from metallb_common.obs import logs
from metallb_controller import __version__

if TYPE_CHECKING:
    from metallb_common.obs.http import Response
    from metallb_controller.controller import Controller

FLAGS = (
    *app.COMMON,
    Flag("ml-secret-name", "", "Secret with the membership key, made if absent", env="METALLB_ML_SECRET_NAME"),
    Flag("deployment", "", "own Deployment: owner of what is made", env="METALLB_DEPLOYMENT"),
    Flag(
        "on-pool-conflict",
        "refuse",
        "what to do with a config that does not cover addresses in use",
        env="METALLB_ON_POOL_CONFLICT",
        choices=("refuse", "reallocate"),
    ),
    Flag("leader-elect", True, "give out addresses only while holding the Lease"),
    Flag("lease-name", "metallb-controller", "name of the Lease", env="METALLB_LEASE_NAME"),
)


class Pages:
    """What HTTP answers; from the first moment, while the rest is still being loaded."""

    def __init__(self) -> None:
        from metallb_controller.metrics import Metrics

        self.metrics = Metrics()
        self.controller: Controller | None = None

    def routes(self) -> dict[str, Any]:
        from metallb_common.obs import http

        def ready() -> Response:
            good, why = self.controller.ready() if self.controller else (False, "starting")
            return http.text(200 if good else 503, why + "\n")

        def status() -> Response:
            state = self.controller.status() if self.controller else {"ready": False, "state": "starting"}
            return http.as_json({"version": __version__, **state})

        return {
            "/metrics": lambda: http.Response(200, http.PROMETHEUS, self.metrics.registry.render()),
            "/livez": lambda: http.text(200, "ok\n"),
            "/readyz": ready,
            "/status": status,
        }


async def _serve(options: app.Options, stop: app.Stop) -> int:
    from metallb_common.obs import http

    pages = Pages()
    try:
        server = await http.serve(options.text("host"), options.number("port"), pages.routes())
    except OSError as error:
        logs.error(op="startup", error=str(error), msg=f"cannot listen on port {options.number('port')}")
        return 1
    logs.info(op="startup", msg=f"metallb-controller v{__version__}", port=server.ports)
    try:
        return await app.until_stopped(stop, {"controller": _control(options, pages)})
    finally:
        server.close()


async def _control(options: app.Options, pages: Pages) -> None:
    from metallb_common.kube.client import connect
    from metallb_controller.configs import Settings
    from metallb_controller.controller import Controller, Options
    from metallb_controller.wishes import Rules

    settings = Settings(
        namespace=app.namespace(options.text("namespace")),
        name=options.text("config"),
        accepted=options.text("accepted-config"),
        deployment=options.text("deployment"),
        reallocate=options.text("on-pool-conflict") == "reallocate",
    )
    api = await connect(options.text("kubeconfig"))
    try:
        controller = Controller(
            api,
            Options(
                settings,
                Rules(options.text("lb-class"), options.truth("also-classless")),
                options.truth("leader-elect"),
                options.text("lease-name"),
                options.text("ml-secret-name"),
            ),
            pages.metrics,
        )
        pages.controller = controller
        app.tune_gc()
        await controller.run()
    finally:
        await api.close()


def main(argv: Sequence[str] | None = None) -> int:
    """The controller's process. Returns its exit code."""
    stop = app.Stop().install()
    options = app.start("metallb-controller", __version__, FLAGS, argv)
    return app.run(lambda: _serve(options, stop))


if __name__ == "__main__":
    sys.exit(main())
