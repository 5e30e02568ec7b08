"""The circuit breaker: when a provider is left alone, for how long, and who tries it again."""

from __future__ import annotations

import pytest

from runtime.narrators.breaker import FAILURES, LONG_REST_S, REST_S, Breaker


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.may_call()
        breaker.failed()


def test_a_new_one_lets_every_call_through(breaker: Breaker) -> None:
    assert [breaker.may_call() for _ in range(9)] == [True] * 9
    assert (breaker.state, breaker.rest_s) == ("closed", 0.0)


def test_enough_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    assert breaker.state == "closed"

    fail(breaker, 1)

    assert (breaker.state, breaker.rest_s, breaker.may_call()) == ("open", REST_S, False)


def test_an_answer_between_failures_begins_the_count_again(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    breaker.succeeded()
    fail(breaker, FAILURES - 1)

    assert breaker.state == "closed"


def test_once_it_has_rested_exactly_one_call_is_let_through(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now_s += REST_S

    assert breaker.state == "half_open"
    assert [breaker.may_call() for _ in range(3)] == [True, False, False]


def test_asking_whether_it_is_open_claims_no_probe(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now_s += REST_S

    assert [breaker.is_open, breaker.is_open, breaker.may_call(), breaker.is_open] == [False, False, True, True]


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now_s += REST_S
    assert breaker.may_call()

    breaker.succeeded()

    assert (breaker.state, breaker.may_call(), breaker.may_call()) == ("closed", True, True)


def test_a_probe_that_fails_opens_it_again_for_a_whole_rest(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now_s += REST_S
    fail(breaker, 1)

    assert (breaker.state, breaker.rest_s) == ("open", REST_S)


def test_a_probe_that_was_given_up_leaves_its_place_to_the_next(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now_s += REST_S
    assert breaker.may_call()

    breaker.left()

    assert (breaker.state, breaker.may_call(), breaker.may_call()) == ("half_open", True, False)


def test_what_no_call_can_mend_opens_it_at_once_and_for_longer(breaker: Breaker, clock: Clock) -> None:
    assert breaker.may_call()
    breaker.failed(LONG_REST_S)

    clock.now_s += REST_S
    assert breaker.state == "open"
    clock.now_s += LONG_REST_S - REST_S
    assert breaker.state == "half_open"


def test_no_rest_is_longer_than_the_longest(breaker: Breaker) -> None:
    breaker.failed(86_400.0)

    assert breaker.rest_s == LONG_REST_S


def test_a_late_failure_shortens_no_rest(breaker: Breaker) -> None:
    """Calls that were under way when it opened fail after it; the longer rest stands."""
    breaker.failed(LONG_REST_S)
    for _ in range(FAILURES):
        breaker.failed()

    assert breaker.rest_s == LONG_REST_S
