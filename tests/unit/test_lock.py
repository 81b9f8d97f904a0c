"""`make verify-lock`: the locks have what is asked for, pinned, with hashes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = [
    "tests/lock.sh",
    "requirements-dev.in",
    "requirements-dev.txt",
    "requirements-fuzz.in",
    "requirements-fuzz.txt",
    "images/requirements.in",
    "images/controller/requirements.txt",
    "images/speaker/requirements.txt",
]


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", folder / "tests/lock.sh", "--check"], capture_output=True, text=True, check=False)


def test_of_the_tree() -> None:
    told = check(ROOT)
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "pattern", "by", "told"),
    [
        ("requirements-dev.in", r"\Z", "Left.Out\n", "requirements-dev.txt lacks left-out"),
        ("images/speaker/requirements.txt", r"(?m)^kubernetes==", "kubernetes-client==", "lacks kubernetes"),
        (
            "images/controller/requirements.txt",
            r"(?m)^(certifi==\S+) \\\n( +--hash.*\n)+",
            r"\1\n",
            "certifi==",
        ),
        ("requirements-dev.txt", r"(?m)^ruff==\S+", "ruff>=0", "ruff>=0 is not pinned"),
        ("requirements-fuzz.txt", r"(?m)^atheris==\S+", "atheris>=0", "atheris>=0 is not pinned"),
        ("requirements-dev.txt", r"\A", "--index-url https://example.com/simple\n", "does not belong here"),
    ],
)
def test_of_a_lock_that_lacks_something(file: str, pattern: str, by: str, told: str, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / file
    changed = re.sub(pattern, by, path.read_text(), count=1)
    assert changed != path.read_text()
    path.write_text(changed)
    said = check(tmp_path)
    assert said.returncode == 1
    assert told in said.stderr
