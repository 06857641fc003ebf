"""How a collective's exception is known from others."""

import re

COMMUNICATION = re.compile(
    r"Dist(Backend|Network|Store)Error|\bnccl(?!_)|gloo/|Connection (closed|reset) by peer|Watchdog caught collective",
    re.IGNORECASE,
)
"""What its type and text say, or a process's last words."""
