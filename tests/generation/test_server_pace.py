"""When requests are sent: the rate limit, the server's pauses and the doubling waits, on a clock of the test's own."""

import datetime

import pytest

from trl_pper.generation.servers.endpoint import Pace, retry_after_seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), ("", None), ("nan", None), ("inf", None),
        ("Wed, 21 Oct 2026 07:28:10 GMT", 10.0), ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:10 -0000", 10.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header, seconds):
    now = datetime.datetime(2026, 10, 21, 7, 28, tzinfo=datetime.UTC)
    assert retry_after_seconds(header, now=now) == seconds


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def run(coroutine):
    """Run a coroutine that waits for nothing but the clock of the test."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_requests_keep_their_distance_and_a_pause_holds_all():
    clock = Clock()
    pace = Pace(requests_per_minute=120, clock=clock, sleep=clock.sleep)
    sent = []
    for pause in (0, 0, 3.0, 0):
        pace.hold(pause)
        run(pace.turn())
        sent.append(clock.now - 100.0)
    assert sent == [0.0, 0.5, 3.5, 4.0]
    clock.now += 60.0
    run(pace.turn())
    assert clock.now == 164.0  # a quiet minute saves up nothing, and costs nothing


def test_without_a_limit_nobody_waits():
    clock = Clock()
    pace = Pace(clock=clock, sleep=clock.sleep)
    for _ in range(3):
        run(pace.turn())
    assert clock.slept == []


def test_waits_double_to_a_minute_with_a_seeded_jitter():
    def waits(seed, name="task"):
        clock = Clock()
        pace = Pace(backoff_seconds=2.0, seed=seed, clock=clock, sleep=clock.sleep)
        for retry in range(8):
            run(pace.back_off(name, retry))
        return clock.slept

    longest = [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert all(wait / 2 <= slept <= wait for slept, wait in zip(waits(0), longest, strict=True))
    assert waits(0) == waits(0)
    assert waits(0) != waits(1)
    assert waits(0, "other") != waits(0)
