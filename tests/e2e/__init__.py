"""End to end: a real Kubernetes, our images, a client outside the cluster.

What belongs here: what a user can see. Tests that use the fixture `kube` run against any cluster that KUBECONFIG
names; those that use `cluster` need hosts and cables of ours, so they run in the embedded cluster only.
"""
