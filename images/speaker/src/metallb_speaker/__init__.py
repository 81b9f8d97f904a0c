"""The speaker: announces Service addresses from one node. Two processes, split by privilege and latency.

Belongs here: `desired` (the message family between the halves) and the start of both.
`cluster/` watches Kubernetes and decides who MAY announce; `announcer/` elects who DOES, and does it.
Invariant: `announcer` never imports the Kubernetes client; `cluster` never opens a raw socket.
"""

__version__ = "1.0.0"
