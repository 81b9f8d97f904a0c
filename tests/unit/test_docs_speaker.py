"""docs/speaker.md tells of every flag, metric and reason that the speaker has."""

from __future__ import annotations

import re
from pathlib import Path

from metallb_speaker.flags import FLAGS

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs/speaker.md").read_text()
SOURCES = ROOT / "images/speaker/src/metallb_speaker"


def test_every_flag_and_variable() -> None:
    for flag in FLAGS:
        assert f"`--{flag.name}`" in TEXT, flag.name
        assert not flag.env or f"`{flag.env}`" in TEXT, flag.env


def test_every_metric() -> None:
    files = ["announcer/pages.py", "announcer/announcer.py", "cluster/run.py"]
    source = "".join((SOURCES / name).read_text() for name in files)
    named = set(re.findall(r'"(metallb_[a-z0-9_]+)"', source))
    assert len(named) > 8
    for name in named:
        assert f"`{name}`" in TEXT, name


def test_every_reason() -> None:
    source = "".join(path.read_text() for path in (SOURCES / "cluster").glob("*.py"))
    for reason in re.findall(r'"((?:no|not|ip|invalid|service|protocol|loadBalancer)[A-Z][A-Za-z]+)"', source):
        assert f"`{reason}`" in TEXT, reason
