"""The run-time parser against the corpus of documents."""

from __future__ import annotations

import pytest

from metallb_common.config.model import Config
from metallb_common.config.parse import parse
from tests.vectors.config_corpus import Case, cases

ACCEPT, REJECT = cases("accept"), cases("reject")


def _id(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", ACCEPT, ids=_id)
def test_accepted(case: Case) -> None:
    parsed = parse(case.text)
    assert parsed.errors == ()
    assert isinstance(parsed.config, Config)
    warned = [f"{w.reason} {w.fix}" for w in parsed.warnings]
    expected = case.get("warn")
    if expected:
        assert any(expected in text for text in warned), warned
        assert all(w.line > 0 for w in parsed.warnings)
    elif case.name != "nothing-given":
        assert warned == []


@pytest.mark.parametrize("case", REJECT, ids=_id)
def test_rejected(case: Case) -> None:
    parsed = parse(case.text)
    assert parsed.config is None
    assert parsed.errors
    found = [e for e in parsed.errors if e.path == case.get("path") and case.get("reason") in e.reason]
    assert len(found) == 1, "\n".join(map(str, parsed.errors))
    error = found[0]
    assert case.get("hint") in error.fix
    assert case.get("also") in error.fix
    assert 0 < error.line <= case.text.count("\n")
    assert error.column > 0


@pytest.mark.parametrize("case", REJECT, ids=_id)
def test_reject_case_is_complete(case: Case) -> None:
    """A reject file that names no reason and no hint would judge nothing."""
    assert "path" in case.head
    assert len(case.get("reason")) > 5
    assert len(case.get("hint")) > 5


@pytest.mark.parametrize("case", [*ACCEPT, *REJECT], ids=_id)
def test_same_for_bytes_and_crlf(case: Case) -> None:
    """The same verdict for bytes, and for a file saved with the other line ends."""
    verdict = parse(case.text)
    assert parse(case.text.encode()) == verdict
    crlf = parse(case.text.replace("\n", "\r\n"))
    assert crlf.config == verdict.config
    assert [e.line for e in crlf.errors] == [e.line for e in verdict.errors]


def test_no_secret_in_messages() -> None:
    """Whatever is wrong with a password, the message does not tell it."""
    secret = "s3cr3t-" * 20
    for value in (secret, f"[{secret}]", f"!!binary {secret}"):
        text = f"peers:\n- my-asn: 1\n  peer-asn: 2\n  peer-address: 192.0.2.1\n  password: {value}\n"
        parsed = parse(text)
        assert parsed.errors
        assert all("s3cr3t" not in str(e) for e in parsed.errors), parsed.errors
    ok = parse(f"peers:\n- my-asn: 1\n  peer-asn: 2\n  peer-address: 192.0.2.1\n  password: {secret[:70]}\n")
    assert ok.config is not None
    assert "s3cr3t" not in repr(ok)
