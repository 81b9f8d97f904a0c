"""The embedded cluster: a real Kubernetes on one machine, every host a network namespace.

Belongs here: fetching its programs, starting and stopping them, and the handles that the demo,
the end-to-end tests and the benches use. Does not belong here: anything of the product.
Invariant: whatever a run starts is recorded on disk before it starts, so that any later run,
also after a kill, can end exactly that and nothing else.
"""
