"""The stream between the speaker's halves: frames of JSON over a local stream socket, sans-IO.

A frame is a 4-byte big-endian length and that many bytes of UTF-8 JSON, at most MAX_FRAME.

Cluster half to announcer: `hello`; then transactions of `Desired`: `begin` (with the version that it
rests on, 0 for a whole snapshot), any number of `put` and `drop`, `end`. A receiver that holds another
version than the one a transaction rests on ignores it and sends `again`; the sender answers with a
snapshot. Items take effect as they come, so that a receiver never has to apply thousands at once; after a
snapshot's `end`, what it did not name is dropped. Lists of node names, the same in most items, are sent
once (`names`) and referred to by number. `state` carries what the cluster half knows of itself.

Announcer to cluster half: `hello`, `again`, and `report`s (see the Report types).
"""

from metallb_speaker.stream.frames import FrameReader, StreamError
from metallb_speaker.stream.messages import (
    Again,
    Announced,
    Change,
    Complete,
    Event,
    Hello,
    Key,
    MembersSeen,
    Numbers,
    Report,
    State,
    Upstream,
    Warned,
    Withdrawn,
    again,
    hello,
    report,
    state,
)
from metallb_speaker.stream.reader import DesiredReader
from metallb_speaker.stream.writer import DesiredWriter, UpstreamReader

__all__ = [
    "Again",
    "Announced",
    "Change",
    "Complete",
    "DesiredReader",
    "DesiredWriter",
    "Event",
    "FrameReader",
    "Hello",
    "Key",
    "MembersSeen",
    "Numbers",
    "Report",
    "State",
    "StreamError",
    "Upstream",
    "UpstreamReader",
    "Warned",
    "Withdrawn",
    "again",
    "hello",
    "report",
    "state",
]
