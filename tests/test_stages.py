"""Stages: what listeners are told, and how long each took."""

from __future__ import annotations

import time

import pytest

from isochroma.stages import Event, advance, listening, record, stage


class TestRecord:
    def test_order_in_which_stages_ended(self) -> None:
        with record() as seconds:
            with stage("outer"), stage("inner"):
                pass
            with stage("last"):
                pass
        assert list(seconds) == ["inner", "outer", "last"]

    def test_durations(self) -> None:
        with record() as seconds:
            with stage("long"), stage("short"):
                time.sleep(0.02)
            with stage("nothing"):
                pass
        assert seconds["long"] >= seconds["short"] >= 0.02
        assert seconds["nothing"] < 0.02

    def test_repeated_stages_are_summed(self) -> None:
        with record() as seconds:
            for _ in range(3):
                with stage("refine"):
                    time.sleep(0.01)
        assert list(seconds) == ["refine"]
        assert seconds["refine"] >= 0.03

    def test_stages_outside_do_not_count(self) -> None:
        with stage("before"), record() as seconds:
            pass
        with stage("after"):
            pass
        assert seconds == {}

    def test_both_of_two_records(self) -> None:
        with record() as outer:
            with stage("one"):
                pass
            with record() as inner, stage("two"):
                pass
        assert list(outer) == ["one", "two"]
        assert list(inner) == ["two"]

    def test_a_stage_that_fails_is_not_recorded(self) -> None:
        with record() as seconds, stage("outer"):
            with pytest.raises(ZeroDivisionError), stage("inner"):
                _ = 1 / 0
            advance(1, 2)
        assert list(seconds) == ["outer"]


class TestListening:
    def test_events(self) -> None:
        told: list[Event] = []
        with listening(told.append):
            with stage("network"):
                advance(1, 2)
            advance(3, 4)
        *others, end = told[:3]
        assert others == [Event("network", 0, 1), Event("network", 1, 2)]
        assert (end.stage, end.done, end.total) == ("network", 1, 1)
        assert end.seconds is not None
        assert told[3:] == [Event("", 3, 4)]

    def test_progress_belongs_to_the_innermost_stage(self) -> None:
        told: list[Event] = []
        with stage("outer"):
            with stage("inner"), listening(told.append):
                advance(1, 3)
            with listening(told.append):
                advance(2, 3)
        assert told == [Event("inner", 1, 3), Event("outer", 2, 3)]

    def test_a_failed_stage_is_left(self) -> None:
        told: list[Event] = []
        with listening(told.append):
            with pytest.raises(KeyError), stage("outer"), stage("inner"):
                raise KeyError
            advance(1, 1)
        assert [event.stage for event in told] == ["outer", "inner", ""]
        assert all(event.seconds is None for event in told)

    def test_nobody_listens(self) -> None:
        with stage("quiet"):
            advance(1, 1)

    def test_a_listener_is_told_only_while_it_listens(self) -> None:
        told: list[Event] = []
        with pytest.raises(KeyError), listening(told.append):
            raise KeyError
        with stage("later"):
            pass
        assert told == []
