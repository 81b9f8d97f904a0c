"""Collects what was proven with which router; `METALLB_WRITE_DOCS=1` writes it to docs/bgp-interop.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .routers import ROUTERS

TABLE = Path(__file__).parents[3] / "docs" / "bgp-interop.md"
ROWS = {
    "test_routes_of_both_families_arrive": "Routes of both families: next hops, communities, withdrawal",
    "test_the_recipe_works": "The recipe of bgp.md as it stands there",
    "test_a_peer_behind_another_router": "A hop between, with BFD multihop (FRR, BIRD)",
    "test_bfd_with_an_internal_peer": "BFD with an iBGP peer, on the link and with a hop between",
    "test_ipv4_routes_over_an_ipv6_next_hop": "IPv4 routes over an IPv6 next hop (RFC 8950), no IPv4 address here",
    "test_gtsm_on_both_sides": "GTSM on both sides",
    "test_gtsm_refuses_who_may_be_off_the_link": "GTSM on our side only: refused",
    "test_hold_time_zero_needs_no_keepalives": "Hold time 0",
    "test_md5_with_the_right_and_the_wrong_key": "TCP MD5: right key up, wrong key not",
    "test_killed_announcer_keeps_its_routes_with_graceful_restart": "Killed with graceful restart: routes stay",
    "test_killed_announcer_loses_its_routes_without_graceful_restart": "Killed without graceful restart: routes go",
    "test_bfd_sees_a_pulled_cable": "BFD 50 ms × 3: pulled cable seen by both",
    "test_bfd_echo_both_ways": "BFD echo 50 ms, both ways",
    "test_both_dial_and_one_connection_stays": "Both sides dial: one connection stays",
    "test_a_router_that_only_dials_is_answered_when_listening": "Router dials, we listen",
    "test_the_lower_hold_time_holds": "Hold time negotiated",
    "test_an_ordered_stop_tells_the_operator_why": "Ordered stop: GRACEFUL_SHUTDOWN, then Cease with a message",
    "test_an_ordered_end_gives_time_also_with_bfd": "The same with BFD: AdminDown only after Cease",
    "test_a_restart_with_graceful_restart_and_bfd_keeps_the_routes": "Restart with graceful restart, BFD: routes stay",
    "test_other_bfd_timers_flap_nothing": "Other BFD timers while the session is up",
    "test_the_peers_as_may_be_any_other_or_our_own": "`peer-asn: external`",
    "test_an_internal_peer_is_known_by_our_own_as": "`peer-asn: internal`, LOCAL_PREF",
    "test_another_as_towards_one_peer": "`local-asn`",
    "test_of_several_preferences_the_highest_holds": "One prefix advertised twice: highest LOCAL_PREF wins",
    "test_external_peers_are_told_no_preference": "No LOCAL_PREF to external peers",
    "test_one_family_only": "`address-families`: one only",
    "test_a_router_that_asks_for_everything_again_gets_it": "Route refresh",
    "test_long_messages_where_the_router_takes_them": "Extended messages",
    "test_an_address_that_comes_after_the_session": "An IPv6 address that comes after the session",
    "test_a_port_that_the_network_plugin_holds_is_told_and_tried_again": "`listen` where another BGP holds the port",
    "test_a_new_password_resets_its_own_session_alone": "A new password resets its own session alone",
}
#: Tests of iBGP that do not say so in their parameters.
_INTERNAL = {"test_an_internal_peer_is_known_by_our_own_as", "test_of_several_preferences_the_highest_holds"}
_outcomes: dict[tuple[str, str, str], bool] = {}  # (row, variant, router) -> passed
#: Tests that name no router in their parameters.
_FIXED = {
    "test_gtsm_refuses_who_may_be_off_the_link": "frr",
    "test_bfd_echo_both_ways": "frr",
    "test_long_messages_where_the_router_takes_them": "bird",
    "test_an_address_that_comes_after_the_session": "bird",
    "test_a_port_that_the_network_plugin_holds_is_told_and_tried_again": "frr",
    "test_a_new_password_resets_its_own_session_alone": "frr",
}
#: A word in a test's parameters -> in the table.
_WORDS = {
    "ebgp": "eBGP",
    "ibgp": "iBGP",
    "multihop": "eBGP multihop",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "lower": "our identifier lower",
    "higher": "our identifier higher",
    "open": "without MD5",
    "md5": "with MD5",
    "short": "two octets",
    "wide": "four octets",
    "stop": "the announcer stops",
    "removed": "the peer is removed",
}


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid.rsplit("::", 1)[-1]
    test, _, rest = name.partition("[")
    if report.when != "call" or test not in ROWS or "integration/bgp" not in report.nodeid:
        return
    parts = rest.rstrip("]").split("-") if rest else []
    router = next((p for p in parts if p in ROUTERS), _FIXED.get(test, ""))
    variant = " over ".join(words for part, words in _WORDS.items() if part in parts)
    key = test, variant, router
    _outcomes[key] = _outcomes.get(key, True) and report.passed


def pytest_sessionfinish() -> None:
    if os.environ.get("METALLB_WRITE_DOCS") != "1" or not _outcomes:
        return
    lines = [
        "# BGP and BFD with other implementations",
        "",
        "Made by the integration tests (`METALLB_WRITE_DOCS=1 make test-integration`), which run the real daemons in",
        "network namespaces. A dash: the combination is not tested, mostly because that daemon lacks the feature.",
        "",
        "| What | Session | "
        + " | ".join({"frr": "FRR", "bird": "BIRD", "gobgp": "GoBGP", "exabgp": "ExaBGP"}.values())
        + " |",
        "|---|---|---|---|---|---|",
    ]
    for test, title in ROWS.items():
        for variant in sorted({v for t, v, _ in _outcomes if t == test}):
            cells = [{True: "yes", False: "**no**", None: "–"}[_outcomes.get((test, variant, r))] for r in ROUTERS]
            session = variant or ("iBGP" if test in _INTERNAL else "eBGP")
            lines.append(f"| {title} | {session} | " + " | ".join(cells) + " |")
    TABLE.write_text("\n".join(lines) + "\n")
