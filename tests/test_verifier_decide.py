"""Every arm of the verifier's decision, without disk or clock."""

from __future__ import annotations

from dataclasses import replace as with_
from pathlib import Path

import pytest
from msgspec.structs import replace

from pillar.cmd.verifier.decide import Bad, Cancel, Facts, Good, Refused, Remove, Step, Verify, offered, step
from pillar.imagestore import Found
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus

SHA = "ab" * 32
NAME = f"image.{SHA}"
NOW = "2026-01-01T00:00:00Z"
CONFIG = VerifyImageConfig(Safename=NAME, ImageSha256=SHA, RefCount=1)
NOBODY = replace(CONFIG, RefCount=0)
FACTS = Facts(now=NOW, objtype="appImg.obj")
PENDING = Found("pending", Path("/p"), 5)
CHECKED = Found("verifier", Path("/c"), 5)
PLACED = Found("verified", Path("/v"), 5)
DELIVERED = VerifyImageStatus(
    Safename=NAME, ObjType="appImg.obj", ImageSha256=SHA, State=SwState.DELIVERED, RefCount=1, LastUse=NOW, Size=5
)
OFFERED = replace(DELIVERED, RefCount=0)


def decide(config: VerifyImageConfig | None, status: VerifyImageStatus | None, **facts: object) -> Step:
    return step(config, status, with_(FACTS, **facts))  # type: ignore[arg-type]


def published(step: Step) -> VerifyImageStatus:
    assert step.status is not None
    return step.status


@pytest.mark.parametrize("found", [PENDING, CHECKED, PLACED])
def test_a_file_in_any_stage_is_taken_up(found: Found):
    got = decide(CONFIG, None, found=found)
    assert got.work == Verify()
    assert (published(got).PendingAdd, published(got).State, published(got).RefCount) == (True, SwState.DOWNLOADED, 1)


def test_no_file_is_an_error_that_says_what_is_missing():
    got = decide(CONFIG, None)
    assert got.work is None
    assert (published(got).LastErr, published(got).PendingAdd) == (f"no downloaded image of sha256 {SHA}", False)
    assert decide(CONFIG, got.status, now="2027-01-01T00:00:00Z") == got


@pytest.mark.parametrize("sha", ["", "short", "../.."])
def test_without_a_digest_nothing_is_verified(sha: str):
    got = decide(replace(CONFIG, ImageSha256=sha), None, found=PENDING)
    assert got.work is None and "ImageSha256" in published(got).LastErr


def test_a_good_image_is_delivered():
    got = decide(CONFIG, None, event=Good(5), found=PLACED)
    assert got.work is None
    assert (published(got).State, published(got).PendingAdd, published(got).Size) == (SwState.DELIVERED, False, 5)


def test_a_wrong_image_is_an_error_that_stays_until_another_file_comes():
    got = decide(CONFIG, None, event=Bad("sha256 mismatch: ..."), backing_off=True)
    assert (published(got).LastErr, published(got).State) == ("sha256 mismatch: ...", SwState.DOWNLOADED)
    assert published(decide(CONFIG, got.status)).LastErr == "sha256 mismatch: ..."
    again = decide(CONFIG, got.status, found=PENDING)
    assert again.work == Verify()
    assert published(decide(CONFIG, again.status, event=Good(5), found=PLACED)).LastErr == ""


def test_a_refused_image_waits_for_its_turn():
    got = decide(CONFIG, None, event=Refused("signature: ..."), found=CHECKED, backing_off=True)
    assert got.work is None and published(got).LastErr == "signature: ..."
    assert decide(CONFIG, got.status, found=CHECKED).work == Verify()


def test_a_delivered_image_is_left_alone():
    assert decide(CONFIG, DELIVERED, found=PLACED) == Step(DELIVERED)


def test_a_delivered_image_that_a_restart_finds_changed_is_judged_again():
    got = decide(CONFIG, DELIVERED, found=PLACED, proven=False)
    assert got.work == Verify() and published(got).State == SwState.DOWNLOADED


def test_a_delivered_image_is_judged_again_when_a_signature_is_asked_for():
    got = decide(CONFIG, OFFERED, found=PLACED, signature_known=False)
    assert got.work == Verify()
    assert published(got).State == SwState.DOWNLOADED


def test_a_delivered_image_that_vanished_is_an_error():
    assert "no downloaded image" in published(decide(CONFIG, DELIVERED)).LastErr


def test_a_changed_refcount_is_a_use_and_takes_expired_back():
    status = published(decide(CONFIG, replace(OFFERED, Expired=True, LastUse=ZERO_TIME), found=PLACED))
    assert (status.RefCount, status.Expired, status.LastUse, status.State) == (1, False, NOW, SwState.DELIVERED)


def test_refcount_zero_verifies_nothing_new():
    assert decide(NOBODY, None, found=PENDING).work is None
    assert decide(NOBODY, replace(DELIVERED, State=SwState.DOWNLOADED), running=True).work == Cancel()


def test_refcount_zero_for_long_is_offered_as_expired():
    assert not published(decide(NOBODY, OFFERED, found=PLACED)).Expired
    assert published(decide(NOBODY, OFFERED, found=PLACED, unused=True)).Expired
    assert not published(decide(CONFIG, DELIVERED, found=PLACED, unused=True)).Expired


def test_an_image_that_nobody_asks_for_is_offered():
    assert decide(None, OFFERED, found=PLACED) == Step(OFFERED)
    assert offered(NAME, SHA, 5, "appImg.obj", True, NOW) == OFFERED


def test_an_offered_image_that_changed_is_judged_before_it_counts():
    unproven = offered(NAME, SHA, 5, "appImg.obj", False, NOW)
    assert unproven.State == SwState.DOWNLOADED
    assert decide(None, unproven, found=PLACED, proven=False).work == Verify()
    assert decide(None, unproven, found=PLACED, proven=False, backing_off=True).work is None
    assert published(decide(None, unproven, found=PLACED, event=Good(5))).State == SwState.DELIVERED
    assert decide(None, unproven, event=Bad("sha256 mismatch")) == Step(None, Remove(SHA, verified=False))


def test_a_withdrawn_config_leaves_a_good_image_on_offer_until_it_expires():
    got = decide(None, DELIVERED, found=PLACED)
    assert (published(got).RefCount, published(got).State, got.work) == (0, SwState.DELIVERED, None)
    expired = published(decide(None, got.status, found=PLACED, unused=True))
    assert expired.Expired
    assert decide(None, expired, found=PLACED) == Step(None, Remove(SHA, verified=True))


def test_a_withdrawn_config_removes_what_is_not_verified():
    failed = replace(DELIVERED, State=SwState.DOWNLOADED, LastErr="signature")
    assert decide(None, failed, found=CHECKED) == Step(None, Remove(SHA, verified=False))
    assert decide(None, failed, found=CHECKED, running=True).work == Cancel()
    assert decide(None, None) == Step(None)


def test_the_same_image_under_two_names_is_judged_one_after_the_other():
    got = decide(CONFIG, None, found=PENDING, twin=True)
    assert got.work is None and published(got).PendingAdd


def test_what_runs_is_left_alone():
    running = replace(DELIVERED, State=SwState.DOWNLOADED, PendingAdd=True)
    assert decide(CONFIG, running, running=True) == Step(running)


def test_another_digest_under_the_same_name_is_another_image():
    other = replace(CONFIG, ImageSha256="cd" * 32)
    assert decide(other, DELIVERED, running=True).work == Cancel()
    assert published(decide(other, DELIVERED)).ImageSha256 == "cd" * 32
