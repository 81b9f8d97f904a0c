"""Configurations that people published: what 0.12.1 accepts means the same here, what it refuses is refused."""

from __future__ import annotations

from typing import Any

import pytest

from metallb_common.config.parse import parse
from tests.vectors.published import CORPUS, expected, ours, theirs

#: Documents that we judge otherwise than 0.12.1, each with the reason. There is none.
DEVIATIONS: dict[str, str] = {}

#: Documents that 0.12.1 took without a word, and what we say about them while accepting them too.
WARNED = {
    "007-fortresstechnologiesinc-merge-test.yaml": "taken as the whole network 172.10.0.0/24",
    "008-fortresstechnologiesinc-merge-test.yaml": "cut to 0s",
    "030-bboyadao-values.yaml": "taken as the whole network 192.168.1.0/24",
    "033-bstascavage-values.yaml": "67,108,868 addresses",
    "048-danielr1996-values.yaml": "taken as the whole network 10.0.204.0/22",
    "071-purelb-readme.yaml": "4,294,967,296 addresses",
    "074-purelb-netbox-controller.yaml": "4,294,967,296 addresses",
    "105-idx-1514935029-holdtime-ns.yaml": "cut to 0s",
    "114-idx-26721390483-knative.yaml": "taken as the whole network 172.18.1.128/25",
}

RECORDS = expected("configs.expected.jsonl")

# The corpus is no part of the repository: a checkout without it collects nothing here, and says so once.
if not RECORDS:
    print(f"no published configurations at {CORPUS}: nothing to compare with")


def _id(record: dict[str, Any]) -> str:
    return str(record["file"]).removesuffix(".yaml")


if RECORDS:

    @pytest.mark.parametrize("record", RECORDS, ids=_id)
    def test_same_verdict_and_meaning(record: dict[str, Any]) -> None:
        name = record["file"]
        parsed = parse((CORPUS / "configs" / name).read_bytes())
        assert name not in DEVIATIONS, "a deviation must be judged by a test of its own"
        if not record["valid"]:
            assert parsed.config is None
            for error in parsed.errors:
                assert error.line > 0
                assert error.fix or error.reason.startswith("could not parse config: yaml"), error
            return
        assert parsed.errors == ()
        assert parsed.config is not None
        mine, original = ours(parsed.config), theirs(record)
        for pool in mine["pools"].values():
            if pool["avoid-buggy-ips"]:
                pool["size"] = next(p["size"] for n, p in original["pools"].items() if mine["pools"][n] is pool)
        assert mine == original
        said = " ".join(w.reason for w in parsed.warnings)
        if name in WARNED:
            assert WARNED[name] in said
        else:
            assert "network" not in said
            assert "holds" not in said

    def test_every_file_is_judged() -> None:
        assert {r["file"] for r in RECORDS} == {p.name for p in (CORPUS / "configs").iterdir()}
        assert len(RECORDS) >= 120
