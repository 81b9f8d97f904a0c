"""Who is alive: SWIM with suspicion, as a sans-IO machine, and its authenticated wire format.

Does not belong here: sockets, election.
Invariant: no datagram changes anything unless it is authentic and not a replay.
"""
