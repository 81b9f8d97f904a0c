"""Checked values -> BGP peers, with what spans several keys of a peer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from metallb_common.config.durations import SECOND, format_duration
from metallb_common.config.errors import Path, hushed
from metallb_common.config.model import BfdProfile, Peer
from metallb_common.config.report import Report, Values
from metallb_common.config.selectors import Selectors
from metallb_common.config.structure import shown

#: The hold time is a 16-bit field (RFC 4271 section 4.2), and at least 3 when it is not 0.
_MAX_HOLD, _MIN_HOLD = 65535, 3
#: TCP MD5 keys are at most this many bytes in Linux.
MAX_PASSWORD = 80
#: A powered-off node's routes stay this long at most.
_MAX_RESTART = 15


class PeerBuilder:
    """Builds the peers of one document."""

    def __init__(self, report: Report, selectors: Selectors, profiles: Mapping[str, BfdProfile]) -> None:
        self.report = report
        self.selectors = selectors
        self.profiles = profiles

    def build(self, raw: list[Values]) -> tuple[Peer, ...]:
        given = {item["name"]: i for i, item in reversed(list(enumerate(raw))) if item.get("name")}
        taken = set(given)
        seen: dict[Peer, int] = {}
        listening: dict[tuple[Any, ...], tuple[int, tuple[str, ...]]] = {}
        out = []
        for i, item in enumerate(raw):
            path: Path = ("peers", i)
            name = item.get("name") or ""
            if name and given[name] != i:
                self.report.error(
                    (*path, "name"), f"duplicate definition of peer {shown(name)}", "give each its own name"
                )
            peer = self._peer(item, i)
            first = seen.setdefault(peer, i)
            if first != i:
                self.report.error(
                    path, f"peer #{i + 1} already exists", f"it is the same as peers[{first}]: remove one"
                )
            if peer.listen:
                key = (peer.password, peer.password_secret, peer.password_secret_key)
                other, its_key = listening.setdefault((peer.peer_address, peer.node_selectors), (i, key))
                if its_key != key:
                    self.report.error(
                        (*path, "listen"),
                        f"peers[{other}] listens for the same address with another password: the first packet of a "
                        "call does not tell which of them it is",
                        "give both one password, or remove listen from one",
                    )
            if not name:
                name = _free_name(peer, taken)
                taken.add(name)
            out.append(dataclasses.replace(peer, name=name))
        return tuple(out)

    def _peer(self, raw: Values, index: int) -> Peer:
        path: Path = ("peers", index)
        hold = self._hold_time(raw.get("hold-time") or None, path)
        restart, restart_time = self._graceful_restart(raw.get("graceful-restart"), (*path, "graceful-restart"))
        self._conflicts(raw, index)
        secret = raw.get("password-secret") or {}
        return Peer(
            name="",
            my_asn=raw["my-asn"],
            peer_asn=raw["peer-asn"],
            peer_address=raw["peer-address"],
            peer_port=raw.get("peer-port") or 179,
            source_address=raw.get("source-address") or None,
            hold_time=hold,
            keepalive_time=self._keepalive(raw.get("keepalive-time") or None, hold, path),
            connect_time=self._seconds(raw, "connect-time", 1, 65535, path),
            router_id=raw.get("router-id") or None,
            password=raw.get("password") or "",
            password_secret=secret.get("name", ""),
            password_secret_key=secret.get("key") or "password",
            node_selectors=self.selectors.build(raw.get("node-selectors"), (*path, "node-selectors")),
            bfd_profile=raw.get("bfd-profile") or "",
            ebgp_multihop=raw.get("ebgp-multihop", False),
            local_asn=raw.get("local-asn"),
            graceful_restart=restart,
            graceful_restart_time=restart_time,
            address_families=_families(raw.get("address-families") or []),
            gtsm=raw.get("gtsm", False),
            listen=raw.get("listen", False),
        )

    def _hold_time(self, given: tuple[int, str] | None, path: Path) -> int:
        if not given:
            return 90
        nanoseconds, text = given
        seconds = nanoseconds // SECOND
        here: Path = (*path, "hold-time")
        if 0 < seconds < _MIN_HOLD:
            self.report.error(
                here,
                f'invalid hold time "{text}": must be 0 or >=3s',
                "a duration of at least 3s with its unit, such as 90s, or 0s for no hold timer",
            )
        elif seconds > _MAX_HOLD:
            self.report.error(here, f'invalid hold time "{text}": must be at most {_MAX_HOLD}s', "the default is 90s")
        elif nanoseconds and not seconds:
            self.report.warn(
                here,
                f'hold time "{text}" is cut to 0s: no hold timer, no keepalives',
                "write 0s if that is meant, or 90s",
            )
        elif nanoseconds % SECOND:
            self.report.warn(here, f'hold time "{text}" is cut to whole seconds: {seconds}s')
        return seconds

    def _keepalive(self, given: tuple[int, str] | None, hold: int, path: Path) -> int:
        third = max(1, hold // 3) if hold else 0
        if not given:
            return third
        nanoseconds, text = given
        seconds = nanoseconds // SECOND
        here: Path = (*path, "keepalive-time")
        if seconds > hold:
            self.report.error(
                here,
                f'invalid keepaliveTime "{text}": must not be more than the hold time of {hold}s',
                f"a third of the hold time is usual: {third}s",
            )
        elif hold and not seconds:
            self.report.warn(
                here, f'keepalive time "{text}" is less than a second: a third of the hold time is used, {third}s'
            )
            return third
        return seconds

    def _seconds(self, raw: Values, key: str, low: int, high: int, path: Path) -> int | None:
        given = raw.get(key)
        if not given:
            return None
        nanoseconds, text = given
        if not low * SECOND <= nanoseconds <= high * SECOND:
            bounds = f"{format_duration(low * SECOND)} to {high}s"
            self.report.error((*path, key), f'invalid {key} "{text}": must be {bounds}', f"such as {min(high, 10)}s")
        return int(nanoseconds // SECOND)

    def _graceful_restart(self, raw: Any, path: Path) -> tuple[bool, int]:
        if not isinstance(raw, dict):
            return bool(raw), _MAX_RESTART
        time = self._seconds(raw, "restart-time", 1, _MAX_RESTART, path)
        return raw.get("enabled", True), _MAX_RESTART if time is None else time

    def _conflicts(self, raw: Values, index: int) -> None:
        path: Path = ("peers", index)
        internal = raw["peer-asn"] in (raw["my-asn"], "internal")
        multihop = raw.get("ebgp-multihop", False)
        if multihop and internal:
            self.report.error(
                (*path, "ebgp-multihop"),
                "invalid ebgp-multihop: peer-asn is my-asn, so this peer is not an eBGP one",
                "remove ebgp-multihop: iBGP peers may be any number of hops away",
            )
        if raw.get("local-asn") and internal:
            self.report.error((*path, "local-asn"), "local-asn is for eBGP peers only", "remove it, or change my-asn")
        if raw.get("local-asn") == raw["peer-asn"] and not internal:
            self.report.error(
                (*path, "local-asn"),
                "local-asn is the peer's own AS, which would make it an iBGP peer",
                "write another, or, for an iBGP peer, remove it and write that AS as my-asn",
            )
        if raw.get("gtsm") and multihop:
            self.report.error(
                (*path, "gtsm"),
                "gtsm wants the peer on the same link, ebgp-multihop says that it is not",
                "remove one of the two",
            )
        if raw.get("password") and raw.get("password-secret"):
            self.report.error(
                (*path, "password-secret"), "both password and password-secret are given", "remove password"
            )
        families = raw.get("address-families") or []
        if len(set(families)) != len(families):
            self.report.error((*path, "address-families"), "the same address family twice", "name each once")
        if len((raw.get("password") or "").encode()) > MAX_PASSWORD:
            self.report.error((*path, "password"), f"invalid password: it is longer than {MAX_PASSWORD} bytes")
        profile = raw.get("bfd-profile") or ""
        if profile and profile not in self.profiles:
            known = ", ".join(list(self.profiles)[:5]) or "none"
            self.report.error(
                (*path, "bfd-profile"),
                f"peer #{index + 1} referencing non existing bfd profile {hushed(profile)}",
                f"define it in bfd-profiles; defined are {known}",
            )
        elif profile and multihop and self.profiles[profile].echo_mode:
            self.report.warn(
                (*path, "bfd-profile"), "echo-mode has no effect on a multihop session (RFC 5883 section 3)"
            )
        source = raw.get("source-address")
        if source and source.version != raw["peer-address"].version:
            self.report.warn(
                (*path, "source-address"),
                "source-address and peer-address are of different families: it cannot connect",
            )


def _families(raw: list[str]) -> tuple[Literal["ipv4", "ipv6"], ...]:
    out: list[Literal["ipv4", "ipv6"]] = []
    if "ipv4" in raw:
        out.append("ipv4")
    if "ipv6" in raw:
        out.append("ipv6")
    return tuple(out)


def _free_name(peer: Peer, taken: set[str]) -> str:
    """The address; with the port when that is taken; then with a number."""
    base = str(peer.peer_address)
    if base not in taken:
        return base
    base = f"[{base}]:{peer.peer_port}" if peer.peer_address.version == 6 else f"{base}:{peer.peer_port}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}#{number}", number + 1
    return name
