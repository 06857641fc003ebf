"""What hosts have to have in common, and which of them is slow."""

import dataclasses
from pathlib import Path

import pytest

from harness.study.preflight import differences, fastest, nearest_folder, slow
from launch.allocation import Host
from launch.devices import Gpu, Machine
from launch.probe import Answers, Seen

HOSTS = [Host(f"n{number}", f"10.0.0.{number}") for number in range(3)]
H100, A100 = Gpu("H100", 80), Gpu("A100", 40)


def having(*gpus: Gpu, driver: str | None = "570.1") -> Machine:
    return Machine(gpus, driver, 8, 64)


ALIKE = Answers(100.0, 100.5, tuple(Seen(number, 100.2, having(H100, H100), True) for number in range(3)))


def but(number: int, **changes: object) -> Answers:
    """The answers with one host's changed."""
    seen = list(ALIKE.seen)
    seen[number] = dataclasses.replace(seen[number], **changes)
    return dataclasses.replace(ALIKE, seen=tuple(seen))


def test_hosts_that_are_alike_pass() -> None:
    differences(HOSTS, ALIKE, Path("/data"))


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (but(1, sees=False), "n1: does not see /data"),
        (but(2, time=112.0), "n2: its clock is +11.5 s off"),
        (but(2, time=90.0), "n2: its clock is -10.0 s off"),
        (but(2, machine=having(H100)), "n2: has 1 × H100 (driver 570.1), n0 has 2 × H100 (driver 570.1)"),
        (but(1, machine=having(H100, A100)), "n1: has 1 × H100 and 1 × A100"),
        (but(1, machine=having(H100, H100, driver="550.0")), "n1: has 2 × H100 (driver 550.0)"),
        (but(1, machine=having(driver=None)), "n1: has no GPU, n0 has 2 × H100"),
        (dataclasses.replace(ALIKE, seen=(ALIKE.seen[0], ALIKE.seen[2])), "n1: gave no answer"),
    ],
)
def test_the_first_host_that_is_not_like_the_others_is_named(answers: Answers, told: str) -> None:
    with pytest.raises(ValueError) as raised:
        differences(HOSTS, answers, Path("/data"))
    assert str(raised.value).startswith(told)


def met(*speeds: tuple[str, str, float]) -> list[dict[str, object]]:
    return [{"hosts": [one, other], "bytes_per_s": speed} for one, other, speed in speeds]


def test_a_host_that_is_slow_with_all_is_named_and_its_partners_are_not() -> None:
    bandwidth = fastest(met(("a", "b", 10.0), ("c", "d", 100.0), ("a", "c", 10.0), ("b", "d", 90.0)))
    assert bandwidth == {"a": 10.0, "b": 90.0, "c": 100.0, "d": 100.0}
    assert slow(bandwidth) == ["a"]


def test_hosts_that_differ_a_little_are_not_named() -> None:
    assert slow({"a": 60.0, "b": 100.0, "c": 110.0}) == []


def test_of_two_hosts_nobody_can_say_which_one_is_slow() -> None:
    assert slow({"a": 10.0, "b": 100.0}) == []


def test_the_nearest_folder_is_the_one_that_a_study_will_be_made_in(tmp_path: Path) -> None:
    assert nearest_folder(tmp_path / "studies" / "one") == tmp_path
