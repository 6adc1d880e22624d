"""Every arm of domainmgr's decision, and what holds over its whole state space. No process, no disk, no clock."""

import dataclasses
import itertools
from collections.abc import Iterator

import msgspec
import pytest

from pillar.cmd.domainmgr import adapters, images
from pillar.cmd.domainmgr.decide import MAX_TRIES, STOP_RETRY_S, Decision, Done, Facts, Kind, Work, step
from pillar.cmd.domainmgr.disks import vdev, wanted_disks
from pillar.hardware import Devices
from pillar.hypervisors import DomainInfo, Phase
from pillar.types.adapters import AssignableAdapters, PhysicalAddress, PhysicalIOAdapter, PhysicalIOAdapterList
from pillar.types.common import IoAdapter, UUIDandVersion
from pillar.types.domainmgr import DiskConfig, DiskStatus, DomainConfig, DomainStatus, ImageStatus
from pillar.types.enums import SwState

UUID = "6f1c0a3e-0000-4000-8000-000000000001"
NOW = "2026-01-02T03:04:05Z"
EARLIER = "2026-01-01T00:00:00Z"
IDENTITY = UUIDandVersion(UUID=UUID, Version="1")
CONFIG = DomainConfig(
    UUIDandVersion=IDENTITY,
    DisplayName="eco",
    Activate=True,
    AppNum=3,
    DiskConfigList=(DiskConfig(ImageSha256="aa", ReadOnly=True),),
)
INACTIVE = msgspec.structs.replace(CONFIG, Activate=False)
DISKS = tuple(
    msgspec.structs.replace(disk, FileLocation="/v/aa/x", ActiveFileLocation="/v/aa/x") for disk in wanted_disks(CONFIG)
)
PREPARED = DomainStatus(
    UUIDandVersion=IDENTITY,
    DisplayName="eco",
    State=SwState.INSTALLED,
    AppNum=3,
    DomainName="eco.3",
    DiskStatusList=DISKS,
)
RUNS = DomainInfo(Phase.RUNNING, domain_id=77)
STARTS = DomainInfo(Phase.STARTING)
ENDED = DomainInfo(Phase.GONE, exit="it exited with status 3")


def but(status: DomainStatus, **fields: object) -> DomainStatus:
    return msgspec.structs.replace(status, **fields)


def facts(**fields: object) -> Facts:
    return dataclasses.replace(Facts(now=NOW), **fields)  # type: ignore[arg-type]


BOOTING = but(PREPARED, State=SwState.BOOTING)
RUNNING = but(PREPARED, State=SwState.RUNNING, Activated=True, DomainId=77, BootTime=EARLIER)
HALTED = but(PREPARED, State=SwState.HALTED)


def decided(config: DomainConfig | None, status: DomainStatus | None, **given: object) -> Decision:
    return step(config, status, facts(**given))


def kind(decision: Decision) -> Kind | None:
    return None if decision.work is None else decision.work.kind


def status_of(decision: Decision) -> DomainStatus:
    assert decision.status is not None
    return decision.status


# Creating.


def test_a_new_eco_is_published_as_pending_before_its_disks_are_looked_for() -> None:
    decision = decided(CONFIG, None)
    assert kind(decision) is Kind.PREPARE
    status = status_of(decision)
    assert (status.State, status.PendingAdd, status.DomainName) == (SwState.INSTALLED, True, "eco.3")
    assert status.DiskStatusList == wanted_disks(CONFIG)


def test_prepared_disks_are_published_and_an_active_eco_boots() -> None:
    pending = status_of(decided(CONFIG, None))
    decision = decided(CONFIG, pending, done=Done(Kind.PREPARE, disks=DISKS))
    assert kind(decision) is Kind.BOOT
    assert status_of(decision).State == SwState.BOOTING
    assert status_of(decision).DiskStatusList == DISKS
    assert not status_of(decision).PendingAdd


def test_an_inactive_eco_stays_installed() -> None:
    decision = decided(INACTIVE, PREPARED)
    assert (decision.status, decision.work) == (PREPARED, None)


def test_a_failed_preparation_is_said_and_tried_again_after_the_retry_time() -> None:
    pending = status_of(decided(CONFIG, None))
    failed = decided(CONFIG, pending, done=Done(Kind.PREPARE, error="no image"), boot_retry_s=50.0)
    assert (failed.work, failed.retry_s) == (None, 50.0)
    status = status_of(failed)
    assert (status.LastErr, status.LastErrTime, status.PendingAdd) == ("no image", NOW, False)
    assert kind(decided(CONFIG, status)) is None
    assert kind(decided(CONFIG, status, retry_due=True)) is Kind.PREPARE
    again = decided(CONFIG, status, done=Done(Kind.PREPARE, error="no image"))
    assert status_of(again).LastErrTime == NOW, "the time is when the error first appeared"


def test_a_changed_configuration_is_another_chance_for_a_failed_preparation() -> None:
    failed = but(PREPARED, DiskStatusList=wanted_disks(CONFIG), LastErr="no image")
    decision = decided(CONFIG, failed, changed=True)
    assert kind(decision) is Kind.PREPARE
    assert status_of(decision).LastErr == ""


# Booting.


def test_a_finished_boot_is_running_with_its_boot_time() -> None:
    decision = decided(CONFIG, BOOTING, done=Done(Kind.BOOT, domain_id=77), domain=RUNS)
    status = status_of(decision)
    assert (status.State, status.Activated, status.DomainId, status.BootTime) == (SwState.RUNNING, True, 77, NOW)
    assert decision.work is None


def test_a_boot_that_a_kill_interrupted_is_done_again() -> None:
    assert kind(decided(CONFIG, BOOTING)) is Kind.BOOT


def test_a_domain_found_running_is_adopted_not_started() -> None:
    decision = decided(CONFIG, BOOTING, domain=RUNS)
    assert status_of(decision).DomainId == 77
    assert decision.work is None


def test_a_domain_that_somebody_is_starting_is_waited_for() -> None:
    decision = decided(CONFIG, PREPARED, domain=STARTS)
    assert (kind(decision), status_of(decision).State) == (None, SwState.BOOTING)
    assert decision.retry_s is not None


def test_an_adopted_domain_keeps_its_status_to_the_letter() -> None:
    assert decided(CONFIG, RUNNING, domain=RUNS).status == RUNNING


def test_three_failed_tries_then_boot_failed_then_again_after_the_retry_time() -> None:
    status = BOOTING
    for tries in range(1, MAX_TRIES):
        failed = decided(CONFIG, status, done=Done(Kind.BOOT, error="no memory"))
        status = status_of(failed)
        assert (status.State, status.TriedCount, failed.work) == (SwState.BOOTING, tries, None)
        assert f"try {tries} of 3: no memory" in status.LastErr
        again = decided(CONFIG, status, retry_due=True)
        assert kind(again) is Kind.BOOT
        assert status_of(again).TriedCount == tries
    failed = decided(CONFIG, status, done=Done(Kind.BOOT, error="no memory"), boot_retry_s=50.0)
    status = status_of(failed)
    assert (status.State, status.BootFailed, status.LastErr) == (SwState.HALTED, True, "no memory")
    assert (failed.work, failed.retry_s) == (None, 50.0)
    again = decided(CONFIG, status, retry_due=True)
    assert kind(again) is Kind.BOOT
    assert (status_of(again).TriedCount, status_of(again).LastErr) == (0, "")


def test_an_image_that_never_will_run_is_not_tried_three_times() -> None:
    status = status_of(decided(CONFIG, BOOTING, done=Done(Kind.BOOT, error="a qcow2 disk", lasting=True)))
    assert (status.BootFailed, status.TriedCount, status.State) == (True, 1, SwState.HALTED)


# Ending by itself.


def test_a_domain_that_ends_by_itself_is_halted_with_the_reason_and_swept() -> None:
    decision = decided(CONFIG, RUNNING, domain=ENDED)
    status = status_of(decision)
    assert (status.State, status.Activated, status.DomainId) == (SwState.HALTED, False, 0)
    assert status.LastErr == "the domain stopped by itself: it exited with status 3"
    assert kind(decision) is Kind.SWEEP
    assert kind(decided(CONFIG, status, domain=ENDED)) is None, "and is not started again"


def test_a_program_that_ends_before_it_was_published_is_not_booted_for_ever() -> None:
    decision = decided(CONFIG, BOOTING, done=Done(Kind.BOOT, domain_id=77), domain=ENDED)
    assert (kind(decision), status_of(decision).State) == (Kind.SWEEP, SwState.HALTED)


def test_a_domain_that_ended_with_the_machine_is_booted_again() -> None:
    decision = decided(CONFIG, RUNNING, domain=DomainInfo(Phase.GONE, exit="restarted", rebooted=True))
    assert (kind(decision), status_of(decision).State) == (Kind.BOOT, SwState.BOOTING)
    assert not status_of(decision).Activated


def test_an_inactivate_clears_the_error_and_the_next_activate_boots() -> None:
    ended = but(HALTED, LastErr="the domain stopped by itself: it is gone")
    halting = decided(INACTIVE, ended)
    assert (kind(halting), status_of(halting).State) == (Kind.HALT, SwState.HALTING)
    halted = decided(INACTIVE, status_of(halting), done=Done(Kind.HALT))
    assert (status_of(halted).State, status_of(halted).LastErr, halted.work) == (SwState.HALTED, "", None)
    assert kind(decided(CONFIG, status_of(halted))) is Kind.BOOT


def test_another_version_of_the_configuration_starts_over_even_if_nobody_saw_the_change() -> None:
    ended = but(HALTED, LastErr="the domain stopped by itself: it is gone")
    newer = msgspec.structs.replace(CONFIG, UUIDandVersion=UUIDandVersion(UUID=UUID, Version="2"))
    assert kind(decided(newer, ended)) is Kind.BOOT


# Stopping.


def test_an_inactivate_halts_a_running_domain() -> None:
    halting = decided(INACTIVE, RUNNING, domain=RUNS)
    assert (kind(halting), status_of(halting).State) == (Kind.HALT, SwState.HALTING)
    assert status_of(halting).Activated, "it is active until it is down"
    halted = status_of(decided(INACTIVE, status_of(halting), done=Done(Kind.HALT)))
    assert (halted.State, halted.Activated, halted.DomainId) == (SwState.HALTED, False, 0)


def test_a_domain_that_cannot_be_stopped_stays_activated_and_is_tried_again() -> None:
    halting = but(RUNNING, State=SwState.HALTING)
    failed = decided(INACTIVE, halting, domain=RUNS, done=Done(Kind.HALT, error="process 77 survives"))
    status = status_of(failed)
    assert status.Activated
    assert "process 77 survives" in status.LastErr
    assert failed.work is None
    assert failed.retry_s is not None
    assert kind(decided(INACTIVE, status, domain=RUNS)) is None
    assert kind(decided(INACTIVE, status, domain=RUNS, retry_due=True)) is Kind.HALT


def test_an_inactivate_during_a_boot_cancels_it() -> None:
    assert decided(INACTIVE, BOOTING, busy=Kind.BOOT).cancel
    assert kind(decided(INACTIVE, BOOTING, domain=RUNS)) is Kind.HALT


def test_an_activate_during_a_halt_waits_until_it_is_down_and_boots() -> None:
    halting = but(RUNNING, State=SwState.HALTING)
    assert decided(CONFIG, halting, busy=Kind.HALT).status == halting
    assert kind(decided(CONFIG, halting, domain=RUNS)) is Kind.HALT, "also when domainmgr was killed meanwhile"
    assert kind(decided(CONFIG, halting, done=Done(Kind.HALT))) is Kind.BOOT


# Changing.


def test_a_running_domain_takes_only_the_version_of_a_changed_configuration() -> None:
    newer = msgspec.structs.replace(
        CONFIG, UUIDandVersion=UUIDandVersion(UUID=UUID, Version="2"), DisplayName="new", DiskConfigList=()
    )
    decision = decided(newer, RUNNING, domain=RUNS, changed=True)
    assert decision.status == but(RUNNING, UUIDandVersion=newer.UUIDandVersion)
    assert decision.work is None


def test_other_disks_take_effect_as_soon_as_nothing_runs() -> None:
    other = msgspec.structs.replace(CONFIG, DiskConfigList=(DiskConfig(ImageSha256="bb"),))
    decision = decided(other, HALTED)
    assert kind(decision) is Kind.PREPARE
    assert status_of(decision).PendingModify
    assert status_of(decision).State == SwState.INSTALLED
    assert status_of(decision).DiskStatusList == wanted_disks(other)
    disks = (DiskStatus(ImageSha256="bb", Vdev="xvda", FileLocation="/v/bb", ActiveFileLocation="/img/bb"),)
    booting = decided(other, status_of(decision), done=Done(Kind.PREPARE, disks=disks))
    assert booting.work == Work(Kind.BOOT, disks, other)
    assert not status_of(booting).PendingModify


def test_a_boot_takes_the_configuration_as_it_is_then() -> None:
    renamed = msgspec.structs.replace(CONFIG, DisplayName="other", AppNum=9, EnableVnc=True)
    status = status_of(decided(renamed, PREPARED))
    assert (status.DomainName, status.AppNum, status.EnableVnc) == ("other.9", 9, True)


# Adapters.


def test_adapters_that_cannot_be_reserved_hold_the_boot_until_they_can() -> None:
    wants = msgspec.structs.replace(CONFIG, IoAdapterList=(IoAdapter(Name="usb"),))
    refused = decided(wants, PREPARED, adapters_error="adapter group 'usb' is unknown on this device")
    status = status_of(refused)
    assert refused.work is None
    assert status.AdaptersFailed
    assert status.IoAdapterList is None
    assert "unknown" in status.LastErr
    booting = decided(wants, status)
    assert kind(booting) is Kind.BOOT
    assert (status_of(booting).IoAdapterList, status_of(booting).LastErr) == (wants.IoAdapterList, "")


@pytest.mark.parametrize("config", [CONFIG, INACTIVE], ids=["active", "inactive"])
def test_a_domain_that_is_gone_keeps_no_devices_whoever_left_them(config: DomainConfig) -> None:
    failed = but(HALTED, BootFailed=True, LastErr="no", TriedCount=MAX_TRIES)
    for status in (failed, but(HALTED, LastErr="stopped by itself"), but(PREPARED, AdaptersFailed=True)):
        swept = decided(config, status, holds_devices=True, adapters_error="no")
        assert kind(swept) in (Kind.SWEEP, Kind.HALT), status
    later = decided(CONFIG, failed, holds_devices=True, done=Done(Kind.SWEEP, error="the kernel refused"))
    assert (later.work, later.retry_s) == (None, STOP_RETRY_S)
    assert "the kernel refused" in status_of(later).LastErr
    assert decided(CONFIG, RUNNING, domain=RUNS, holds_devices=True).work is None
    assert kind(decided(None, None, holds_devices=True)) is Kind.SWEEP


def test_a_reservation_stands_while_the_domain_exists() -> None:
    wants = msgspec.structs.replace(INACTIVE, IoAdapterList=(IoAdapter(Name="usb"),))
    status = status_of(decided(wants, PREPARED))
    assert status.IoAdapterList == wants.IoAdapterList
    assert decided(wants, status, adapters_error="unplugged").status == status


# Deleting.


def test_a_withdrawn_configuration_removes_everything_and_then_the_status() -> None:
    leaving = decided(None, RUNNING, domain=RUNS)
    assert (kind(leaving), status_of(leaving).PendingDelete, status_of(leaving).State) == (
        Kind.REMOVE,
        True,
        SwState.HALTING,
    )
    assert decided(None, status_of(leaving), busy=Kind.REMOVE).work is None
    assert decided(None, status_of(leaving), done=Done(Kind.REMOVE)).status is None


def test_a_missing_configuration_means_nothing_before_the_table_is_complete() -> None:
    decision = decided(None, RUNNING, domain=RUNS, synchronized=False)
    assert (decision.status, decision.work) == (RUNNING, None)


def test_a_removal_waits_for_the_work_in_flight_and_cancels_it() -> None:
    decision = decided(None, but(BOOTING, LastErr="try 1 of 3: x", TriedCount=1), busy=Kind.BOOT)
    assert decision.cancel
    assert decision.work is None
    assert kind(decided(None, status_of(decision))) is Kind.REMOVE


def test_a_failed_removal_says_so_and_is_tried_again() -> None:
    leaving = but(RUNNING, PendingDelete=True)
    failed = decided(None, leaving, done=Done(Kind.REMOVE, error="busy"))
    assert "busy" in status_of(failed).LastErr
    assert failed.retry_s is not None
    assert kind(decided(None, status_of(failed))) is None
    assert kind(decided(None, status_of(failed), retry_due=True)) is Kind.REMOVE


def test_an_eco_configured_again_during_its_removal_is_removed_first() -> None:
    leaving = but(RUNNING, PendingDelete=True)
    assert kind(decided(CONFIG, leaving, domain=RUNS)) is Kind.REMOVE
    assert decided(CONFIG, leaving, done=Done(Kind.REMOVE)).status is None
    assert kind(decided(CONFIG, None)) is Kind.PREPARE


def test_leftovers_with_neither_configuration_nor_status_are_stopped_and_later_removed() -> None:
    assert kind(decided(None, None, domain=RUNS)) is Kind.HALT
    assert kind(decided(None, None, domain=RUNS, synchronized=False)) is None
    assert decided(None, None, done=Done(Kind.HALT)) == Decision(None), "what it stored is kept for a while"
    assert kind(decided(None, None, expired=True)) is Kind.REMOVE
    assert decided(None, None, done=Done(Kind.REMOVE)) == Decision(None)


@pytest.mark.parametrize(
    ("config", "status", "expected"),
    [
        (None, None, Kind.SWEEP),  # nobody mentions it
        (INACTIVE, PREPARED, Kind.SWEEP),
        (CONFIG, but(HALTED, LastErr="it stopped by itself"), Kind.SWEEP),
        (CONFIG, HALTED, Kind.BOOT),  # which begins by ending what is there
        (CONFIG, but(PREPARED, State=SwState.HALTING), Kind.HALT),
    ],
)
def test_what_a_dead_domainmgr_left_is_ended_once(
    config: DomainConfig | None, status: DomainStatus | None, expected: Kind
) -> None:
    assert kind(decided(config, status, left_over=True)) is expected
    assert decided(config, status, left_over=True).status == decided(config, status).status
    assert kind(decided(config, status)) is (None if expected is Kind.SWEEP else expected)
    assert kind(decided(config, status, left_over=True, domain=RUNS)) is not Kind.SWEEP
    assert kind(decided(config, status, left_over=True, busy=Kind.HALT)) is None


# The whole state space.


def statuses() -> Iterator[DomainStatus]:
    states = (SwState.NONE, SwState.INSTALLED, SwState.BOOTING, SwState.RUNNING, SwState.HALTING, SwState.HALTED)
    flags = itertools.product((False, True), repeat=5)
    for state, (activated, failed, pending, leaving, located) in itertools.product(states, flags):
        for error, tried in (("", 0), ("something", 0), ("something", 2)):
            yield but(
                PREPARED,
                State=state,
                Activated=activated,
                BootFailed=failed,
                PendingAdd=pending,
                PendingDelete=leaving,
                DiskStatusList=DISKS if located else wanted_disks(CONFIG),
                LastErr=error,
                TriedCount=tried,
            )


@pytest.mark.parametrize("config", [CONFIG, INACTIVE, None], ids=["active", "inactive", "withdrawn"])
@pytest.mark.parametrize("domain", [RUNS, STARTS, ENDED, DomainInfo(Phase.GONE)], ids=lambda info: info.phase.value)
def test_whatever_the_state_the_move_is_safe_and_survives_a_kill(
    config: DomainConfig | None, domain: DomainInfo
) -> None:
    for status, retry_due in itertools.product(statuses(), (False, True)):
        idle = step(config, status, facts(domain=domain, retry_due=retry_due))
        if kind(idle) is Kind.BOOT:
            assert config is CONFIG, status
            assert domain.phase is Phase.GONE, status
            assert status_of(idle).State == SwState.BOOTING
        if kind(idle) in (Kind.HALT, Kind.REMOVE):
            assert status_of(idle).State == SwState.HALTING or status_of(idle).PendingDelete
        if idle.work is not None and kind(idle) is not Kind.SWEEP:  # killed now, the next domainmgr asks for it again
            again = step(config, idle.status, facts(domain=domain, retry_due=True))
            assert kind(again) is kind(idle), status
        if idle.work is None:  # nothing to do: then there is nothing to say at the next look either, or a time to look
            again = step(config, idle.status, facts(domain=domain))
            assert again.status == idle.status or again.work is not None, status
        for busy in Kind:
            assert step(config, status, facts(domain=domain, busy=busy)).work is None


@pytest.mark.parametrize("goal", [CONFIG, INACTIVE, None], ids=["active", "inactive", "withdrawn"])
def test_from_every_state_it_gets_where_it_should_when_the_work_succeeds(goal: DomainConfig | None) -> None:
    for status, runs in itertools.product(statuses(), (False, True)):
        reached = _play(goal, status, runs)
        if goal is None:
            assert reached == (None, False), status
        elif goal is INACTIVE:
            assert reached[0] is not None
            assert not reached[1], status
            assert reached[0].State in (SwState.NONE, SwState.INSTALLED, SwState.HALTED), status
        else:
            assert reached[0] is not None
            stopped_by_itself = reached[0].State == SwState.HALTED and reached[0].LastErr
            assert (reached[1] and reached[0].State == SwState.RUNNING) or stopped_by_itself, status


def _play(config: DomainConfig | None, start: DomainStatus, runs: bool) -> tuple[DomainStatus | None, bool]:
    """Let every piece of work succeed until nothing moves; (status, whether the domain runs)."""
    status: DomainStatus | None = start
    done: Done | None = None
    holds = True  # devices that an earlier domainmgr took for it
    for _ in range(20):
        info = RUNS if runs else DomainInfo(Phase.GONE)
        decision = step(config, status, facts(domain=info, done=done, retry_due=done is None, holds_devices=holds))
        moved = decision.status != status or decision.work is not None
        status, done = decision.status, None
        if decision.work is not None:
            runs = {Kind.BOOT: True, Kind.PREPARE: runs}.get(decision.work.kind, False)
            holds = {Kind.BOOT: True, Kind.PREPARE: holds}.get(decision.work.kind, False)
            done = Done(decision.work.kind, disks=DISKS, domain_id=77)
        elif not moved:
            assert runs or not holds, start
            return status, runs
    pytest.fail(f"never comes to rest from {start}")


# The tables over all domains.


def test_no_adapter_list_is_an_answer() -> None:
    assert adapters.assignable(None, {}, frozenset(), {}, Devices()) == AssignableAdapters(Initialized=True)


def test_adapter_groups_belong_to_one_app_and_never_to_a_port() -> None:
    listed = PhysicalIOAdapterList(
        AdapterList=(
            PhysicalIOAdapter(Phylabel="u", Assigngrp="USB"),
            PhysicalIOAdapter(Phylabel="e", Assigngrp="eth", Phyaddr=PhysicalAddress(Ifname="eth0")),
            PhysicalIOAdapter(Phylabel="n"),
        )
    )
    owned = adapters.owners({UUID: (IoAdapter(Name="usb"),)})
    table = adapters.assignable(listed, owned, frozenset({"eth0"}), {"eth0": "02:00:00:00:00:01"}, Devices())
    usb, eth, _ = table.IoBundleList or ()
    assert (usb.UsedByUUID, eth.IsPort, eth.MacAddr) == (UUID, True, "02:00:00:00:00:01")

    def error(uuid: str, group: str) -> str:
        return adapters.reservation_error(table, owned, uuid, (IoAdapter(Name=group),), Devices(), {})

    assert error(UUID, "Usb") == ""
    assert f"used by app {UUID}" in error("another", "usb")
    assert "device port eth0" in error(UUID, "eth")
    assert "unknown" in error(UUID, "")
    assert "unknown" in error(UUID, "gpu")


def test_copies_are_collected_when_nobody_used_them_for_long_enough() -> None:
    table = {name: ImageStatus(Filename=name, RefCount=count) for name, count in (("a", 0), ("b", 1), ("c", 0))}
    assert images.to_collect(table, {"a": 100.0, "c": 900.0}, 1000.0, 600.0) == ["a"]


def test_disks_are_named_as_in_eve() -> None:
    assert [vdev(index) for index in (0, 1, 25, 26, 27)] == ["xvda", "xvdb", "xvdz", "xvdaa", "xvdab"]
