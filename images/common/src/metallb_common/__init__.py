"""What controller and speaker share.

Belongs here: the configuration (model, parser, checker), pure address arithmetic, the Kubernetes
edge, metrics, logs, process life cycle. Does not belong here: any decision of only one image.
Invariant: imports neither image's code.
"""

__version__ = "1.0.0"
