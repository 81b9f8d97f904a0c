"""BFD (RFC 5880): codec and session machine, sans-IO.

Does not belong here: sockets.
Invariant: a session's state changes only along RFC 5880 section 6.8.6.
"""
