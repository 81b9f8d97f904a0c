"""The speaker's command line (contract section 4, and what the two processes need beyond it)."""

from __future__ import annotations

from metallb_common.app import COMMON, Flag

FLAGS = (
    *COMMON,
    Flag("node-name", "", "name of the node that this speaker runs on (required)", env="METALLB_NODE_NAME"),
    Flag(
        "ml-bindaddr",
        "",
        "address of the membership port; empty: no membership, the cluster's own view decides",
        env="METALLB_ML_BIND_ADDR",
    ),
    Flag("ml-bindport", 7946, "UDP port of the membership", env="METALLB_ML_BIND_PORT"),
    Flag("ml-labels", "", "labels of the speaker pods: the membership's seeds", env="METALLB_ML_LABELS"),
    Flag("ml-secret-key", "", "key that authenticates the membership", env="METALLB_ML_SECRET_KEY"),
    Flag(
        "ml-secret-name",
        "",
        "Secret with that key: the cluster half hands it over, and the announcer waits for it",
        env="METALLB_ML_SECRET_NAME",
    ),
    Flag(
        "mode",
        "both",
        "what to run: the announcer with the cluster half as its child, or one of the two",
        choices=("both", "announcer", "cluster"),
    ),
    Flag("socket", "/run/metallb/desired.sock", "socket between the two halves", env="METALLB_SOCKET"),
    Flag("state-dir", "/run/metallb", "where what is desired is kept over restarts", env="METALLB_STATE_DIR"),
    Flag("ignore-exclude-lb", True, "announce from nodes labelled exclude-from-external-load-balancers, too"),
)

#: Set for the child process only: the number of the inherited socket to the announcer.
LINK_FD = "METALLB_LINK_FD"
