"""Which ranks' dumps are brought together after a hang."""

COLLECTED = 64
"""Ranks, from the first on, whose dumps are collected in any case; of the others only those that wait for nobody."""
