"""Every arm of zedmanager's decisions, without disk, clock or process; tests/zedmanager_world.py plays the others."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from zedmanager_world import (
    LEGAL,
    NET,
    SHA1,
    SHA2,
    T0,
    T1,
    A,
    B,
    Killed,
    World,
    app_config,
    counter,
    disk_image,
    eid_of,
    overlay,
)

from pillar.cmd.zedmanager.changes import purge_reasons, restart_reasons
from pillar.cmd.zedmanager.decide import decide
from pillar.cmd.zedmanager.facts import DiskSpace, Facts, Published, VerifiedImage
from pillar.cmd.zedmanager.phase import Phase, phase
from pillar.cmd.zedmanager.references import downloader_config
from pillar.cmd.zedmanager.refetch import MAX_ATTEMPTS, RetryState
from pillar.types.common import IoAdapter, UUIDandVersion, VmConfig
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.downloader import DownloaderStatus
from pillar.types.eid import EIDStatus
from pillar.types.eid_error import EIDError
from pillar.types.enums import Inprogress, SwState
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageStatus
from pillar.types.zedrouter import ACE, AppNetworkConfig, AppNetworkStatus, UnderlayNetworkConfig, VifInfo

NAME = f"disk.img.{SHA1}"
NAME2 = f"new.img.{SHA2}"
GOOD = VerifyImageStatus(Safename=NAME, ImageSha256=SHA1, State=SwState.DELIVERED, RefCount=1)
FOUND = {SHA1: VerifiedImage(path="/v/1/disk.img", size_bytes=1000), SHA2: VerifiedImage(path="/v/2/new.img")}
NETWORK_UP = AppNetworkStatus(Activated=True, AppNum=7)


def facts(config: AppInstanceConfig | None = None, **fields: Any) -> Facts:
    plain: dict[str, Any] = {"key": A, "now": T0, "config": config if config is not None else app_config()}
    return Facts(**(plain | fields))


def verified(config: AppInstanceConfig | None = None, **fields: Any) -> Facts:
    """Facts of an app whose image is verified."""
    return facts(config, **({"verifications": {NAME: GOOD}, "verified": FOUND} | fields))


def running(*, seed: int = 0, **fields: Any) -> World:
    world = World(seed, a=app_config(**fields)).settle()
    assert world.status().State == SwState.RUNNING
    return world


def change(world: World, **fields: Any) -> World:
    config = world.tables["config"][A]
    world.tables["config"][A] = replace(
        config, **fields, UUIDandVersion=UUIDandVersion(UUID=A, Version=config.UUIDandVersion.Version + "+")
    )
    return world


def app_phase(world: World) -> Phase:
    return phase(world.tables["status"].get(A), world.tables["config"].get(A))


# ---- do_install


def test_a_new_app_refers_to_its_download_and_to_nothing_else():
    plan = decide(facts())
    (image,) = plan.app.StorageStatusList or ()
    assert image.HasDownloaderRef
    assert not image.HasVerifierRef
    assert (plan.app.State, phase(plan.app, app_config())) == (SwState.DOWNLOAD_STARTED, Phase.FETCHING)
    assert plan.wants == Published(purge_counter=0)


def test_progress_of_a_download_is_shown():
    download = DownloaderStatus(State=SwState.DOWNLOAD_STARTED, Progress=42, PendingAdd=True)
    (image,) = decide(facts(downloads={NAME: download})).app.StorageStatusList or ()
    assert (image.State, image.Progress) == (SwState.DOWNLOAD_STARTED, 42)


def test_a_failed_download_is_shown_with_source_and_time():
    download = DownloaderStatus(State=SwState.INITIAL, LastErr="404", LastErrTime=T1)
    plan = decide(facts(downloads={NAME: download}))
    assert (plan.app.Error, plan.app.ErrorSource, plan.app.ErrorTime) == ("downloader: 404", "DownloaderStatus", T1)


def test_what_is_downloaded_is_handed_to_the_verifier():
    plan = decide(facts(downloads={NAME: DownloaderStatus(State=SwState.DOWNLOADED)}))
    (image,) = plan.app.StorageStatusList or ()
    assert (image.HasDownloaderRef, image.HasVerifierRef) == (True, True)
    assert phase(plan.app, app_config()) == Phase.VERIFYING


def test_a_download_that_is_still_pending_is_not_handed_on():
    plan = decide(facts(downloads={NAME: DownloaderStatus(State=SwState.DOWNLOADED, PendingModify=True)}))
    assert not (plan.app.StorageStatusList or ())[0].HasVerifierRef


def test_missing_certificates_are_named():
    image = disk_image(ImageSignature=b"s", SignatureKey="https://x/signer.pem", CertificateChain=("http://x/ca.pem",))
    config = app_config(StorageConfigList=(image,))
    downloaded = {NAME: DownloaderStatus(State=SwState.DOWNLOADED)}
    plan = decide(
        facts(config, downloads=downloaded, certificates=frozenset(["ca.pem"]), certificates_error="no route")
    )
    assert "signer.pem: no route" in plan.app.Error
    assert "ca.pem" not in plan.app.Error
    assert (plan.app.ErrorSource, plan.app.ErrorTime) == ("CertObjStatus", T0)
    assert not (plan.app.StorageStatusList or ())[0].HasVerifierRef
    assert phase(plan.app, config) == Phase.WAITING_FOR_CERTIFICATES
    there = decide(facts(config, downloads=downloaded, certificates=frozenset(["ca.pem", "signer.pem"])))
    assert (there.app.StorageStatusList or ())[0].HasVerifierRef
    assert there.app.Error == ""


def test_an_image_verified_before_is_not_fetched_again():
    (image,) = decide(verified()).app.StorageStatusList or ()
    assert (image.HasDownloaderRef, image.HasVerifierRef, image.State) == (False, True, SwState.DELIVERED)


def test_an_image_found_after_a_reboot_is_waited_for_not_fetched():
    found = VerifyImageStatus(ImageSha256=SHA1, State=SwState.DOWNLOADED)
    (image,) = decide(facts(verifications={NAME: found})).app.StorageStatusList or ()
    assert (image.HasDownloaderRef, image.HasVerifierRef, image.State) == (False, True, SwState.DOWNLOADED)


def test_content_verified_under_another_name_is_taken():
    config = app_config(StorageConfigList=(disk_image("images/disk.img", SHA1.upper()),))
    (image,) = decide(verified(config)).app.StorageStatusList or ()
    assert (image.HasDownloaderRef, image.HasVerifierRef, image.State) == (False, True, SwState.DELIVERED)


def test_a_signed_image_takes_no_verification_of_another_name():
    image = disk_image("other.img", ImageSignature=b"s", SignatureKey="k.pem")
    (status,) = decide(verified(app_config(StorageConfigList=(image,)))).app.StorageStatusList or ()
    assert (status.HasDownloaderRef, status.HasVerifierRef) == (True, False)


def test_a_signed_image_found_after_a_reboot_counts_when_the_verifier_has_seen_who_asks():
    config = app_config(StorageConfigList=(disk_image(ImageSignature=b"s", SignatureKey="k.pem"),))
    ours = {NAME: VerifyImageConfig(RefCount=1, ImageSignature=b"s", SignatureKey="k.pem")}
    unseen = replace(GOOD, RefCount=0)
    assert decide(facts(config, verifications={NAME: GOOD})).app.State == SwState.DOWNLOADED
    assert decide(facts(config, verifications={NAME: unseen}, verify_configs=ours)).app.State == SwState.DOWNLOADED
    assert decide(facts(config, verifications={NAME: GOOD}, verify_configs=ours)).app.State == SwState.DELIVERED


def test_a_signature_that_is_mended_is_checked_anew():
    world = World(1, a=app_config(StorageConfigList=(disk_image(**ASKED["bad"]),)))
    world.certificates = frozenset(["k.pem"])
    assert "bad signature" in world.settle().status().Error
    change(world, StorageConfigList=(disk_image(**ASKED["good"]),)).settle()
    assert (world.status().State, world.status().Error, world.fetches) == (SwState.RUNNING, "", {NAME: 1})


def test_a_verification_on_its_way_out_is_not_built_on():
    expired = replace(GOOD, Expired=True)
    downloaded = {NAME: DownloaderStatus(State=SwState.DOWNLOADED)}
    (image,) = decide(facts(verifications={NAME: expired}, downloads=downloaded)).app.StorageStatusList or ()
    assert not image.HasVerifierRef
    ours = {NAME: VerifyImageConfig(RefCount=1)}
    kept = decide(facts(verifications={NAME: expired}, downloads=downloaded, verify_configs=ours))
    assert (kept.app.StorageStatusList or ())[0].HasVerifierRef


def test_other_verifier_errors_stay_visible():
    bad = VerifyImageStatus(ImageSha256=SHA1, State=SwState.DOWNLOADED, LastErr="bad signature", LastErrTime=T1)
    plan = decide(facts(verifications={NAME: bad}))
    assert (plan.app.Error, plan.app.ErrorSource, plan.app.ErrorTime) == (
        "verifier: bad signature", "VerifyImageStatus", T1,
    )  # fmt: skip


def test_the_same_image_twice_in_one_app_is_two_uses_and_two_disks():
    world = World(3, a=app_config(StorageConfigList=(disk_image(), disk_image(ReadOnly=True)))).settle()
    assert world.status().State == SwState.RUNNING
    assert world.tables["download_config"][NAME].RefCount == 2
    assert world.fetches == {NAME: 1}
    assert [image.Vdev for image in world.status().StorageStatusList or ()] == ["xvda", "xvdb"]


def test_an_app_without_images_waits_for_none():
    assert World(0, a=app_config(StorageConfigList=())).settle().status().State == SwState.RUNNING


def test_an_image_name_that_is_too_long_for_a_file_is_an_error():
    plan = decide(facts(app_config(StorageConfigList=(disk_image("x" * 300),))))
    assert "x" * 300 in plan.app.Error
    assert plan.app.ErrorSource == "StorageConfig"
    assert not (plan.app.StorageStatusList or ())[0].HasDownloaderRef


# ---- wrong content


@pytest.mark.parametrize("seed", range(10))
def test_wrong_content_is_fetched_again_until_it_is_right(seed):
    world = World(seed, a=app_config())
    world.wrong_content[NAME] = MAX_ATTEMPTS - 1
    world.settle()
    assert (world.status().State, world.status().Error) == (SwState.RUNNING, "")
    assert world.fetches == {NAME: MAX_ATTEMPTS}
    assert world.tables["retry"] == {}
    said = [status.Error for status in world.history]
    first = next(i for i, error in enumerate(said) if "attempt 2 of 3" in error)
    right = said.index("", first)  # said without a gap until the content is right, and never after
    assert "attempt 3 of 3" in said[right - 1]
    assert not any(said[right:])


def test_content_that_stays_wrong_is_given_up_and_said():
    world = World(1, a=app_config(), b=app_config(B))
    world.wrong_content[NAME] = 99
    world.settle()
    assert world.fetches == {NAME: MAX_ATTEMPTS}
    for app in (A, B):
        assert "sha256 mismatch" in world.status(app).Error
        assert "gave up after attempt 3 of 3" in world.status(app).Error
    assert world.tables["retry"][NAME].State == RetryState.GAVE_UP


def test_redeploying_after_giving_up_begins_anew():
    world = World(1, a=app_config())
    world.wrong_content[NAME] = MAX_ATTEMPTS
    world.settle()
    world.tables["config"].clear()
    world.settle()
    assert world.summary() == {}
    world.tables["config"][A] = app_config()
    assert world.settle().status().State == SwState.RUNNING


def test_other_apps_are_not_held_up_by_wrong_content():
    world = World(2, a=app_config(), b=app_config(B, StorageConfigList=(disk_image("new.img", SHA2),)))
    world.wrong_content[NAME] = 99
    assert world.settle().status(B).State == SwState.RUNNING


# ---- do_prepare


def test_the_network_is_asked_for_after_the_images_and_before_the_domain():
    plan = decide(verified())
    assert plan.wants.network is not None
    assert plan.wants.network.Activate
    assert plan.wants.domain is None
    assert phase(plan.app, app_config()) == Phase.WAITING_FOR_NETWORK


def test_an_inactive_app_does_not_wait_for_its_network():
    plan = decide(verified(app_config(Activate=False)))
    assert plan.wants.network is not None
    assert not plan.wants.network.Activate
    assert plan.wants.domain is not None
    assert not plan.wants.domain.Activate
    assert plan.app.State == SwState.INSTALLED


def test_eids_come_before_the_network():
    config = app_config(OverlayNetworkList=(overlay(),))
    plan = decide(verified(config))
    assert list(plan.wants.eids) == [eid_of(A)]
    assert plan.wants.eids[eid_of(A)].Allocate
    assert plan.wants.network is None
    assert phase(plan.app, config) == Phase.WAITING_FOR_EID
    there = decide(verified(config, eids={eid_of(A): EIDStatus(EID="fd00::5", LispSignature="sig")}))
    assert there.wants.network is not None
    (over,) = there.wants.network.OverlayNetworkList or ()
    assert (over.EID, over.LispSignature, over.AppIPAddr) == ("fd00::5", "sig", "fd00::5")
    assert [eid.EID for eid in there.app.EIDList or ()] == ["fd00::5"]


@pytest.mark.parametrize("status", [EIDStatus(), EIDStatus(EID="fd00::5", PendingAdd=True)])
def test_an_eid_is_waited_for_until_it_is_there(status):
    config = app_config(OverlayNetworkList=(overlay(),))
    assert decide(verified(config, eids={eid_of(A): status})).wants.network is None


def test_what_is_wrong_with_an_eid_is_said():
    config = app_config(OverlayNetworkList=(overlay(),))
    error = EIDError(Error="bad PEM", ErrorTime=T1)
    plan = decide(verified(config, eid_errors={eid_of(A): error}))
    assert "bad PEM" in plan.app.Error
    assert (plan.app.ErrorSource, plan.app.ErrorTime) == ("EIDStatus", T1)


def test_an_app_too_large_for_the_disk_is_refused_with_the_figures():
    space = DiskSpace(total_bytes=10_000, reserved_percent=20, others=(("web", 7500),))
    plan = decide(verified(disk=space))
    assert plan.app.ErrorSource == "CheckDiskSize"
    assert plan.app.ErrorTime == T0
    for figure in ("1000 bytes needed", "500 free", "10000 in all", "2000 reserved", "web 7500"):
        assert figure in plan.app.Error
    assert plan.wants.network is None
    assert phase(plan.app, app_config()) == Phase.WAITING_FOR_SPACE
    assert decide(verified(disk=replace(space, others=()))).wants.network is not None


@pytest.mark.parametrize("fields", [{"ReadOnly": True}, {"Format": "container"}])
def test_only_private_copies_need_room(fields):
    config = app_config(StorageConfigList=(msgspec.structs.replace(disk_image(), **fields),))
    assert decide(verified(config, disk=DiskSpace(total_bytes=1, reserved_percent=80))).wants.network is not None


def test_a_disk_may_grow_to_its_maximum():
    config = app_config(StorageConfigList=(disk_image(Maxsizebytes=9000),))
    assert decide(verified(config, disk=DiskSpace(total_bytes=10_000, reserved_percent=20))).wants.network is None


def test_an_image_of_unknown_size_is_said():
    gone = {SHA1: VerifiedImage(error="/v/1: No such file or directory")}
    plan = decide(verified(verified=gone, disk=DiskSpace(total_bytes=10**9, reserved_percent=20)))
    assert (plan.app.ErrorSource, plan.waiting is not None) == ("CheckDiskSize", True)
    assert "No such file" in plan.app.Error


def test_an_app_that_has_its_domain_is_not_stopped_by_a_full_disk():
    world = running()
    world.disk = DiskSpace(total_bytes=1, reserved_percent=80)
    assert world.settle().status().Error == ""


def test_network_errors_are_shown_and_hold_up_the_domain():
    plan = decide(verified(network=AppNetworkStatus(Activated=True, Error="no address", ErrorTime=T1)))
    assert (plan.app.Error, plan.app.ErrorSource, plan.app.ErrorTime) == ("no address", "AppNetworkStatus", T1)
    assert plan.wants.domain is None


def test_changed_acls_reach_zedrouter_without_a_restart():
    world = running()
    acl = UnderlayNetworkConfig(Name="eth0", Network=NET, ACLs=(ACE(RuleID=1),))
    change(world, UnderlayNetworkList=(acl,)).settle()
    assert world.tables["network_config"][A].UnderlayNetworkList[0].ACLs == (ACE(RuleID=1),)
    assert world.boots == [A]


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


# ---- bad configs


BAD: dict[str, dict[str, Any]] = {
    "parse errors": {"Errors": ("unknown network", "bad MAC")},
    "no memory": {"FixedResources": VmConfig(VCpus=1)},
    "no CPUs": {"FixedResources": VmConfig(Memory=1024)},
    "another UUID": {"UUIDandVersion": UUIDandVersion(UUID=B)},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_config_is_reported_and_not_acted_on_until_it_is_mended(what):
    world = World(0)
    world.tables["config"][A] = app_config(**BAD[what])
    world.tables["verify"][NAME] = GOOD  # whatever the others say
    world.tables["network"][A] = NETWORK_UP
    world.step_app(A)
    status = world.status()
    assert status.Error
    assert (status.ErrorSource, status.ErrorTime, status.State) == ("AppInstanceConfig", T0, SwState.INITIAL)
    assert phase(status, world.tables["config"][A]) == Phase.REFUSED
    assert not (world.tables["network_config"] or world.tables["domain_config"])
    assert not any(image.HasDownloaderRef or image.HasVerifierRef for image in status.StorageStatusList or ())
    world.tables["network"].clear()
    world.tables["config"][A] = app_config()
    world.settle()
    assert (world.status().State, world.status().Error) == (SwState.RUNNING, "")
    assert world.boots == [A]


def test_all_config_errors_are_told():
    plan = decide(facts(app_config(Errors=("one", "two"), FixedResources=VmConfig())))
    for text in ("one", "two", "memory", "CPU"):
        assert text in plan.app.Error


@pytest.mark.parametrize("what", [bad for bad in BAD if bad != "another UUID"])
def test_a_running_app_goes_on_under_a_bad_config(what):
    world = running()
    before = world.tables["domain_config"][A]
    change(world, **BAD[what]).settle()
    assert world.status().State == SwState.RUNNING
    assert world.status().ErrorSource == "AppInstanceConfig"
    assert world.tables["domain_config"][A] == before
    change(world, Errors=None, FixedResources=app_config().FixedResources).settle()
    assert (world.status().Error, world.boots) == ("", [A])


# ---- removal


def test_removal_takes_domain_then_network_then_eids_then_images():
    world = running(seed=11, OverlayNetworkList=(overlay(),))
    world.tables["config"].clear()
    gone = []
    for _ in range(3000):
        world.run(1)
        for table in ("domain", "network", "eid_config", "status"):
            if A not in {key[: len(A)] for key in world.tables[table]} and table not in gone:
                gone.append(table)
    assert gone == ["domain", "network", "eid_config", "status"]
    world.settle()
    assert world.summary() == {}


def test_the_purge_counter_is_forgotten_at_once():
    world = running()
    world.tables["config"].clear()
    world.step_app(A)
    assert world.tables["counter"] == {}
    assert world.tables["domain_config"] == {}
    assert phase(world.status(), None) == Phase.REMOVING


def test_no_app_is_removed_before_the_configs_were_read():
    world = running()
    world.tables["config"].clear()
    plan = decide(world.facts(A, config_known=False))
    assert (plan.status, plan.wants.domain) == (world.status(), world.tables["domain_config"][A])


def test_errors_of_domain_and_network_are_shown_while_removing():
    world = running()
    world.tables["config"].clear()
    stuck = replace(world.tables["domain"][A], LastErr="cannot halt", LastErrTime=T1)
    assert decide(world.facts(A, domain=stuck)).app.Error == "cannot halt"
    plan = decide(world.facts(A, domain=None, network=AppNetworkStatus(Error="rule stays", ErrorTime=T1)))
    assert (plan.app.Error, plan.app.ErrorSource) == ("rule stays", "AppNetworkStatus")


def test_configs_without_status_are_cleared_away_in_order():
    world = running()
    world.tables["config"].clear()
    del world.tables["status"][A]  # somebody removed the file
    world.settle()
    assert world.summary() == {}


def test_an_app_that_comes_back_while_it_is_removed_runs_again():
    world = running(seed=12)
    config = world.tables["config"].pop(A)
    world.run(4)
    world.tables["config"][A] = config
    assert world.settle().status().State == SwState.RUNNING


# ---- errors


def test_the_time_of_an_error_stands_while_it_is_the_same():
    first = decide(facts(downloads={NAME: DownloaderStatus(LastErr="404", LastErrTime=T1)}))
    later = "2026-01-02T00:00:00Z"
    download = DownloaderStatus(LastErr="404", LastErrTime=later)
    again = decide(facts(status=first.status, downloads={NAME: download}, now=later))
    assert again.app.ErrorTime == T1
    other = replace(download, LastErr="500")
    assert decide(facts(status=first.status, downloads={NAME: other}, now=later)).app.ErrorTime == later


def test_a_domain_error_is_not_wiped_by_an_earlier_stage():
    world = running()
    world.tables["domain"][A] = replace(world.tables["domain"][A], LastErr="no memory", LastErrTime=T1)
    world.tables["verify"].clear()
    world.step_app(A)
    assert world.status().Error == "no memory"


def test_an_old_error_is_not_shown_while_the_domain_is_brought_down():
    world = running()
    world.tables["domain"][A] = replace(
        world.tables["domain"][A], LastErr="boot failed", State=SwState.HALTED, Activated=False
    )
    change(world, RestartCmd=counter(1))
    world.step_app(A)
    assert world.status().Error == ""


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({}, "DownloaderStatus"),
        ({"downloads": {NAME: DownloaderStatus(State=SwState.DOWNLOADED)}}, "VerifyImageStatus"),
        ({"verifications": {NAME: GOOD}}, "AppNetworkStatus"),
        ({"verifications": {NAME: GOOD}, "verified": FOUND, "network": NETWORK_UP}, "DomainStatus"),
    ],
)
def test_an_agent_that_does_not_answer_is_named(fields, source):
    assert decide(facts(**fields)).app.Error == ""
    plan = decide(facts(**fields, overdue=True))
    assert (plan.app.ErrorSource, plan.app.ErrorTime) == (source, T0)
    assert "no answer yet" in plan.app.Error


# ---- the whole space


CONFIGS: dict[str, AppInstanceConfig | None] = {
    "gone": None,
    "plain": app_config(),
    "inactive": app_config(Activate=False),
    "restart": app_config(RestartCmd=counter(1)),
    "purge": app_config(PurgeCmd=counter(1)),
    "resources": app_config(FixedResources=VmConfig(Memory=2048, VCpus=2)),
    "other image": app_config(StorageConfigList=(disk_image("new.img", SHA2),)),
    "twice": app_config(StorageConfigList=(disk_image(), disk_image())),
    "renamed image": app_config(StorageConfigList=(disk_image("renamed.img"),)),
    "overlay": app_config(OverlayNetworkList=(overlay(),)),
    "no network": app_config(UnderlayNetworkList=(), Activate=False, PurgeCmd=counter(2)),
    "bad": app_config(FixedResources=VmConfig()),
}


def settled_as_asked(world: World, config: AppInstanceConfig | None, *, running_before: bool = False) -> None:
    if config is None:
        assert world.summary() == {}
        return
    status = world.status()
    if config is CONFIGS["bad"]:
        assert status.ErrorSource == "AppInstanceConfig"
        return
    assert (status.Error, status.ErrorSource) == ("", "")
    assert (status.RestartInprogress, status.PurgeInprogress) == (Inprogress.NONE, Inprogress.NONE)
    assert status.State in ((SwState.RUNNING,) if config.Activate else (SwState.INSTALLED, SwState.HALTED))
    assert status.Activated == config.Activate
    assert not purge_reasons(status, config)
    assert not restart_reasons(status, config)
    domain = world.tables["domain_config"][A]
    assert domain.Memory == config.FixedResources.Memory
    assert [d.ImageSha256 for d in domain.DiskConfigList] == [i.ImageSha256 for i in config.StorageConfigList or ()]
    assert world.tables["network_config"][A].Activate == config.Activate


@pytest.mark.parametrize(("first", "second"), list(itertools.product([c for c in CONFIGS if c != "gone"], CONFIGS)))
def test_from_any_checkpoint_to_any_config(first, second):
    """Whatever zedmanager was doing when it died, and whatever the config became meanwhile."""
    for seed in range(2):
        world = World(seed, a=CONFIGS[first] or app_config())
        world.run(world.random.randrange(120))
        world = world.copy(seed + 100)
        if CONFIGS[second] is None:
            world.tables["config"].clear()
        else:
            world.tables["config"][A] = CONFIGS[second]
        world.settle()
        settled_as_asked(world, CONFIGS[second])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_killed_between_any_two_writes(data):
    """zedmanager dies again and again, always before some write, while configs come and go."""
    seed = data.draw(st.integers(0, 10**6), label="seed")
    names = data.draw(st.lists(st.sampled_from(sorted(CONFIGS)), min_size=1, max_size=4), label="configs")
    world = World(seed)
    for name in names:
        world.tables["config"].pop(A, None)
        if CONFIGS[name] is not None:
            world.tables["config"][A] = CONFIGS[name]
        for _ in range(data.draw(st.integers(0, 3), label="kills")):
            world.kill_after = data.draw(st.integers(0, 4), label="writes before the kill")
            with contextlib.suppress(Killed):
                world.run(60)
            world.kill_after = None
    world.settle()
    settled_as_asked(world, CONFIGS[names[-1]])
    assert all(count <= 1 + len(names) for count in world.fetches.values())


@pytest.mark.parametrize("seed", range(6))
def test_apps_that_share_an_image_share_its_fetch_and_leave_one_by_one(seed):
    world = World(seed, a=app_config(), b=app_config(B)).settle()
    assert world.fetches == {NAME: 1}
    assert world.tables["download_config"][NAME].RefCount in (1, 2)  # the second may find it verified already
    assert world.tables["verify_config"][NAME].RefCount == 2
    del world.tables["config"][A]
    world.settle()
    assert world.tables["verify_config"][NAME].RefCount == 1
    assert world.status(B).State == SwState.RUNNING
    del world.tables["config"][B]
    assert world.settle().summary() == {}


def test_a_download_keeps_its_source_when_the_app_that_asked_first_leaves():
    one, two = (
        StorageStatus(Name="disk.img", ImageSha256=SHA1, ImageID=image, DatastoreID=A, Size=9, HasDownloaderRef=True)
        for image in (A, B)
    )
    alone = downloader_config(NAME, [one], None, None, allow_non_free=True)
    both = downloader_config(NAME, [one, two], alone, None, allow_non_free=True)
    assert (alone, both) == (replace(both, RefCount=1), replace(alone, RefCount=2))
    assert downloader_config(NAME, [two], both, None, allow_non_free=True) == alone
    elsewhere = downloader_config(NAME, [replace(two, DatastoreID=B)], both, None, allow_non_free=True)
    assert elsewhere == replace(alone, DatastoreID=B, ImageID=B)


SIGNED = {"SignatureKey": "k.pem"}
ASKED: dict[str, dict[str, Any]] = {
    "unsigned": {},
    "good": {"ImageSignature": b"good", **SIGNED},
    "bad": {"ImageSignature": b"bad", **SIGNED},
    "absent": SIGNED,
}


@pytest.mark.parametrize("other", ["unsigned", "good"])
@pytest.mark.parametrize("bad", ["bad", "absent"])
@pytest.mark.parametrize("seed", range(8))
def test_a_bad_signature_neither_stops_other_apps_of_the_image_nor_passes_with_them(other, bad, seed):
    one, two = (app_config(key, StorageConfigList=(disk_image(**ASKED[what]),)) for key, what in ((A, other), (B, bad)))
    world = World(seed, a=one, b=two)
    world.certificates = frozenset(["k.pem"])
    world.settle()
    assert (world.status(A).State, world.status(A).Error) == (SwState.RUNNING, "")
    assert world.status(B).State == SwState.DOWNLOADED
    assert "bad signature" in world.status(B).Error
    assert world.fetches == {NAME: 1}
    world.tables["config"].clear()
    assert world.settle().summary() == {}


@pytest.mark.parametrize("dead", ["downloader", "verifier", "identitymanager", "zedrouter", "domainmgr"])
@pytest.mark.parametrize("second", ["gone", "inactive", "other image", "overlay"])
def test_an_agent_that_is_dead_for_a_while_only_delays(dead, second):
    world = World(3, a=app_config(OverlayNetworkList=(overlay(),)))
    world.settle(without=(dead,))
    if CONFIGS[second] is None:
        world.tables["config"].clear()
    else:
        world.tables["config"][A] = CONFIGS[second]
    world.settle(without=(dead,))
    world.settle()
    settled_as_asked(world, CONFIGS[second])


STATUSES = [
    None,
    AppInstanceStatus(UUIDandVersion=UUIDandVersion(UUID=A)),
    *(
        AppInstanceStatus(
            UUIDandVersion=UUIDandVersion(UUID=A), State=state, RestartInprogress=restart, PurgeInprogress=purge
        )
        for state in (SwState.INITIAL, SwState.RUNNING, SwState(200))
        for restart in (Inprogress.NONE, Inprogress.BRING_DOWN, Inprogress(77))
        for purge in (Inprogress.NONE, Inprogress.DOWNLOAD, Inprogress.BRING_DOWN, Inprogress.BRING_UP)
    ),
]
DOMAINS = [
    None,
    DomainStatus(),
    DomainStatus(State=SwState.INSTALLED, PendingAdd=True),
    DomainStatus(State=SwState.RUNNING, Activated=True),
    DomainStatus(State=SwState.HALTING, Activated=True, LastErr="cannot"),
    DomainStatus(State=SwState.HALTED, LastErr="ended"),
    DomainStatus(State=SwState.RUNNING, Activated=True, PendingDelete=True),
]
NETWORKS = [None, AppNetworkStatus(), NETWORK_UP, AppNetworkStatus(PendingModify=True), AppNetworkStatus(Error="x")]
VERIFICATIONS = [None, GOOD, replace(GOOD, Expired=True), replace(GOOD, State=SwState.DOWNLOADED, LastErr="x")]
PUBLISHED = [
    Published(),
    Published(
        network=AppNetworkConfig(Activate=True),
        domain=DomainConfig(Activate=True, VifList=(VifInfo(),)),
        purge_counter=9,
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_no_facts_whatever_make_a_decision_fail_or_waver(config):
    """The product of small domains of each fact: never raises, and deciding again changes nothing."""
    for status, domain, network, verification, published in itertools.product(
        STATUSES, DOMAINS, NETWORKS, VERIFICATIONS, PUBLISHED
    ):
        some = Facts(
            key=A,
            now=T0,
            config=CONFIGS[config],
            status=status,
            domain=domain,
            network=network,
            verifications={} if verification is None else {NAME: verification},
            verified=FOUND,
            published=published,
        )
        plan = decide(some)
        if plan.status is None:
            continue
        assert (plan.status.Error == "") == (plan.status.ErrorSource == "")
        assert (plan.status.Error == "") == (plan.status.ErrorTime == "0001-01-01T00:00:00Z")
        again = decide(replace(some, status=plan.status, published=plan.wants))
        assert again.status == plan.status
        assert again.wants == plan.wants


def test_every_state_and_every_phase_can_be_told():
    for state in SwState:
        phase(AppInstanceStatus(State=state), app_config())
    assert phase(None, None) is Phase.GONE
    assert phase(None, app_config()) is Phase.NEW
    assert set(LEGAL) - {None} <= set(SwState)
