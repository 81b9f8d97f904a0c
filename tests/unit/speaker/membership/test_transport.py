"""What goes into one datagram where names are long and nodes have many prefixes."""

from __future__ import annotations

import random

import pytest

from metallb_speaker.announcer.membership.events import Failed, Tier
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.messages import Claim
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.announcer.membership.transport import NOT_SENT
from metallb_speaker.announcer.membership.wire import MAX_MACS, MAX_NAME, MAX_PREFIXES
from metallb_speaker.desired import Member
from tests.unit.speaker.simulator import Cluster

SIZE = 6


@pytest.mark.parametrize("length", [30, 63, 100, 150, 200, MAX_NAME])
@pytest.mark.parametrize(("macs", "prefixes"), [(1, 1), (4, 12), (MAX_MACS, MAX_PREFIXES)])
def test_records_that_do_not_fit_beside_a_ping_are_left_out(length: int, macs: int, prefixes: int) -> None:
    stem = "n" * (length - 2)
    said = {f"{stem}-{i}": tuple(f"2001:db8:{i:x}:{n:x}::/64" for n in range(prefixes)) for i in range(SIZE)}
    cluster = Cluster(SIZE, owning=False, prefixes=said, stem=stem)
    for i, node in enumerate(cluster.nodes.values()):
        node.membership.set_macs([f"02:00:00:00:{i:02x}:{n:02x}" for n in range(macs)], cluster.now)
    cluster.start()
    cluster.run(15)
    assert cluster.agreed()
    cluster.power_off(f"{stem}-0")
    cluster.run(15)
    assert cluster.agreed()
    assert {event.name for n in cluster.nodes.values() for _, event in n.heard if isinstance(event, Failed)} == {
        f"{stem}-0"
    }
    for node in cluster.nodes.values():
        assert NOT_SENT not in node.membership.drops()
        assert {len(s.prefixes or ()) for s in node.membership.view().values() if s.tier < Tier.SILENT} == {prefixes}


def test_what_cannot_be_encoded_is_counted_and_ends_nothing() -> None:
    member = Membership("me", Keyring.from_text("k"), rng=random.Random(1), now=0.0, address="10.0.0.1")
    member.set([Member("other", ("10.0.0.2",), alive=True)], 0.0)
    member.send("other", Claim(1, ("no address",)), 0.0)
    member.send("other", Claim(1 << 32, ("192.0.2.1",)), 0.0)
    assert member.pending() == []
    assert member.drops()[NOT_SENT] == 2
