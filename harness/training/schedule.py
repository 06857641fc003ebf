"""The learning rate of each step."""

import math
from collections.abc import Callable


def cosine(steps: int, peak: float, warmup: int, final: float) -> Callable[[int], float]:
    """Linear warm-up over `warmup` steps, then half a cosine to `final` × peak at the last of `steps` (from 1)."""

    def rate(step: int) -> float:
        if step <= warmup:
            return peak * step / warmup
        progress = (step - warmup) / max(steps - warmup, 1)
        return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))

    return rate
