"""Which groups of addresses this node owns: election, take-over, ordered hand-over; sans-IO.

Does not belong here: who is alive (`membership`), frames (`layer2`), sockets.
Invariant: a group changes its state only along the table in `states`; a live owner falls silent only
after its successor has begun to answer, or has had its time to.
"""

from metallb_speaker.announcer.ownership.machine import Ownership

__all__ = ["Ownership"]
