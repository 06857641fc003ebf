"""Which steps make up the measured window."""

from collections.abc import Container, Iterable

SAMPLE_OFFSET = 6
"""The first sampled step after the warm-up: late enough for the flight recorder to tell of a measured step."""

STEPS_BACK = 5
"""How far behind the host the step lies that the flight recorder is read about, when a step is sampled."""

UNPROFILED = (0, 1, STEPS_BACK)
"""How far behind a sampled step no profiled one may lie: two profilers cannot run at once, and the sample of a step
tells of an ordinary one."""


def role(step: int, warmup: int, sample_every: int, profiled: Container[int] = (), begun: int = 1) -> str:
    """first, profiled, warmup, sampled or measured: only measured steps make up the window.

    An attempt that begins at the step `begun` compiles and warms up there as it would at step 1.
    """
    since = step - begun + 1
    if since == 1:
        return "first"
    if step in profiled:
        return "profiled"
    if since <= warmup:
        return "warmup"
    if regular(since, warmup, sample_every) and not any(step - back in profiled for back in UNPROFILED):
        return "sampled"
    return "measured"


def regular(step: int, warmup: int, sample_every: int) -> bool:
    """Whether it is a step's turn to be sampled."""
    return step > warmup and (step - warmup) % sample_every == SAMPLE_OFFSET % sample_every


def not_sampled(steps: int, warmup: int, sample_every: int, profiled: Iterable[int]) -> list[int]:
    """The steps whose turn it is to be sampled, and that are not, for a profiled step is too near."""
    near = {step + back for step in profiled for back in UNPROFILED}
    return sorted(step for step in near if step <= steps and regular(step, warmup, sample_every))


def sampled_steps(steps: int, warmup: int, sample_every: int, profiled: Iterable[int] = ()) -> int:
    """How many of `steps` steps have the role sampled."""
    first = SAMPLE_OFFSET % sample_every or sample_every
    turns = max(0, (steps - warmup - first) // sample_every + 1)
    return turns - len(not_sampled(steps, warmup, sample_every, profiled))
