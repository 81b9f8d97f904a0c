"""No password in any output, however wrongly it was written: errors, warnings, --json, and what convert says."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from metallb_common.config.check import main
from metallb_common.config.parse import from_config_map
from tests.vectors.secret_shapes import SECRET, SHAPES

HOLDERS = {
    "bare": lambda text: text,
    "map": lambda text: (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  config: |\n" + textwrap.indent(text, "    ")
    ),
    "values": lambda text: "configInline:\n" + textwrap.indent(text, "  "),
    "values as text": lambda text: "configInline: |\n" + textwrap.indent(text, "  "),
    "release": lambda text: (
        "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec:\n  values:\n    configInline:\n"
        + textwrap.indent(text, "      ")
    ),
    "application": lambda text: (
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nspec:\n  source:\n    helm:\n      values: |\n"
        "        configInline:\n" + textwrap.indent(text, "          ")
    ),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_check_quotes_no_password(shape: str, holder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(HOLDERS[holder](SHAPES[shape]), "utf-8")
    for arguments in ([], ["--json"]):
        main(["check", *arguments, str(file)])
        captured = capsys.readouterr()
        assert SECRET not in captured.out
        assert SECRET not in captured.err


@pytest.mark.parametrize("shape", SHAPES)
def test_no_error_that_a_process_tells_quotes_a_password(shape: str) -> None:
    parsed = from_config_map({"config": SHAPES[shape]})
    for found in (*parsed.errors, *parsed.warnings):
        assert SECRET not in repr(found)
        assert SECRET not in str(found)


PEER = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: p}\nspec:\n  myASN: 1\n  peerASN: 2\n"


@pytest.mark.parametrize(
    "line",
    [
        f"password: [{SECRET}]",
        f"password: {{{SECRET}: 1, {SECRET}: 2}}",
        f"password: *{SECRET}",
        f"password: {SECRET * 20}",
        f"password: {SECRET}\n  password: {SECRET}",
        f"passwordSecret: {SECRET}",
        f"passwordSecret: [{SECRET}]",
        f"passwordSecret: {{name: [{SECRET}]}}",
        f"passwordSecret: {{name: '{SECRET}!'}}",
        f"? 'password:{SECRET}'\n  : 1",
        f"'password {SECRET}': 1",
    ],
)
def test_convert_says_no_password(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document that it makes has the password where the objects have it; what it says about them does not."""
    file = tmp_path / "o.yaml"
    file.write_text(f"{PEER}  peerAddress: 192.0.2.1\n  {line}\n", "utf-8")
    main(["convert", str(file)])
    captured = capsys.readouterr()
    assert SECRET not in captured.err
