"""A real Kubernetes cluster on one machine, in network namespaces; no container engine, no virtual machine.

What belongs here: starting, stopping, breaking and observing the cluster. What does not: anything about the
product (charts, images of ours, tests). Invariant: nothing of the machine outside the instance's own state
folder, network namespaces (``mlb-NAME-*``) and control groups (``mlb-NAME``) is touched, and ``down`` removes
all three, whatever happened before. (One exception, put back after the last cluster: see `machine`.)

From a shell (root)::

    python -m tests.cluster up [--name NAME] [--nodes N] [--ip-family dual|ipv4|ipv6]
    python -m tests.cluster kubectl get nodes        # also: helm, load IMAGE.tar, in HOST CMD..., status, down
    eval "$(python -m tests.cluster env)"            # KUBECONFIG and PATH for your own shell

From Python (see `api.Cluster`)::

    from tests.cluster import Cluster
    cluster = Cluster("e2e", nodes=3)                # or Cluster.attach("e2e"), a running one
    cluster.up()
    cluster.load("dist/controller.tar")
    cluster.kubectl("apply", "-f", "-", input=text)
    cluster.run_in("client", "curl", "-s", "http://172.18.0.200/").stdout
    cluster.down()

Addresses inside every instance are the same, because each has a switch of its own: hosts 172.18.0.0/16 and
fd00:172:18::/64 (cp ``.2``, client ``.5``, registry ``.6``, node1 ``.11``, node2 ``.12``...; the same number ends the
IPv6 address, ``fd00:172:18::11``), pods 10.244.N.0/24 and fd00:10:244:N::/64, Services 10.96.0.0/16 and
fd00:10:96::/112. Any image name that is not loaded is asked of the registry host, ``http://172.18.0.6:5000``.
"""

from tests.cluster.api import Cluster
from tests.cluster.instance import ClusterError

__all__ = ["Cluster", "ClusterError"]
