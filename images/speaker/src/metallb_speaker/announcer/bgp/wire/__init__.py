"""BGP-4 on the wire: framing, messages, capabilities, path attributes. Pure functions and frozen values.

Belongs here: bytes to values and back, each with its RFC section. Does not belong here: state, time.
Invariant: for any bytes a decoder returns a value or raises `NotificationError` with the code that
RFC 4271 section 6 asks for; nothing else.
"""
