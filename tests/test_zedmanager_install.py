"""zedmanager: fetching, verifying and the wrong content; then EIDs, disk check and network."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace
from zedmanager_cases import ASKED, GOOD, NAME, change, facts, running, verified
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
    disk_image,
    eid_of,
    overlay,
)

from pillar.cmd.zedmanager.decide import decide
from pillar.cmd.zedmanager.facts import DiskSpace, Published, VerifiedImage
from pillar.cmd.zedmanager.phase import Phase, phase
from pillar.cmd.zedmanager.refetch import MAX_ATTEMPTS, RetryState
from pillar.types.downloader import DownloaderStatus
from pillar.types.eid import EIDStatus
from pillar.types.eid_error import EIDError
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedrouter import ACE, AppNetworkStatus, UnderlayNetworkConfig

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
