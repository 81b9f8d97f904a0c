"""The controller: assigns addresses from configured pools to Services of type LoadBalancer.

Belongs here: allocation (pure), planning (pure), applying (edge). Does not belong here: announcing.
Invariant: no address has two owners without a valid sharing reason, whatever crashes.
"""

__version__ = "1.0.0"
