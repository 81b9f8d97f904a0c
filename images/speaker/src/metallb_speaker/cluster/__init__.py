"""The cluster half: watches Services, EndpointSlices, Nodes, the accepted configuration; decides who MAY announce.

Does not belong here: sockets other than the API client and the local stream; electing.
Invariant: nothing is sent before every list has synced; no config never means an empty config.
"""
