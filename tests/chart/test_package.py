"""`make package`: the package that Helm installs, signed and pushed when asked for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import images, registry, toolchain
from tests.cluster.controlplane import free_port

CHART = yaml.safe_load((images.ROOT / "chart/Chart.yaml").read_text())
NAME = f"metallb-{CHART['version']}.tgz"


def _package(out: Path, **variables: str) -> list[Path]:
    """Run it, with a folder that no other run writes to; the files that it names."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SIGN_", "PUSH", "CHART_URL"))}
    script = images.ROOT / "tests/package.sh"
    environment |= {"OUT": str(out), **variables}
    told = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return [Path(line) for line in told.stdout.split()]


def _helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([toolchain.path("helm"), *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A throw-away key, and its secret and public keyrings in the format that Helm reads."""
    home = tmp_path_factory.mktemp("gpg", numbered=True)
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes"]
    quick = ["--passphrase", "", "--quick-generate-key", "Test <test@example.com>", "rsa2048", "sign", "1d"]
    try:
        subprocess.run([*gpg, *quick], check=True, capture_output=True)
        subprocess.run([*gpg, "--output", str(home / "secret.gpg"), "--export-secret-keys"], check=True)
        subprocess.run([*gpg, "--output", str(home / "public.gpg"), "--export"], check=True)
        yield home
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)


def test_leaves_a_package_and_an_index_that_agree(tmp_path: Path) -> None:
    package, index = _package(tmp_path)
    assert package == tmp_path / NAME
    entry = yaml.safe_load(index.read_text())["entries"]["metallb"][0]
    assert entry["digest"] == hashlib.sha256(package.read_bytes()).hexdigest()
    assert entry["urls"] == [NAME]
    assert entry["version"] == CHART["version"]


def test_index_has_the_address_that_it_will_be_served_from(tmp_path: Path) -> None:
    _, index = _package(tmp_path, CHART_URL="https://charts.example.com/stable")
    assert yaml.safe_load(index.read_text())["entries"]["metallb"][0]["urls"] == [
        f"https://charts.example.com/stable/{NAME}"
    ]


def test_package_holds_what_installs_and_nothing_else(tmp_path: Path) -> None:
    package, *_ = _package(tmp_path)
    with tarfile.open(package) as tar:
        names = set(tar.getnames())
    assert {
        "metallb/Chart.yaml",
        "metallb/values.yaml",
        "metallb/values.schema.json",
        "metallb/templates/NOTES.txt",
    } <= names
    inside = {n.removeprefix("metallb/").partition("/")[0] for n in names}
    assert not inside & {"tests", "ci", "README.md.gotmpl"}


def test_signed_package_is_verified_and_a_changed_one_is_not(keyring: Path, tmp_path: Path) -> None:
    package, provenance, _ = _package(tmp_path / "out", SIGN_KEY="Test", SIGN_KEYRING=str(keyring / "secret.gpg"))
    assert provenance.name == NAME + ".prov"
    good = _helm("verify", package, "--keyring", keyring / "public.gpg")
    assert "Signed by: Test" in good.stdout
    changed = tmp_path / NAME
    changed.write_bytes(package.read_bytes() + b"\0")
    (tmp_path / provenance.name).write_bytes(provenance.read_bytes())
    bad = _helm("verify", changed, "--keyring", keyring / "public.gpg")
    assert bad.returncode != 0
    assert "sha256 sum does not match" in bad.stderr
    # The next package, not signed, does not keep a signature that is another's.
    assert not Path(str(_package(tmp_path / "out")[0]) + ".prov").exists()


def test_signing_without_a_keyring_says_what_is_missing() -> None:
    script = images.ROOT / "tests/package.sh"
    told = subprocess.run(["bash", script], env=os.environ | {"SIGN_KEY": "Test"}, capture_output=True, text=True)
    assert told.returncode == 1
    assert "SIGN_KEYRING" in told.stderr


@pytest.mark.root
def test_pushed_to_an_oci_registry_it_can_be_pulled_and_verified(keyring: Path, tmp_path: Path) -> None:
    with registry.local(tmp_path / "registry", free_port()) as address:
        where = f"oci://{address}/charts"
        secret = str(keyring / "secret.gpg")
        signed = {"SIGN_KEY": "Test", "SIGN_KEYRING": secret}
        package, *_ = _package(tmp_path / "out", PUSH=where, PUSH_OPTIONS="--plain-http", **signed)
        told = _helm(
            "pull", f"{where}/metallb", "--version", CHART["version"], "--plain-http", "--destination", tmp_path,
            "--verify", "--keyring", keyring / "public.gpg",
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        assert (tmp_path / NAME).read_bytes() == package.read_bytes()
