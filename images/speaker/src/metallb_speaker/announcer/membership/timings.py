"""Every time and bound of membership in one place. Seconds, unless said otherwise.

What they add up to: a dead neighbour is given up `worry + confirm` = 0.65 s after its last beat. A live one
that loses a datagram in ten is worried about now and then (two beats in a row: 1 %), and given up wrongly only
if seven pings to it, the beats of those 0.33 s and six pings by way of others all fail: less than once in
a thousand years for a pair (`docs/membership.md` has the arithmetic, `tests/bench membership` the runs).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """The defaults are for a LAN and for processes that a CPU limit stalls for 90 ms at a time."""

    # The closer watch among neighbours on the ring.
    neighbours: int = 4  # how many a member beats to and watches; the load of the watch, whatever the size
    beat: float = 0.125  # between two beats to one neighbour
    worry: float = 0.32  # silence after which a neighbour is pinged: two beats lost, and some delay
    confirm: float = 0.33  # from then until it is given up, if nothing comes, directly or by others
    ping_every: float = 0.05  # between pings to a neighbour that is worried about
    ask_every: float = 0.11  # between asking others to ping it
    doubt: float = 0.12  # after this part of `confirm` it is called suspect, to everybody
    deaf_extra: float = 1.0  # more patience while nobody at all is heard: it is we who are cut off

    # SWIM among all (Das, Gupta, Motivala 2002, section 3).
    period: float = 0.5  # one member is probed in each
    timeout: float = 0.15  # for the direct ping, before others are asked
    helpers: int = 3  # how many are asked (k), each time
    suspicion_factor: float = 3.0  # suspicion lasts at least factor * max(1, log10 n) * period
    suspicion_spread: float = 4.0  # and at most this many times as long, less with each confirmation (Lifeguard)
    confirmations: int = 3  # independent accusers after which the least suspicion time holds

    # Gossip.
    retransmit: int = 3  # a record is passed on this many times log2(n + 1)
    piggyback: int = 8  # records on one datagram of another purpose, at most
    sync: int = 3  # records sent with each probe in turn, new or not: repairs what gossip missed
    fanout: int = 3  # members that news is sent to at once, besides the neighbours
    news_every: float = 0.02  # between two such bursts

    # Joining, returning, keeping contact.
    lone_wait: float = 1.0  # a newcomer claims nothing before its seeds have answered, or this is over
    settle: float = 10.0  # a returner is given its addresses back after this
    contact: float = 0.25  # one member that is silent is called in each: heals partitions
    hello_burst: int = 10  # hellos sent at once when many seeds are new,
    hello_every: float = 0.02  # and the pause after these
    hello_again: float = 0.2  # to one member, at the earliest
    degraded_after: float = 5.0  # silence of a member that the cluster calls alive, until it is said

    # Self-awareness.
    lag: float = 0.1  # a loop that wakes this late is busy: Lifeguard's local health worsens
    stopped: float = 0.5  # this late: the process was stopped, and others have replaced it
    fresh_wait: float = 0.3  # after that, until those who have answered are enough
    cut_memory: float = 10.0  # how long after being cut off a word of one's own failure is believed
    mutual: float = 1.0  # two who tell each other that they gave each other up do so within this

    # Bounds on what authentic senders can make this process keep.
    members: int = 1024
    forget: float = 60.0  # a failed or departed member that the cluster does not list


DEFAULT = Timings()
