from hypothesis import given
from hypothesis import strategies as st

from harness.plan.window import STEPS_BACK, not_sampled, role, sampled_steps


@given(
    steps=st.integers(1, 200),
    warmup=st.integers(2, 40),
    every=st.integers(6, 50),
    first=st.integers(2, 60),
    profiled=st.integers(0, 20),
)
def test_the_count_of_sampled_steps_is_that_of_their_roles(
    steps: int, warmup: int, every: int, first: int, profiled: int
) -> None:
    looked_at = range(first, min(first + profiled, steps + 1))
    roles = {step: role(step, warmup, every, looked_at) for step in range(1, steps + 1)}
    told = list(roles.values())
    assert sampled_steps(steps, warmup, every, looked_at) == told.count("sampled")
    assert [step for step, name in roles.items() if name == "profiled"] == list(looked_at)
    # what a profiler displaces is told
    without = {step: role(step, warmup, every) for step in roles}
    gone = [step for step in roles if without[step] == "sampled" != roles[step]]
    assert gone == not_sampled(steps, warmup, every, looked_at)


@given(warmup=st.integers(2, 10), every=st.integers(6, 30), first=st.integers(2, 40), profiled=st.integers(1, 9))
def test_no_sample_runs_beside_a_profiler_or_tells_of_a_profiled_step(
    warmup: int, every: int, first: int, profiled: int
) -> None:
    looked_at = range(first, first + profiled)
    for step in range(1, 80):
        if role(step, warmup, every, looked_at) == "sampled":
            assert step not in looked_at
            # the profiler stops after this one, the sampler would have started before that
            assert step - 1 not in looked_at
            assert step - STEPS_BACK not in looked_at


def test_roles_follow_each_other() -> None:
    roles = [role(step, warmup=3, sample_every=10) for step in range(1, 21)]
    assert roles == ["first"] + ["warmup"] * 2 + ["measured"] * 5 + ["sampled"] + ["measured"] * 9 + ["sampled"] + [
        "measured"
    ]


def test_an_attempt_that_begins_later_compiles_and_warms_up_there() -> None:
    from_start = [role(step, 3, 10) for step in range(1, 21)]
    assert [role(step, 3, 10, begun=41) for step in range(41, 61)] == from_start
