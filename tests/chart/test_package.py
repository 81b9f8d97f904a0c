"""`make package`: the package that Helm installs, signed and pushed when asked for."""

from __future__ import annotations

import hashlib
import os
import re
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

OPTIONS = ("OUT", "SIGN_", "PUSH", "CHART_URL", "INDEX", "IMAGE_REGISTRY", "SOURCE_URL")


def _package(out: Path, **variables: str) -> list[Path]:
    """Run it, with a folder that no other run writes to; the files that it names."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OPTIONS)}
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


@pytest.mark.parametrize("passphrase", ["", "hush"])
def test_signed_with_a_key_from_the_environment(tmp_path: Path, passphrase: str) -> None:
    """As in a workflow, which has the key as the text of a secret."""
    gpg = [
        "gpg",
        "--homedir",
        str(tmp_path),
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        passphrase,
    ]
    tmp_path.chmod(0o700)
    try:
        subprocess.run(
            [*gpg, "--quick-generate-key", "Release <release@example.com>", "rsa2048", "sign", "1d"], check=True
        )
        told = subprocess.run([*gpg, "--armor", "--export-secret-keys"], check=True, capture_output=True, text=True)
        subprocess.run([*gpg, "--output", str(tmp_path / "public.gpg"), "--export"], check=True)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(tmp_path), "--kill", "gpg-agent"], check=False)
    (tmp_path / "passphrase").write_text(passphrase)
    package, *_ = _package(tmp_path, SIGN_SECRET=told.stdout, SIGN_PASSPHRASE=str(tmp_path / "passphrase"))
    good = _helm("verify", package, "--keyring", tmp_path / "public.gpg")
    assert "Signed by: Release <release@example.com>" in good.stdout, good.stderr


def test_without_the_secret_a_workflow_packages_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "passphrase").touch()
    assert len(_package(tmp_path, SIGN_SECRET="", SIGN_PASSPHRASE=str(tmp_path / "passphrase"))) == 2


def test_package_of_a_release_runs_the_images_of_its_registry(tmp_path: Path) -> None:
    """Nobody has to set anything: not by default, and not with values that name no image or the original's."""
    before = (images.ROOT / "chart/values.yaml").read_bytes()
    package, _ = _package(tmp_path, IMAGE_REGISTRY="registry.example.com/lb", SOURCE_URL="https://example.com/lb")
    tag = CHART["appVersion"]
    wanted = {f"registry.example.com/lb/metallb/{c}:{tag}" for c in ("controller", "speaker")}
    pool = "configInline.address-pools[0].name=a,configInline.address-pools[0].protocol=layer2"
    pool += ",configInline.address-pools[0].addresses[0]=192.0.2.0/24"
    for values in (
        pool,
        "controller.image.repository=,speaker.image.repository=",
        "controller.image.repository=quay.io/metallb/controller,controller.image.tag=v0.12.1",
        "controller.image.tag=v0.12.1,speaker.image.tag=v0.12.1",
    ):
        told = _helm("template", "metallb", package, "--set", values)
        assert told.returncode == 0, told.stderr
        assert set(re.findall(r"image: (\S+)", told.stdout)) == wanted
    about = yaml.safe_load(_helm("show", "chart", package).stdout)
    assert {i["image"] for i in yaml.safe_load(about["annotations"]["artifacthub.io/images"])} == wanted
    assert (about["home"], about["sources"]) == ("https://example.com/lb", ["https://example.com/lb"])
    assert "localhost" not in _helm("show", "values", package).stdout
    notes = _helm("install", "metallb", package, "--dry-run=client").stdout
    assert "Pods cannot start before their images" not in notes
    assert (images.ROOT / "chart/values.yaml").read_bytes() == before


def test_the_index_of_a_release_keeps_the_releases_before(tmp_path: Path) -> None:
    """From the branch that is served, with the new package added, and back to it: at first there is no branch."""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        told = subprocess.run(["git", *identity, *arguments], cwd=work, check=True, capture_output=True, text=True)
        return told.stdout

    def pages(verb: str, file: Path) -> None:
        environment = os.environ | {"PAGES_REPOSITORY": str(work)}
        script = str(images.ROOT / "tests/pages.sh")
        subprocess.run(["bash", script, verb, str(file)], env=environment, check=True, capture_output=True)

    work, origin, known = tmp_path / "work", tmp_path / "origin.git", tmp_path / "index.yaml"
    work.mkdir()
    git("init", "-q", "-b", "main")
    (work / "file").touch()
    git("add", "-A")
    git("commit", "-q", "-m", "a")
    git("clone", "-q", "--bare", ".", str(origin))
    git("remote", "add", "origin", str(origin))

    known.touch()
    pages("get", known)
    assert not known.exists()
    _, index = _package(tmp_path / "dist", INDEX=str(known), CHART_URL="https://example.com/1")
    text = index.read_text().replace(f"version: {CHART['version']}", "version: 0.9.0")
    (tmp_path / "first.yaml").write_text(text)
    pages("put", tmp_path / "first.yaml")
    pages("get", known)
    assert known.read_text() == text
    _, index = _package(tmp_path / "dist", INDEX=str(known), CHART_URL="https://example.com/2")
    pages("put", index)
    assert git("--git-dir", str(origin), "ls-tree", "--name-only", "gh-pages").split() == ["index.yaml"]
    served = yaml.safe_load(git("--git-dir", str(origin), "show", "gh-pages:index.yaml"))["entries"]["metallb"]
    assert {e["version"]: e["urls"] for e in served} == {
        CHART["version"]: [f"https://example.com/2/{NAME}"],
        "0.9.0": [f"https://example.com/1/{NAME}"],
    }
    assert git("status", "--short", "--branch").split() == ["##", "main"]


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
