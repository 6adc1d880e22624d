"""zedmanager: the domain, activate and deactivate, restart and purge."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from zedmanager_cases import GOOD, NAME, NAME2, NETWORK_UP, app_phase, change, facts, running, verified
from zedmanager_world import (
    NET,
    SHA1,
    SHA2,
    T0,
    T1,
    A,
    B,
    World,
    app_config,
    counter,
    disk_image,
    overlay,
)

from pillar.cmd.zedmanager.changes import purge_reasons, restart_reasons
from pillar.cmd.zedmanager.decide import decide
from pillar.cmd.zedmanager.facts import VerifiedImage
from pillar.cmd.zedmanager.phase import Phase, phase
from pillar.types.common import IoAdapter, VmConfig
from pillar.types.enums import Inprogress, SwState
from pillar.types.zedrouter import ACE, AppNetworkStatus, UnderlayNetworkConfig

# ---- do_activate


def test_the_domain_gets_disks_vifs_and_number():
    network = AppNetworkStatus(
        Activated=True,
        AppNum=7,
        UnderlayNetworkList=(),
    )
    plan = decide(verified(network=network))
    domain = plan.wants.domain
    assert domain is not None
    assert domain.Activate
    assert (domain.AppNum, domain.Memory, domain.VCpus) == (7, 1024, 1)
    assert [disk.ImageSha256 for disk in domain.DiskConfigList or ()] == [SHA1]
    assert plan.app.State == SwState.INSTALLED


@pytest.mark.parametrize(
    ("target", "field"), [("kernel", "Kernel"), ("ramdisk", "Ramdisk"), ("device_tree", "DeviceTree")]
)
def test_boot_images_replace_paths_of_the_resources(target, field):
    image = replace(disk_image(ReadOnly=True), Target=target)
    resources = VmConfig(Memory=1, VCpus=1, Kernel="/k", Ramdisk="/r", DeviceTree="/d")
    config = app_config(StorageConfigList=(image,), FixedResources=resources)
    domain = decide(verified(config, network=NETWORK_UP)).wants.domain
    assert domain is not None
    assert getattr(domain, field) == "/v/1/disk.img"
    assert domain.DiskConfigList == ()


@pytest.mark.parametrize("target", ["disk", "tgtunknown", ""])
def test_every_other_image_is_a_disk(target):
    config = app_config(StorageConfigList=(replace(disk_image(), Target=target),))
    domain = decide(verified(config, network=NETWORK_UP)).wants.domain
    assert domain is not None
    assert len(domain.DiskConfigList or ()) == 1


def test_an_unknown_target_is_an_error():
    config = app_config(StorageConfigList=(replace(disk_image(), Target="initrd"),))
    plan = decide(verified(config, network=NETWORK_UP))
    assert plan.wants.domain is None
    assert "initrd" in plan.app.Error
    assert (plan.app.ErrorSource, plan.app.ErrorTime) == ("DomainStatus", T0)


def test_a_verified_directory_without_its_file_is_an_error():
    plan = decide(verified(verified={SHA1: VerifiedImage(error="/v/1 has 2 files, expected one")}, network=NETWORK_UP))
    assert plan.wants.domain is None
    assert (plan.app.Error, plan.app.ErrorSource) == ("image disk.img: /v/1 has 2 files, expected one", "DomainStatus")


def test_what_the_domain_says_is_shown():
    status = running().status()
    assert status.Activated
    assert not status.ActivateInprogress
    assert status.BootTime == T1
    assert [image.Vdev for image in status.StorageStatusList or ()] == ["xvda"]


def test_a_domain_that_fails_is_an_error_and_a_later_success_clears_it():
    world = running()
    domain = world.tables["domain"][A]
    world.tables["domain"][A] = replace(domain, LastErr="no memory", LastErrTime=T1)
    world.step_app(A)
    assert (world.status().Error, world.status().ErrorSource, world.status().ErrorTime) == (
        "no memory", "DomainStatus", T1,
    )  # fmt: skip
    world.tables["domain"][A] = domain
    world.step_app(A)
    assert (world.status().Error, world.status().ErrorSource) == ("", "")


def test_an_app_whose_guest_ended_is_halted_until_it_is_restarted():
    world = running()
    domain = world.tables["domain"][A]
    ended = replace(domain, State=SwState.HALTED, Activated=False, LastErr="it stopped by itself", LastErrTime=T1)
    world.tables["domain"][A] = ended
    world.settle()
    assert (world.status().State, world.status().Activated, world.boots) == (SwState.HALTED, False, [A])
    assert world.status().Error == "it stopped by itself"
    change(world, RestartCmd=counter(1)).settle()
    assert (world.status().State, world.status().Error, world.boots) == (SwState.RUNNING, "", [A, A])


def test_a_running_domain_keeps_the_config_it_was_started_with():
    world = running()
    before = world.tables["domain_config"][A]
    change(world, DisplayName="renamed", CloudInitUserData="eA==").settle()
    assert world.tables["domain_config"][A] == before
    assert world.status().DisplayName == "renamed"


# ---- activate and deactivate


def test_deactivating_halts_the_domain_first_and_then_the_network():
    world = change(running(seed=4), Activate=False)
    while world.tables["domain"][A].State != SwState.HALTED:
        assert world.tables["network_config"][A].Activate
        world.run(1)
    world.settle()
    assert (world.status().State, world.status().Activated) == (SwState.HALTED, False)
    assert not world.tables["domain_config"][A].Activate
    assert not world.tables["network_config"][A].Activate


def test_activating_again_boots_again():
    world = change(change(running(), Activate=False).settle(), Activate=True).settle()
    assert (world.status().State, world.boots) == (SwState.RUNNING, [A, A])


def test_deactivating_needs_neither_images_nor_network():
    world = change(running(), Activate=False)
    world.tables["verify"].clear()
    world.tables["network"].clear()
    plan = decide(world.facts(A))
    assert plan.wants.domain is not None
    assert not plan.wants.domain.Activate


def test_a_running_app_goes_on_while_its_image_is_unknown():
    world = running()
    world.tables["verify"].clear()
    world.step_app(A)
    assert world.status().State == SwState.RUNNING
    assert world.tables["domain_config"][A].Activate


# ---- restart and purge


PURGES: dict[str, dict[str, Any]] = {
    "counter": {"PurgeCmd": counter(1)},
    "another image": {"StorageConfigList": (disk_image("new.img", SHA2),)},
    "one image more": {"StorageConfigList": (disk_image(), disk_image("new.img", SHA2))},
    "ReadOnly": {"StorageConfigList": (disk_image(ReadOnly=True),)},
    "Preserve": {"StorageConfigList": (disk_image(Preserve=True),)},
    "Format": {"StorageConfigList": (replace(disk_image(), Format="qcow2"),)},
    "Maxsizebytes": {"StorageConfigList": (disk_image(Maxsizebytes=5000),)},
    "Devtype": {"StorageConfigList": (replace(disk_image(), Devtype="cdrom"),)},
    "MAC": {"UnderlayNetworkList": (UnderlayNetworkConfig(Name="eth0", Network=NET, AppMacAddr=b"123456"),)},
    "IP": {"UnderlayNetworkList": (UnderlayNetworkConfig(Name="eth0", Network=NET, AppIPAddr="10.0.0.9"),)},
    "network": {"UnderlayNetworkList": (UnderlayNetworkConfig(Name="eth0", Network=B),)},
    "one network less": {"UnderlayNetworkList": ()},
    "one overlay more": {"OverlayNetworkList": (overlay(),)},
    "adapters": {"IoAdapterList": (IoAdapter(Name="usb"),)},
}
RESTARTS: dict[str, dict[str, Any]] = {
    "counter": {"RestartCmd": counter(1)},
    "memory": {"FixedResources": VmConfig(Memory=2048, VCpus=1)},
    "boot loader": {"FixedResources": VmConfig(Memory=1024, VCpus=1, BootLoader="pygrub")},
}
NEITHER: dict[str, dict[str, Any]] = {
    "ACLs": {"UnderlayNetworkList": (UnderlayNetworkConfig(Name="eth0", Network=NET, ACLs=(ACE(RuleID=1),)),)},
    "name": {"DisplayName": "other"},
    "image name": {"StorageConfigList": (disk_image("renamed.img"),)},
    "datastore": {"StorageConfigList": (disk_image(DatastoreID=B),)},
    "target": {"StorageConfigList": (replace(disk_image(), Target=""),)},
    "sha in capitals": {"StorageConfigList": (disk_image(sha256=SHA1.upper()),)},
    "cloud-init": {"CloudInitUserData": "eA=="},
    "empty instead of null": {"IoAdapterList": (), "OverlayNetworkList": ()},
}


@pytest.mark.parametrize("what", PURGES)
def test_purge(what):
    world = running(seed=len(what))
    old_config = world.tables["domain_config"][A]
    change(world, **PURGES[what])
    assert purge_reasons(world.status(), world.tables["config"][A])
    assert not restart_reasons(world.status(), world.tables["config"][A])
    states = set()
    for _ in range(2000):
        world.run(1)
        states.add(app_phase(world))
    world.settle()
    assert Phase.PURGING_DOWN in states or Phase.PURGING_DOWNLOAD in states
    assert (world.status().State, world.status().PurgeInprogress) == (SwState.RUNNING, Inprogress.NONE)
    assert world.boots == [A, A]
    assert len(world.status().StorageStatusList or ()) == len(world.tables["config"][A].StorageConfigList)
    assert world.tables["counter"][A] == world.tables["config"][A].PurgeCmd.Counter
    assert world.tables["domain_config"][A].UUIDandVersion != old_config.UUIDandVersion
    # What the purge dropped is not referred to any more.
    wanted = {f"{image.Name}.{image.ImageSha256}" for image in world.tables["config"][A].StorageConfigList}
    assert {name for name, config in world.tables["verify_config"].items() if config.RefCount} <= wanted


@pytest.mark.parametrize("what", RESTARTS)
def test_restart(what):
    world = running(seed=len(what))
    change(world, **RESTARTS[what])
    assert restart_reasons(world.status(), world.tables["config"][A])
    assert not purge_reasons(world.status(), world.tables["config"][A])
    plan = decide(world.facts(A))
    assert (plan.app.State, phase(plan.app, world.tables["config"][A])) == (SwState.RESTARTING, Phase.RESTARTING_DOWN)
    assert plan.wants.network is not None
    assert plan.wants.network.Activate
    world.settle()
    assert (world.status().State, world.status().RestartInprogress) == (SwState.RUNNING, Inprogress.NONE)
    assert world.boots == [A, A]
    assert world.tables["domain_config"][A].Memory == world.tables["config"][A].FixedResources.Memory
    assert world.fetches == {NAME: 1}


@pytest.mark.parametrize("what", NEITHER)
def test_neither_restart_nor_purge(what):
    world = change(running(), **NEITHER[what]).settle()
    assert (world.status().State, world.boots, world.fetches) == (SwState.RUNNING, [A], {NAME: 1})


def test_the_domain_is_never_asked_to_run_while_it_is_brought_down():
    world = change(running(seed=9), RestartCmd=counter(1))
    world.step_app(A)
    while app_phase(world) is Phase.RESTARTING_DOWN:
        assert not world.tables["domain_config"][A].Activate
        world.run(1)


def test_a_purge_fetches_the_new_image_while_the_old_domain_runs():
    world = change(running(), **PURGES["another image"])
    while world.tables["verify"].get(NAME2, GOOD).State != SwState.DELIVERED or NAME2 not in world.tables["verify"]:
        assert world.tables["domain_config"][A].Activate
        assert world.tables["verify_config"][NAME].RefCount == 1
        world.run(1)
    world.settle()
    assert [image.Name for image in world.status().StorageStatusList or ()] == ["new.img"]


def test_a_purge_of_an_app_that_was_never_active_ends_and_tears_nothing_down_twice():
    world = World(5, a=app_config(Activate=False)).settle()
    assert world.status().State == SwState.INSTALLED
    change(world, PurgeCmd=counter(1)).settle()
    assert (world.status().State, world.status().PurgeInprogress) == (SwState.INSTALLED, Inprogress.NONE)
    assert world.tables["counter"][A] == 1


def test_a_purge_of_an_app_that_still_fetches_ends():
    world = World(6, a=app_config())
    world.step_app(A)
    change(world, PurgeCmd=counter(3)).settle()
    assert (world.status().State, world.boots, world.tables["counter"][A]) == (SwState.RUNNING, [A], 3)


def test_a_purge_asked_for_before_a_reboot_is_carried_out_after_it():
    world = World(7, a=app_config(PurgeCmd=counter(2)))
    world.tables["counter"][A] = 1
    assert decide(world.facts(A)).app.State == SwState.PURGING
    world.settle()
    assert (world.status().State, world.tables["counter"][A]) == (SwState.RUNNING, 2)


def test_the_first_counter_of_an_app_is_no_purge():
    plan = decide(facts(app_config(PurgeCmd=counter(5))))
    assert (plan.app.PurgeInprogress, plan.wants.purge_counter) == (Inprogress.NONE, 5)


def test_a_second_purge_during_a_purge_is_carried_out():
    world = change(running(seed=8), **PURGES["another image"])
    world.run(15)
    third = disk_image("third.img", "3" * 64)
    change(world, StorageConfigList=(third,)).settle()
    assert [image.Name for image in world.status().StorageStatusList or ()] == ["third.img"]
    assert [disk.ImageSha256 for disk in world.tables["domain_config"][A].DiskConfigList] == ["3" * 64]


def test_taking_a_new_image_back_during_a_purge_ends_with_the_old_one():
    world = change(running(seed=8), **PURGES["one image more"])
    world.run(15)
    change(world, StorageConfigList=(disk_image(),)).settle()
    assert [image.Name for image in world.status().StorageStatusList or ()] == ["disk.img"]
    assert len(world.tables["domain_config"][A].DiskConfigList) == 1


def test_a_restart_of_an_app_that_is_not_started_is_only_noted():
    world = World(0, a=app_config())
    world.step_app(A)
    change(world, RestartCmd=counter(4))
    plan = decide(world.facts(A))
    assert (plan.app.RestartInprogress, plan.app.RestartCmd) == (Inprogress.NONE, counter(4))


def test_a_restart_of_an_inactive_app_is_only_noted():
    world = World(0, a=app_config(Activate=False)).settle()
    change(world, RestartCmd=counter(4)).settle()
    assert (world.status().State, world.status().RestartCmd, world.boots) == (SwState.INSTALLED, counter(4), [])


def test_reserved_adapters_that_failed_are_no_purge_later():
    world = running(IoAdapterList=(IoAdapter(Name="eth1"),))
    world.tables["domain"][A] = replace(world.tables["domain"][A], IoAdapterList=None, AdaptersFailed=True)
    world.step_app(A)
    change(world, DisplayName="x").settle()
    assert world.status().PurgeInprogress == Inprogress.NONE
    assert world.boots == [A]
