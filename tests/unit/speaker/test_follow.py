"""Following the configuration: what is taken, what is refused, what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from metallb_common.config.parse import from_config_map
from metallb_common.kube.views import Service
from metallb_speaker.cluster.follow import PATIENCE, ConfigFollower
from metallb_speaker.cluster.view import Changes, ClusterView

WIDE = "address-pools: [{name: p, protocol: layer2, addresses: [192.0.2.0/24]}]"
NARROW = "address-pools: [{name: p, protocol: layer2, addresses: [192.0.2.128/25]}]"
WRONG = "address-pools: [{name: p, protocol: arp, addresses: [192.0.2.0/24]}]"


def config_map(text: str | None) -> dict[str, Any]:
    return {"metadata": {"name": "config"}, "data": {} if text is None else {"config": text}}


class Lab:
    def __init__(self, *, accepted: bool = False) -> None:
        self.view, self.changes, self.now = ClusterView("n1"), Changes(), 100.0
        parse = from_config_map
        self.follower = ConfigFollower(self.view, self.changes, parse, accepted=accepted, clock=lambda: self.now)

    def hold(self, ip: str) -> None:
        service = Service.from_json({"metadata": {"namespace": "ns", "name": "a"}, "spec": {"type": "LoadBalancer"}})
        self.view.services["ns/a"] = replace(service, ingress_ips=(ip,))

    @property
    def first(self) -> str:
        assert self.view.config is not None
        return str(self.view.config.pools[0].addresses[0]) if self.view.config.pools else ""


def test_nothing_at_first() -> None:
    lab = Lab()
    assert (lab.follower.loaded, lab.follower.stale, lab.follower.problem) == (False, True, "no configuration yet")
    lab.follower.replace([])
    assert lab.view.config is None
    assert "does not exist" in lab.follower.problem


def test_taken_then_replaced_then_missing(capsys: pytest.CaptureFixture[str]) -> None:
    lab = Lab()
    lab.follower.replace([config_map(WIDE)])
    assert (lab.first, lab.follower.loaded, lab.follower.stale) == ("192.0.2.0/24", True, False)
    assert lab.changes.take()[1]
    lab.follower.upsert(config_map(WIDE))
    assert lab.changes.take() == (set(), False)  # the same again is no change
    lab.follower.upsert(config_map(NARROW))
    assert lab.first == "192.0.2.128/25"
    lab.follower.delete(config_map(NARROW))
    assert (lab.first, lab.follower.stale) == ("192.0.2.128/25", True)
    lab.follower.replace([])
    events = [json.loads(line).get("event") for line in capsys.readouterr().out.splitlines()]
    assert events == ["configLoaded", "configLoaded", "noConfig"]  # what is wrong is said once


def test_a_wrong_one_displaces_nothing() -> None:
    lab = Lab()
    lab.follower.replace([config_map(WIDE)])
    lab.follower.upsert(config_map(WRONG))
    assert (lab.first, lab.follower.stale, lab.follower.refusals) == ("192.0.2.0/24", True, 1)
    assert "protocol" in lab.follower.problem
    lab.follower.upsert(config_map(WIDE))
    assert (lab.follower.stale, lab.follower.problem) == (False, "")


def test_one_that_orphans_an_address_waits_for_the_service() -> None:
    lab = Lab()
    lab.follower.replace([config_map(WIDE)])
    lab.hold("192.0.2.7")
    lab.follower.upsert(config_map(NARROW))
    assert lab.first == "192.0.2.0/24"
    assert 'service "ns/a" cannot own "192.0.2.7" under new config' in lab.follower.problem
    lab.follower.retry()
    assert lab.follower.stale
    lab.hold("192.0.2.200")
    lab.follower.retry()
    assert (lab.first, lab.follower.stale) == ("192.0.2.128/25", False)
    lab.follower.retry()  # nothing is left to try


def test_a_first_configuration_orphans_nothing() -> None:
    lab = Lab()
    lab.hold("203.0.113.1")
    lab.follower.replace([config_map(WIDE)])
    assert lab.first == "192.0.2.0/24"


def test_what_the_controller_has_accepted_is_not_judged() -> None:
    lab = Lab(accepted=True)
    lab.follower.replace([config_map(WIDE)])
    lab.hold("192.0.2.7")
    lab.follower.upsert(config_map(NARROW))
    assert (lab.first, lab.follower.stale) == ("192.0.2.128/25", False)


def test_empty_text_is_an_empty_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("", None):
        lab = Lab()
        lab.follower.replace([config_map(text)])
        assert lab.view.config is not None
        assert lab.view.config.pools == ()
        assert "warn" in {json.loads(line)["level"] for line in capsys.readouterr().out.splitlines()}


def test_without_an_accepted_configuration_the_users_own_is_followed(capsys: pytest.CaptureFixture[str]) -> None:
    """The controller may not write it (the original's roles), or does not run."""
    lab = Lab(accepted=True)
    lab.follower.replace([])
    lab.follower.own.replace([config_map(WIDE)])
    lab.follower.retry()
    assert (lab.view.config, lab.follower.due()) == (None, False), "it may come at any moment"
    lab.now += PATIENCE
    assert lab.follower.due()
    lab.follower.retry()
    assert (lab.first, lab.follower.stale, lab.follower.due()) == ("192.0.2.0/24", False, False)
    assert "noAcceptedConfig" in capsys.readouterr().out
    lab.hold("192.0.2.7")
    lab.follower.own.upsert(config_map(NARROW))
    assert (lab.first, lab.follower.stale) == ("192.0.2.0/24", True), "nobody else has judged it"
    lab.follower.own.delete(config_map(NARROW))
    assert (lab.first, lab.follower.stale) == ("192.0.2.0/24", True)
    lab.follower.upsert(config_map(NARROW))
    assert (lab.first, lab.follower.stale) == ("192.0.2.128/25", False), "accepted: the controller has judged it"
    lab.follower.own.upsert(config_map(WIDE))
    assert lab.first == "192.0.2.128/25"


def test_an_accepted_configuration_that_goes_is_kept_and_not_replaced_by_the_users_own() -> None:
    """The user's may be the one that was refused; the controller writes the accepted one again."""
    lab = Lab(accepted=True)
    lab.follower.own.replace([config_map(NARROW)])
    lab.follower.replace([config_map(WIDE)])
    lab.follower.delete(config_map(WIDE))
    lab.now += 10 * PATIENCE
    lab.follower.retry()
    assert (lab.first, lab.follower.stale, lab.follower.due()) == ("192.0.2.0/24", True, False)
