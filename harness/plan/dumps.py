"""Which ranks' dumps are brought together after a hang, and how a collective's exception is known from others."""

import re

COLLECTED = 64
"""Ranks, from the first on, whose dumps are collected in any case; of the others only those that wait for nobody."""

COMMUNICATION = re.compile(
    r"Dist(Backend|Network|Store)Error|\bnccl(?!_)|gloo/|Connection (closed|reset) by peer|Watchdog caught collective",
    re.IGNORECASE,
)
"""What an exception's type and text, or a process's last words, say of a collective."""
