"""BGP-4: codecs, the enforced FSM, the session machine, the adj-RIB-out; all sans-IO.

Does not belong here: sockets, who may announce.
Invariant: a decoder returns an object or raises the RFC's notification, for any bytes.
"""
