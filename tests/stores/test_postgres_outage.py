"""What is said of an outage of PostgreSQL: how often, how loud, and when it counts as over."""

import logging

import pytest

from service.errors import StoreUnavailable
from service.stores.postgres_lost import Busy
from service.stores.postgres_outage import CALM_S, EVERY_S, Outage


class Clockwork:
    """An outage as it is watched, second by second."""

    def __init__(self) -> None:
        self.at = 0.0
        self.outage = Outage(lambda: self.at)
        self.outage.watch()

    def fails(self, after: float, error: StoreUnavailable | None = None) -> StoreUnavailable:
        self.at += after
        given = error or StoreUnavailable("the database cannot be used now: gone")
        with pytest.raises(StoreUnavailable), self.outage:
            raise given
        return given

    def works(self, after: float) -> None:
        self.at += after
        with self.outage:
            pass


def test_it_is_said_at_once_then_every_30_s_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    watched = Clockwork()
    watched.works(1)
    assert not caplog.messages
    loud = [watched.fails(0.25).level for _ in range(int(2 * EVERY_S / 0.25) + 1)]
    assert set(loud) == {logging.DEBUG}, "who catches it has nothing to add"
    assert len(caplog.messages) == 3 and watched.outage.lasts
    assert "gone" in caplog.messages[0] and "for 30 s" in caplog.messages[1] and "for 60 s" in caplog.messages[2]
    watched.works(1)
    watched.works(CALM_S)
    watched.works(1)
    assert caplog.messages[3:] == ["the database can be used again, after 61.0 s"] and not watched.outage.lasts
    assert {record.levelno for record in caplog.records} == {logging.WARNING}, "who hides one must not see the other"
    watched.fails(1)
    assert "gone" in caplog.messages[4], "the next one is said at once"


def test_a_database_that_cannot_be_opened_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    outage, error = Outage(lambda: 0.0), StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable), outage:
        raise error
    assert not caplog.messages and error.level == logging.WARNING


def test_what_works_between_failures_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """A server that takes no writes still answers reads."""
    watched = Clockwork()
    for _ in range(20):
        watched.fails(0.5)
        watched.works(0.5)
    assert len(caplog.messages) == 1


def test_a_lock_that_was_not_to_be_had_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    watched = Clockwork()
    assert watched.fails(1, Busy("somebody's lock")).level == logging.WARNING
    with pytest.raises(ZeroDivisionError), watched.outage:
        raise ZeroDivisionError
    assert not caplog.messages and not watched.outage.lasts
