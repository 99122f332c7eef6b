"""Every bug is caught by its own invariant; healthy code passes them all.

That none is caught by a usual check, which trains a model each time, chapter 19 asserts."""

from pkgutil import resolve_name

import pytest

from lm336.bug_zoo import BUGS, USUAL, Bug, caught

CHECKS = [*USUAL, *(bug.invariant for bug in BUGS)]
by_name = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_healthy_code_passes(check):
    check()


@by_name
def test_caught_by_its_invariant(bug):
    with bug.inside(), pytest.raises(AssertionError):
        bug.invariant()


@by_name
def test_the_bug_goes_away_even_after_an_error(bug):
    healthy = resolve_name(bug.where)
    with pytest.raises(ZeroDivisionError), bug.inside():
        assert resolve_name(bug.where) is not healthy
        raise ZeroDivisionError
    assert resolve_name(bug.where) is healthy


def test_learning_a_batch_by_heart_needs_attention():
    "The strictest of the usual checks can fail: it is no fault of its own that it finds none."
    sdpa = "lm336.attention.scaled_dot_product_attention"
    silent = Bug("silent", sdpa, lambda healthy: lambda q, k, v, *_, **__: 0 * v, USUAL[0], "")
    with silent.inside():
        failed = [check.__name__ for check in USUAL if caught(check)]
    assert failed == ["one_batch_is_learned"]


def test_at_least_twelve_and_each_with_an_invariant_of_its_own():
    assert len(BUGS) >= 12
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert len({bug.invariant for bug in BUGS}) == len(BUGS)
