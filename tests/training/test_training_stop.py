"""A rank that is told to end goes on to where all can, unless it is stuck."""

import ctypes
import multiprocessing
import os
import signal
import time

import pytest

from harness.training.stop import Stop


def trains(told, _) -> None:
    stop = Stop(patience_s=0.5)
    told.send(None)
    for _ in range(20):
        stop.step_begins()
        time.sleep(0.1)
        stop.step_ended()
    told.send(stop.signal)


def is_stuck(told, steps: int) -> None:
    stop = Stop(patience_s=0.5)
    for _ in range(steps):
        stop.step_begins()
        time.sleep(0.4)
        stop.step_ended()
    stop.step_begins()
    told.send(None)
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):  # a lock that is never let go, waited for where Python hears nothing
        ctypes.CDLL(None).pthread_mutex_lock(lock)


def started(work, argument):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, argument), daemon=True)
    process.start()
    here.recv()
    return process, here


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_rank_that_trains_notes_it_and_goes_on(number) -> None:
    process, here = started(trains, 0)
    time.sleep(0.3)
    os.kill(process.pid, number)
    assert here.recv() == number
    process.join(5)
    assert process.exitcode == 0


@pytest.mark.parametrize(("steps", "least", "most"), [(0, 0.4, 1.5), (2, 1.5, 3.5)])
def test_a_rank_that_waits_for_ever_ends_as_by_the_signal(steps: int, least: float, most: float) -> None:
    process, _ = started(is_stuck, steps)
    time.sleep(0.1)
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == -signal.SIGTERM
    assert least < time.monotonic() - begun < most


def waits(told, _) -> None:
    stop = Stop()
    told.send(None)
    begun = time.monotonic()
    stop.wait(10)
    told.send(time.monotonic() - begun)


def test_a_wait_is_over_when_a_rank_is_told_to_end() -> None:
    process, here = started(waits, 0)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    assert here.recv() < 5
    process.join(5)
