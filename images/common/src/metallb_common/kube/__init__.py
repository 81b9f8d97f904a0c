"""The Kubernetes edge: frozen views of the objects used, and the list/watch/write adapter.

Belongs here: wire JSON to views, requests, retries. Does not belong here: any decision.
Invariant: a view holds only fields that some decision reads; nothing else is kept in memory.
"""
