"""kube-proxy's IPVS mode without strictARP."""

from __future__ import annotations

from pathlib import Path

import pytest

from metallb_speaker.announcer.edge.sysctl import arp_ignore
from metallb_speaker.announcer.layer2.ipvs import judge


@pytest.mark.parametrize(
    ("interfaces", "settings", "loose"),
    [
        (("eth0",), {"all": 0, "eth0": 0}, ""),
        (("eth0", "kube-ipvs0"), {"all": 0, "eth0": 0}, "eth0"),
        (("eth0", "kube-ipvs0"), {}, "eth0"),
        (("eth0", "kube-ipvs0"), {"all": 1, "eth0": 0}, ""),
        (("eth0", "kube-ipvs0"), {"all": 0, "eth0": 1}, ""),
        (("eth0", "kube-ipvs0"), {"all": 2, "eth0": 0}, ""),
        (("eth0", "eth1", "kube-ipvs0"), {"all": 0, "eth0": 1, "eth1": 0}, "eth1"),
    ],
)
def test_judgement(interfaces: tuple[str, ...], settings: dict[str, int], loose: str) -> None:
    used = [name for name in interfaces if name.startswith("eth")]
    warning = judge(interfaces, used, settings)
    assert bool(warning) is bool(loose)
    if loose:
        assert f"answers ARP on {loose} " in warning
        assert "strictARP: true" in warning


def test_reading(tmp_path: Path) -> None:
    for name, value in (("all", "1\n"), ("eth0", "2\n"), ("eth1", "nonsense")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arp_ignore").write_text(value)
    assert arp_ignore(["eth0", "eth1", "gone"], tmp_path) == {"all": 1, "eth0": 2}


def test_reading_this_machine() -> None:
    assert "all" in arp_ignore(["lo"])
