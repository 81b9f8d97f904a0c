"""The one configuration document: its frozen model, its strict parser, its errors, its checker.

Belongs here: everything that reads or judges the document. Does not belong here: who may use an
address (controller) or who announces it (speaker).
Invariant: a `Config` that exists is valid in itself; whoever holds one never checks again.
"""
