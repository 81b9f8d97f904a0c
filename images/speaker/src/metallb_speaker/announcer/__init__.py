"""The announcer: elects who DOES announce, and does it. All sockets and timers of the speaker.

Does not belong here: the Kubernetes API. Machines are sans-IO with `now` passed in; sockets live under edge/.
Invariant: fail static: without the cluster half, what is announced stays announced.
"""
