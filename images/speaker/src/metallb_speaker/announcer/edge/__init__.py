"""The only files of the announcer that open sockets: each small, behind a Protocol, with a fake beside it.

Does not belong here: any decision.
Invariant: an edge never blocks, and reads a bounded number of packets per turn.
"""
