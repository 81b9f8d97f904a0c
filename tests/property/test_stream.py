"""The stream between the speaker's halves: whatever is desired arrives, whatever bytes arrive are survived."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from metallb_speaker import stream
from metallb_speaker.desired import (
    KINDS,
    AnnouncedAddress,
    BfdTimers,
    BgpPeer,
    BgpRoute,
    Item,
    Layer2Group,
    Member,
)
from metallb_speaker.stream import codec, frames, writer

NAMES = st.text(max_size=6)
KEYS = st.sampled_from(["a", "b", "c", "ä", ""])
NODES = st.lists(st.sampled_from(["n1", "n2", "n3", "n4"]), unique=True).map(lambda n: tuple(sorted(n)))
ITEMS = {
    kind: st.builds(
        kind,
        key=KEYS,
        **(
            {"candidates": NODES, "fallback": NODES}
            if kind is Layer2Group
            else {"peer_asn": st.integers(1, 2**32 - 1) | st.sampled_from(["internal", "external"])}
            if kind is BgpPeer
            else {}
        ),
    )
    for kind in KINDS.values()
}
ITEM: st.SearchStrategy[Item] = st.one_of(*ITEMS.values())


def key_of(item: Item) -> stream.Key:
    return type(item).__name__, item.key


@given(ITEM)
def test_every_item_survives_json(item: Item) -> None:
    text = json.dumps(codec.encode(item))
    assert codec.decode(type(item).__name__, json.loads(text)) == item


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)


@given(st.sampled_from(sorted(KINDS)) | st.text(max_size=5), JSON)
def test_any_json_decodes_or_is_refused(kind: str, value: object) -> None:
    try:
        item = codec.decode(kind, value)
    except codec.DecodeError:
        return
    assert type(item) is KINDS[kind]


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_wrong_types_are_refused(kind: str, data: st.DataObject) -> None:
    value = json.loads(json.dumps(codec.encode(data.draw(ITEMS[KINDS[kind]]))))
    value["key"] = data.draw(st.integers() | st.none() | st.lists(st.text(max_size=2), max_size=1))
    with pytest.raises(codec.DecodeError, match=kind):
        codec.decode(kind, value)


def test_unknown_fields_are_of_a_later_version() -> None:
    item = Member("n1", ("192.0.2.1",), True)
    assert codec.decode("Member", json.loads(json.dumps({**codec.encode(item), "later": [1]}))) == item


class Halves(RuleBasedStateMachine):
    """A writer and a reader over a connection that is cut anywhere: they end up equal."""

    def __init__(self) -> None:
        super().__init__()
        self.writer = stream.DesiredWriter()
        self.reader = stream.DesiredReader()
        self.told: dict[stream.Key, Item] = {}  # what a consumer of the events holds
        self.connect()

    def connect(self) -> None:
        self.reader.connected()
        self.writer.again()
        self.wire = stream.hello("1")

    def deliver(self, size: int) -> None:
        data, self.wire = self.wire[:size], self.wire[size:]
        for event in self.reader.receive(data):
            if isinstance(event, stream.Change):
                assert event.put or event.drop
                for key in event.drop:
                    del self.told[key]
                for item in event.put:
                    assert self.told.get(key_of(item)) != item  # only what changed
                    self.told[key_of(item)] = item
            elif isinstance(event, stream.Complete):
                assert event.version <= self.reader.version
        if self.reader.asks():
            self.writer.again()

    @rule(put=st.lists(ITEM, max_size=4), drop=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), KEYS), max_size=3))
    def change(self, put: list[Item], drop: list[stream.Key]) -> None:
        self.writer.change(put, drop)

    @rule()
    def take(self) -> None:
        self.wire += b"".join(self.writer.take())

    @rule(size=st.integers(1, 400))
    def some(self, size: int) -> None:
        self.deliver(size)

    @rule()
    def cut(self) -> None:
        self.connect()

    @rule()
    def lose_a_transaction(self) -> None:
        """A defect somewhere: the reader notices by the version, and asks."""
        self.deliver(len(self.wire))
        had = self.writer.waiting
        list(self.writer.take())
        if had:
            self.writer.change([Member("x", (), alive=True)])
            self.writer.change([Member("x", (str(self.writer.version),), alive=True)])

    @rule()
    def settle(self) -> None:
        for _ in range(3):
            self.deliver(len(self.wire))
            self.wire += b"".join(self.writer.take())
        self.deliver(len(self.wire))
        assert self.reader.items == self.writer.items
        assert self.reader.version == self.writer.version

    @invariant()
    def consumers_know_what_the_reader_holds(self) -> None:
        assert self.told == self.reader.items


Halves.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestHalves = Halves.TestCase


def test_large_snapshots_come_in_small_frames_and_share_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = tuple(f"node-{n:04}" for n in range(500))
    groups = [
        Layer2Group(ip := f"10.0.{n // 250}.{n % 250}", (AnnouncedAddress(ip, (f"ns/s{n}",), "p"),), nodes)
        for n in range(2000)
    ]
    desired = stream.DesiredWriter()
    desired.change(groups)
    wire = list(desired.take())
    assert max(map(len, wire)) < 10_000
    assert sum(map(len, wire)) < 250_000
    reader = stream.DesiredReader()
    reader.receive(stream.hello("1"))
    for piece in wire:
        reader.receive(piece)
    assert reader.items == desired.items
    held = [item.candidates for item in reader.items.values() if isinstance(item, Layer2Group)]
    assert all(candidates is held[0] for candidates in held)  # memory for one list, not for two thousand
    # Lists that nothing uses any more are forgotten in the end, by a snapshot.
    monkeypatch.setattr(writer, "MAX_NAMES", 3)
    for n in range(10):
        desired.change([replace(groups[0], candidates=(f"a{n}", f"b{n}"))])
        for piece in desired.take():
            reader.receive(piece)
        assert reader.items == desired.items


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_refused_or_waited_for(pieces: list[bytes]) -> None:
    for receiver in (stream.DesiredReader(), stream.UpstreamReader()):
        try:
            for piece in pieces:
                receiver.receive(piece)
        except stream.StreamError:
            continue


MESSAGE = st.fixed_dictionaries(
    {
        "t": st.sampled_from(
            [
                "hello",
                "begin",
                "put",
                "drop",
                "end",
                "names",
                "state",
                "again",
                "announced",
                "warned",
                "members",
                "later",
            ]
        )
    },
    optional=dict.fromkeys(
        ("stream", "base", "version", "items", "keys", "why", "id", "names", "synced", "numbers", "service"), JSON
    )
    | {"problems": st.lists(st.text(max_size=3), max_size=2), "ips": st.lists(st.text(max_size=3), max_size=2)},
)


@given(st.lists(MESSAGE, max_size=5))
def test_any_messages_are_refused_or_taken(messages: list[dict[str, object]]) -> None:
    wire = stream.hello("1") + b"".join(frames.frame(message) for message in messages)
    for receiver in (stream.DesiredReader(), stream.UpstreamReader()):
        try:
            receiver.receive(wire)
        except stream.StreamError:
            continue


def test_frames_are_bounded() -> None:
    with pytest.raises(stream.StreamError):
        frames.frame({"t": "x" * frames.MAX_FRAME})
    with pytest.raises(stream.StreamError, match="announced"):
        stream.DesiredReader().receive((frames.MAX_FRAME + 1).to_bytes(4, "big"))


def test_another_stream_version_is_refused() -> None:
    with pytest.raises(stream.StreamError, match="stream version 99"):
        stream.DesiredReader().receive(frames.frame({"t": "hello", "stream": 99, "version": "9"}))
    with pytest.raises(stream.StreamError, match="no hello"):
        stream.DesiredReader().receive(stream.state(stream.State(True)))


def test_why_arrives_with_what_it_explains() -> None:
    desired, reader = stream.DesiredWriter(), stream.DesiredReader()
    group = Layer2Group("192.0.2.1", (AnnouncedAddress("192.0.2.1", ("a/b",)),), ("n1",))
    desired.change([group])
    reader.receive(stream.hello("1") + b"".join(desired.take()))
    desired.change([], [("Layer2Group", "192.0.2.1")], {"a/b": "serviceDeleted"})
    events = reader.receive(b"".join(desired.take()))
    assert events == [
        stream.Change(drop=(("Layer2Group", "192.0.2.1"),), why={"a/b": "serviceDeleted"}),
        stream.Complete(2, False),
    ]


@given(st.text(max_size=9), st.text(max_size=9), st.lists(st.text(max_size=5), max_size=3).map(tuple), st.booleans())
def test_reports_arrive(one: str, two: str, many: tuple[str, ...], truth: bool) -> None:
    reports: list[stream.Report] = [
        stream.Announced(one, two, many),
        stream.Withdrawn(one, two, many, "notOwner"),
        stream.Warned("Node", one, two, "message"),
        stream.MembersSeen(truth, many),
    ]
    wire = stream.hello("v") + b"".join(map(stream.report, reports)) + stream.again()
    assert stream.UpstreamReader().receive(wire) == [stream.Hello("v"), *reports, stream.Again()]


def test_state_arrives() -> None:
    state = stream.State(
        True,
        ("config: line 3: no",),
        (("m", "help", "counter", ("l",), ((("v",), 3.0),)), ("n", "help", "gauge", (), (((), 1.5),))),
    )
    assert stream.DesiredReader().receive(stream.hello("v") + stream.state(state)) == [stream.Hello("v"), state]


def test_passwords_are_not_in_representations() -> None:
    peer = BgpPeer("p", 1, 2, "192.0.2.1", 179, "", 90, 30, 10, "", password="hush")
    assert "hush" not in repr(stream.Change(put=(peer, BfdTimers("b", 1, 1, 1, 1, False, False, 1))))
    assert "hush" in json.dumps(codec.encode(peer))
    assert BgpRoute("k", "192.0.2.0/24", 0, ((1, 2),), (), ()) == codec.decode(
        "BgpRoute", codec.encode(BgpRoute("k", "192.0.2.0/24", 0, ((1, 2),), (), ())) | {"communities": [[1, 2]]}
    )
