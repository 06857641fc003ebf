from hypothesis import given
from hypothesis import strategies as st

from harness.plan.window import role, sampled_steps


@given(steps=st.integers(1, 200), warmup=st.integers(2, 40), every=st.integers(6, 50))
def test_the_count_of_sampled_steps_is_that_of_their_roles(steps: int, warmup: int, every: int) -> None:
    roles = [role(step, warmup, every) for step in range(1, steps + 1)]
    assert sampled_steps(steps, warmup, every) == roles.count("sampled")


def test_roles_follow_each_other() -> None:
    roles = [role(step, warmup=3, sample_every=10) for step in range(1, 21)]
    assert roles == ["first"] + ["warmup"] * 2 + ["measured"] * 5 + ["sampled"] + ["measured"] * 9 + ["sampled"] + [
        "measured"
    ]
