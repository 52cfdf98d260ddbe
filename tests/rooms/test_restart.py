from random import Random

import pytest

from scalesocket.rooms.restart import RestartPolicy


def test_each_delay_is_twice_the_one_before_less_up_to_half_by_chance() -> None:
    policy = RestartPolicy(Random(1))

    delays = [policy.decide(float(now)) for now in range(5)]

    for delay, longest in zip(delays, [0.1, 0.2, 0.4, 0.8, 1.6], strict=True):
        assert delay is not None
        assert longest / 2 <= delay <= longest


def test_rooms_that_failed_together_do_not_restart_together() -> None:
    assert len({RestartPolicy().decide(0.0) for _ in range(20)}) > 10


def test_it_gives_up_after_five_restarts_in_sixty_seconds() -> None:
    policy = RestartPolicy()

    decisions = [policy.decide(now) for now in (0.0, 10.0, 20.0, 30.0, 40.0, 59.9)]

    assert None not in decisions[:5]
    assert decisions[5] is None


def test_restarts_are_forgotten_after_a_minute() -> None:
    policy = RestartPolicy(Random(1))
    for now in (0.0, 10.0, 20.0, 30.0, 40.0):
        policy.decide(now)

    assert policy.decide(60.0) == pytest.approx(1.2, abs=0.4)  # the fifth within the last minute
    assert policy.decide(60.1) is None
    assert policy.decide(200.0) == pytest.approx(0.075, abs=0.025)  # the first again


def test_a_backend_that_lives_for_more_than_a_minute_each_time_is_restarted_for_ever() -> None:
    policy = RestartPolicy()

    assert all(policy.decide(at * 61.0) is not None for at in range(100))
