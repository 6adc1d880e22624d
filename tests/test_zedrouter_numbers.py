"""zedrouter: which number an app or a bridge gets, keeps and gives back. No disk, no clock, no process."""

from __future__ import annotations

from typing import Any

import pytest
from zedrouter_cases import LATER, NOW, uuid

from pillar.cmd.zedrouter.numbers import APP_NUM, BRIDGE_NUM, HIGHEST, NoNumber, double, grant, unused
from pillar.types.uuidtonum import UuidToNum


def record(number: int, **fields: Any) -> UuidToNum:
    given: dict[str, Any] = {"UUID": uuid(number), "Number": number, "NumType": APP_NUM, "InUse": True}
    return UuidToNum(**given | {"CreateTime": NOW, "LastUseTime": NOW} | fields)


def numbered(*records: UuidToNum) -> dict[str, UuidToNum]:
    return {one.UUID: one for one in records}


def test_the_first_app_gets_number_one_and_the_next_the_lowest_free_one() -> None:
    assert grant(uuid(1), APP_NUM, {}, {}, NOW).number == 1
    assert grant(uuid(9), APP_NUM, numbered(record(1), record(3)), {}, NOW).number == 2


def test_apps_and_bridges_are_numbered_apart() -> None:
    assert grant(uuid(9), BRIDGE_NUM, numbered(record(1)), {}, NOW).number == 1


def test_an_app_that_comes_back_gets_its_number_back() -> None:
    stored = numbered(record(1), record(7, InUse=False))
    given = grant(uuid(7), APP_NUM, stored, {}, LATER)
    assert (given.number, given.give_up) == (7, None)
    assert given.record == record(7, InUse=True, LastUseTime=LATER)


def test_a_number_in_use_is_written_only_once() -> None:
    assert grant(uuid(1), APP_NUM, numbered(record(1)), {uuid(1): 1}, LATER).record is None


def test_when_all_numbers_are_taken_the_one_unused_for_longest_is_given_on() -> None:
    stored = numbered(*(record(number) for number in range(1, HIGHEST + 1)))
    stored[uuid(40)] = record(40, InUse=False, LastUseTime="2025-06-01T00:00:00Z")
    stored[uuid(50)] = record(50, InUse=False, LastUseTime="2025-05-01T00:00:00Z")
    given = grant(uuid(999), APP_NUM, stored, {}, NOW)
    assert (given.number, given.give_up) == (50, uuid(50))
    # one that a status shows is in use, whatever its record says
    assert grant(uuid(999), APP_NUM, stored, {uuid(50): 50}, NOW).number == 40


def test_an_exhausted_number_range_is_an_error_and_no_exit() -> None:
    stored = numbered(*(record(number) for number in range(1, HIGHEST + 1)))
    with pytest.raises(NoNumber, match="all 255 numbers for apps are in use"):
        grant(uuid(999), APP_NUM, stored, {}, NOW)


def test_a_number_that_only_a_status_shows_is_taken_too_and_stays_with_its_app() -> None:
    held = {uuid(5): 1, uuid(6): 2}
    assert grant(uuid(7), APP_NUM, {}, held, NOW).number == 3
    assert grant(uuid(6), APP_NUM, {}, held, NOW).number == 2


def test_an_app_with_the_uuid_of_an_instance_is_refused() -> None:
    with pytest.raises(NoNumber, match="already has a number as a network instance"):
        grant(uuid(1), APP_NUM, numbered(record(1, NumType=BRIDGE_NUM)), {}, NOW)


def test_of_two_records_with_one_number_the_one_that_a_status_shows_stays() -> None:
    stored = numbered(record(3, CreateTime="2020-01-01T00:00:00Z"), record(4, Number=3))
    assert double(stored, {uuid(4): 3}) == [uuid(3)]
    assert double(stored, {}) == [uuid(4)]


def test_numbers_without_config_and_status_are_marked_unused_once() -> None:
    stored = numbered(record(1), record(2), record(3, InUse=False))
    assert list(unused(stored, {uuid(1)})) == [record(2, InUse=False)]
