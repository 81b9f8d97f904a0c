"""ARP and NDP: codecs, responder, gratuitous schedule, interface choice, kernel filters; all sans-IO.

Does not belong here: sockets, netlink, election.
Invariant: an answer leaves only for an address that this node owns now.
"""
