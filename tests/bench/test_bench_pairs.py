"""The recorder's cost out of constructed launches: what is known to be there is found, however noisy the machine."""

import random

import pytest

from harness.bench import recorder
from harness.bench.judge import judge
from harness.bench.pairs import pace, share
from harness.plan.window import role
from harness.recorder.recorder import FLUSH_STEPS

WARMUP, EVERY, STEPS = 5, 20, 205


def launch(
    step_s: float = 0.1,
    flush_s: float = 0.0,
    window_s: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
    every: int = EVERY,
):
    """Seconds of each step: the recorder's work lies after every fifth step and around sampled ones."""
    chance, seconds = random.Random(seed), []
    for step in range(1, STEPS + 1):
        value = step_s * (1 + chance.gauss(0, noise))
        value += flush_s if (step - 1) % FLUSH_STEPS == 0 else 0
        for near in (step, step - 1):
            value += window_s / 2 if role(near, WARMUP, every) == "sampled" else 0
        seconds.append(value)
    return seconds


def paced(**how):
    return pace(launch(**how), WARMUP, EVERY, FLUSH_STEPS)


def test_what_the_recorder_does_between_steps_counts_as_often_as_it_does_it():
    assert paced(flush_s=0.01).outside == pytest.approx(0.1 + 0.01 / FLUSH_STEPS)


@pytest.mark.parametrize("every", [EVERY, 2 * FLUSH_STEPS + 1])
def test_windows_count_only_where_they_should(every):
    told = pace(launch(window_s=0.1, every=every), WARMUP, every, FLUSH_STEPS)
    assert told.outside == pytest.approx(0.1)
    assert told.whole == pytest.approx(0.1 + 0.1 / every)


def test_a_machine_that_is_busy_for_a_while_changes_nothing():
    seconds = launch()
    seconds[60:80] = [1.0] * 20
    told = pace(seconds, WARMUP, EVERY, FLUSH_STEPS)
    assert (told.outside, told.whole) == (pytest.approx(0.1), pytest.approx(0.1))
    assert told.mean > 0.15


@pytest.mark.parametrize("steps", [WARMUP + EVERY, STEPS])
def test_the_start_counts_nowhere(steps):
    seconds = launch()[:steps]
    seconds[:WARMUP] = [10.0] * WARMUP
    told = pace(seconds, WARMUP, EVERY, FLUSH_STEPS)
    assert (told.outside, told.whole, told.mean) == (pytest.approx(0.1),) * 3


def pairs_of(slower: float, noise: float, drift: float = 0.0):
    """Five pairs of launches on a machine that becomes slower by `drift` from one launch to the next."""
    found = []
    for number in range(5):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        times = [0.1 * (1 + drift * (2 * number + place)) for place in order]
        off = paced(step_s=times[0], noise=noise, seed=2 * number)
        on = paced(step_s=times[1] * (1 + slower), noise=noise, seed=2 * number + 1)
        found.append((off.outside, on.outside))
    return found


@pytest.mark.parametrize("drift", [0.0, 0.002])
def test_two_percent_are_found(drift):
    told = share(pairs_of(0.02, 0.005, drift))
    assert told.lo < 0.02 < told.hi
    assert told.hi - told.lo < 0.01


def test_nothing_is_found_where_nothing_is():
    told = share(pairs_of(0.0, 0.005))
    assert told.lo < 0 < told.hi


@pytest.mark.parametrize(("slower", "noise", "code"), [(0.005, 0.001, 0), (0.02, 0.001, 1), (0.015, 0.01, 3)])
def test_the_verdict(slower, noise, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = share(pairs_of(slower, noise))
    (bounded, _) = recorder.checks(outside, outside, gpus=False)
    assert judge("recorder", [bounded]) == code


def test_gpus_have_the_narrower_bound():
    told = share(pairs_of(0.01, 0.001))
    assert [check.ok for check in recorder.checks(told, told, gpus=True)] == [False]
    assert [check.ok for check in recorder.checks(told, told, gpus=False)] == [True, True]


def test_words_take_the_place_of_what_is_usual():
    pairs, words = recorder.asked(["pairs=7", "model=125m", "steps=505"], 0)
    assert pairs == 7
    assert [word for word in words if word.startswith(("model=", "steps="))] == ["model=125m", "steps=505"]
    assert "gpus_per_node=2" in words
    _, words = recorder.asked([], 4)
    assert {"model=1b", "parallel=fsdp", "compile=true", "gpus_per_node=4"} <= set(words)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("pairs=4", "pairs=4: must be at least 5"),
        ("pairs=many", "pairs=many: must be at least 5"),
        ("steps=20", "steps=20: must be at least 65, for 3 sampled windows"),
        ("record.sample_every=10", "record.sample_every=10: must be above 10"),
        ("launcher=dry", "say launcher=local"),
        ("modell=tiny", "did you mean 'model'"),
        ("model=tiny,125m", "several values"),
        ("gpus_per_node=65", "at most 64 CPU processes"),
    ],
)
def test_a_mistake_is_a_sentence_and_nothing_starts(word, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert recorder.main([word]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
