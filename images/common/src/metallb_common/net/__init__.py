"""Pure arithmetic on addresses and labels. No IO, no configuration, no Kubernetes types.

Invariant: an interval is (version, first, last) with first <= last, both inside the family.
"""
