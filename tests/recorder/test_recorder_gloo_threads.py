"""Which span of gloo's threads is which operation, on timelines constructed with a known answer."""

from harness.recorder.gloo_threads import Issued, Span, joined, learn

SMALL, LARGE = ("gloo:all_reduce", 1000), ("gloo:all_reduce", 5000)


def asked(*operations: tuple[str, tuple[str, int], int]) -> list[Issued]:
    return [Issued(group, kind, at) for group, kind, at in operations]


def ran(*spans: tuple[int, tuple[str, int], int]) -> list[Span]:
    return [Span(thread, kind, start, start + 5) for thread, kind, start in spans]


def starts(issued: list[Issued], spans: list[Span], known: dict[int, str] | None = None) -> list[int | None]:
    known = {} if known is None else known
    learn(known, issued, spans)
    return [None if span is None else span.start for span in joined(known, issued, spans)]


def test_one_group_takes_its_operations_in_order_whichever_thread_runs_them():
    issued = asked(("dp", SMALL, 0), ("dp", LARGE, 1), ("dp", SMALL, 2))
    assert starts(issued, ran((7, SMALL, 10), (8, LARGE, 11), (7, SMALL, 20))) == [10, 11, 20]


def test_operations_of_equal_size_are_told_apart_by_what_their_threads_ran_elsewhere():
    """As recorded once on four ranks: the first three all-reduces start in no order of their groups."""
    issued = asked(
        ("tp", SMALL, 100),
        ("dp", SMALL, 110),
        ("dp", LARGE, 120),
        ("tp", LARGE, 130),
        ("world", SMALL, 140),
        ("tp", SMALL, 2000),
        ("dp", SMALL, 2100),
        ("world", SMALL, 2200),
    )
    spans = ran(
        (2, SMALL, 500),
        (3, SMALL, 510),
        (4, SMALL, 520),
        (4, LARGE, 600),
        (3, LARGE, 610),
        (4, SMALL, 2050),
        (3, SMALL, 2150),
        (2, SMALL, 2250),
    )
    assert starts(issued, spans) == [520, 510, 610, 600, 500, 2050, 2150, 2250]


def test_what_cannot_be_told_apart_has_no_span():
    issued = asked(("tp", SMALL, 0), ("dp", SMALL, 1), ("dp", LARGE, 2))
    assert starts(issued, ran((2, SMALL, 10), (3, SMALL, 11), (4, LARGE, 12))) == [None, None, 12]


def test_a_thread_once_known_stays_known():
    known: dict[int, str] = {}
    starts(asked(("tp", LARGE, 0), ("dp", LARGE, 10)), ran((2, LARGE, 5), (3, LARGE, 15)), known)
    assert starts(asked(("tp", SMALL, 0), ("dp", SMALL, 1)), ran((3, SMALL, 10), (2, SMALL, 11)), known) == [11, 10]


def test_an_operation_that_never_ran_leaves_its_likes_untimed():
    issued = asked(("dp", SMALL, 0), ("dp", SMALL, 1), ("dp", LARGE, 2))
    assert starts(issued, ran((2, SMALL, 10), (3, LARGE, 12))) == [None, None, 12]
