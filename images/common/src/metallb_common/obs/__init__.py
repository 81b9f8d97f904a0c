"""What operators see: metrics, the HTTP endpoint, logs.

Invariant: names in log, metric and event are the same words (contract sections 2, 3 and 4).
"""
