"""The recipes of docs/bgp.md, word for word: our configuration through the parser, the router's in its daemon."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from metallb_common.config.parse import parse
from metallb_common.kube.views import Node
from metallb_speaker.cluster import decide_bgp
from metallb_speaker.cluster.view import ClusterView

from .lab import OURS, Agent, Lab, until
from .routers import ROUTERS, Bird, Session
from .test_interop import V4, V6, lab

__all__ = ["lab"]

TEXT = (Path(__file__).parents[3] / "docs" / "bgp.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.root
@pytest.mark.parametrize(("router", "language"), [("frr", "frr"), ("bird", "bird"), ("gobgp", "toml")])
def test_the_recipe_works(lab: Lab, router: str, language: str) -> None:
    with_bfd = router != "gobgp"
    (recipe,) = blocks(language)
    there = ROUTERS[router](lab, Session(config=recipe, bfd_ms=100 if with_bfd else 0))
    if isinstance(there, Bird):
        there.protocol = "node1"
    there.start()
    config = parse(blocks("yaml")[0]).config
    assert config is not None
    view = ClusterView("n1", config, nodes={"n1": Node("n1", {}, True, False, False, (OURS["ipv4"],))})
    sessions = decide_bgp.sessions(config, view)
    assert not sessions.problems
    agent = Agent(lab)
    agent.peers = [dataclasses.asdict(p) for p in sessions.peers]
    agent.timers = [dataclasses.asdict(t) for t in decide_bgp.bfd_timers(config)]
    # The last two are of no pool: the router is to refuse them.
    agent.routes = [{"prefix": p} for p in (V4, V6, "203.0.113.0/25", "198.51.100.1/32")]
    agent.apply()
    agent.wait_established()
    until("both routes are there", lambda: there.routes().keys() >= {V4, V6})
    assert there.routes()[V6].next_hop == OURS["ipv6"]
    if with_bfd:
        until("BFD is up", lambda: agent.tell()["status"][0]["bfd"] == "UP")
        until("they stay, and no other comes", lambda: there.routes().keys() == {V4, V6})


@pytest.mark.parametrize("block", blocks("yaml"), ids=["first", "every-key"])
def test_the_configurations_are_accepted(block: str) -> None:
    parsed = parse(block)
    assert parsed.errors == ()
    assert parsed.warnings == ()


def test_every_key_is_shown() -> None:
    import json

    from metallb_common import config as package

    schema = json.loads((Path(str(package.__file__)).parent / "config.schema.json").read_text())
    shown = set(re.findall(r"([a-z0-9-]+):", blocks("yaml")[1]))
    for kind in ("peer", "bfdProfile", "bgpAdvertisement"):
        assert schema["definitions"][kind]["properties"].keys() <= shown, kind
