"""Which steps make up the measured window."""

SAMPLE_OFFSET = 6
"""The first sampled step after the warm-up: late enough for the flight recorder to tell of a measured step."""


def role(step: int, warmup: int, sample_every: int) -> str:
    """first, warmup, sampled or measured: only measured steps make up the window."""
    if step == 1:
        return "first"
    if step <= warmup:
        return "warmup"
    return "sampled" if (step - warmup) % sample_every == SAMPLE_OFFSET % sample_every else "measured"


def sampled_steps(steps: int, warmup: int, sample_every: int) -> int:
    """How many of `steps` steps have the role sampled."""
    first = SAMPLE_OFFSET % sample_every or sample_every
    return max(0, (steps - warmup - first) // sample_every + 1)
