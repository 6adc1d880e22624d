"""zedmanager: bad configs, removal, errors, and every way from any state to any config."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from zedmanager_cases import ASKED, FOUND, GOOD, NAME, NETWORK_UP, change, facts, running
from zedmanager_world import (
    LEGAL,
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
    overlay,
)

from pillar.cmd.zedmanager.changes import purge_reasons, restart_reasons
from pillar.cmd.zedmanager.decide import decide
from pillar.cmd.zedmanager.facts import Facts, Published
from pillar.cmd.zedmanager.phase import Phase, phase
from pillar.cmd.zedmanager.references import downloader_config
from pillar.types.common import UUIDandVersion, VmConfig
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import Inprogress, SwState
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageStatus
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus, VifInfo

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
