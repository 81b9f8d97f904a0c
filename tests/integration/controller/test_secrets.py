"""No password in what the processes say: logs at every level, events, and pages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.controller_lab import MAPS, NAMESPACE, OUR_RIGHTS, Lab, Start, only, wait
from tests.vectors.secret_shapes import SECRET, SHAPES

GOOD = "address-pools:\n- {name: at-the-end, protocol: layer2, addresses: [192.0.2.0/24]}\n"


def seen(log: Path) -> Callable[[], bool]:
    """The speaker has read every configuration up to the last one."""
    return lambda: '"configuration loaded", "pools": 1, "peers": 0' in log.read_text()


@only(OUR_RIGHTS, "what is said does not depend on them")
def test_no_password_is_told(here: Lab, start: Start, tmp_path: Path) -> None:
    process = start("--log-level=all", "--accepted-config=accepted")
    wait(process.leading)
    log = tmp_path / "speaker.log"
    command = [sys.executable, "-m", "metallb_speaker", "--mode=cluster", "--node-name=n1", "--log-level=all"]
    command += [f"--socket={tmp_path / 'desired.sock'}", f"--state-dir={tmp_path}", f"--namespace={NAMESPACE}"]
    command += [f"--kubeconfig={here.server.kubeconfig()}"]
    pages = ""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as speaker:
        try:
            wait(lambda: "the ConfigMap does not exist" in log.read_text())
            for text in (*SHAPES.values(), GOOD):
                here.configure(text)
                version = here.server.get(f"{MAPS}/config")["metadata"]["resourceVersion"]

                def judged(version: str = version) -> bool:
                    config = process.status()["config"]
                    answered = config["stale"] or config["accepted_resource_version"] == version
                    return bool(config["resource_version"] == version and answered)

                wait(judged)
                pages += process.page("/status") + process.page("/metrics")
            wait(seen(log))
        finally:
            speaker.terminate()
    told = [text for _, _, text in here.events("config", "ConfigMap")]
    assert len(told) > len(SHAPES) / 2, "each refusal is told"
    spoken = log.read_text()
    assert spoken.count("configuration not usable") > len(SHAPES) / 2
    for said in (*told, pages, process.log.read_text(), spoken):
        assert SECRET not in said
