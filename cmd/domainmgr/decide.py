"""One domain's next move, from its configuration, its published status and the facts. Pure: no disk, no clock, no log.

    (nothing) -> INSTALLED --activate--> BOOTING -> RUNNING --inactivate--> HALTING -> HALTED --activate--> BOOTING ...
                                            |          |
                                            |          +- it ended by itself -> HALTED with LastErr; an inactivate, or a
                                            |                                   change of the configuration, starts over
                                            +- three failed tries -> HALTED with BootFailed, again after the retry time

The status that `step` returns is published before the work it returns is started; every piece of work can be
repeated. So whatever is in the status without work in flight (BOOTING, HALTING, a Pending flag) is work that a
killed domainmgr did not finish, and the same arm that first asked for it asks for it again.
"""

from dataclasses import dataclass, replace
from enum import Enum

import msgspec

from pillar.cmd.domainmgr.disks import are_located, same_disks, wanted_disks
from pillar.hypervisors import DomainInfo, Phase
from pillar.types.domainmgr import DiskStatus, DomainConfig, DomainStatus
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME, Time

MAX_TRIES = 3
TRY_INTERVAL_S = 1.0  # EVE waits 5 s; a program that cannot start says so at once
LOOK_AGAIN_S = 0.05  # while the launcher of a killed domainmgr is on its way
STOP_RETRY_S = 10.0
NOTHING_RUNS = DomainInfo(Phase.GONE)


class Kind(Enum):
    """The work there is. All of it is safe to repeat."""

    PREPARE = "prepare"  # find the images, make the copies that are preserved
    BOOT = "boot"  # make the other copies, run
    HALT = "halt"  # stop, delete the copies that are not preserved
    SWEEP = "sweep"  # end what a domain left behind that ended by itself
    REMOVE = "remove"  # stop, delete everything


@dataclass(frozen=True)
class Work:
    kind: Kind
    disks: tuple[DiskStatus, ...] = ()
    config: DomainConfig | None = None  # for PREPARE and BOOT


@dataclass(frozen=True)
class Done:
    """How a piece of work ended. Cancelled work counts as not done: nothing is said about it."""

    kind: Kind
    error: str = ""
    lasting: bool = False  # the error will be the same at the next try
    disks: tuple[DiskStatus, ...] = ()  # PREPARE: with their files
    domain_id: int = 0  # BOOT


@dataclass(frozen=True)
class Facts:
    now: Time
    domain: DomainInfo = NOTHING_RUNS
    synchronized: bool = True  # the table of configurations is complete: what is missing is gone
    busy: Kind | None = None  # work in flight for this domain
    done: Done | None = None  # work that ended since the last step
    changed: bool = False  # the configuration was modified since the last step that could act on it
    retry_due: bool = False  # the time that the last step asked for is over
    left_over: bool = False  # this domainmgr found something kept of it when it began, and has not ended that since
    expired: bool = False  # something is kept of a domain that nobody has mentioned for VdiskGCTime
    adapters_error: str = ""  # why the adapters it wants cannot be reserved
    holds_devices: bool = False  # adapters are still handed over for it
    boot_retry_s: float = 600.0


@dataclass(frozen=True)
class Decision:
    """What to publish (None: unpublish), what to start, and when to look again although nothing happens."""

    status: DomainStatus | None
    work: Work | None = None
    cancel: bool = False  # the work in flight is no longer wanted
    retry_s: float | None = None


def step(config: DomainConfig | None, status: DomainStatus | None, facts: Facts) -> Decision:
    """Decide one domain's next move. Of a domain that does not run, what an earlier domainmgr left is ended once.

    Most left-overs have work of their own that ends them too (a start, a stop); those of a domain that stopped by
    itself just before the kill, and those of one that nobody mentions any more, have none. Nor has a start that failed
    for good: the devices that were handed over for it go back.
    """
    decision = decided(config, status, facts)
    idle = decision.work is None and facts.busy is None and facts.domain.phase is Phase.GONE
    ended_badly = facts.done is not None and facts.done.error and facts.done.kind not in (Kind.PREPARE, Kind.BOOT)
    if idle and facts.holds_devices and ended_badly:
        return replace(decision, retry_s=STOP_RETRY_S)
    if idle and (facts.left_over or facts.holds_devices):
        disks = status.DiskStatusList if status is not None else None
        return replace(decision, work=Work(Kind.SWEEP, disks or ()))
    return decision


def decided(config: DomainConfig | None, status: DomainStatus | None, facts: Facts) -> Decision:
    """`step` without left-overs."""
    if config is None or (status is not None and status.PendingDelete):  # a removal that began is finished first
        return do_delete(status, facts)
    if facts.busy is not None:
        return Decision(status, cancel=facts.busy is Kind.BOOT and not config.Activate)
    if status is None:
        return do_create(config)
    status = do_done(status, facts)
    if facts.changed or status.UUIDandVersion != config.UUIDandVersion:
        status = do_modify(config, status, facts)
    if must_prepare(config, status, facts):
        return do_prepare(config, status, facts)
    status = do_adapters(config, status, facts)
    return do_activate(config, status, facts) if config.Activate else do_inactivate(status, facts)


def do_create(config: DomainConfig) -> Decision:
    """A domain nobody heard of: say that it is being prepared, then find its disks."""
    status = _described(
        DomainStatus(State=SwState.INSTALLED, PendingAdd=True, DiskStatusList=wanted_disks(config)), config
    )
    return Decision(status, Work(Kind.PREPARE, wanted_disks(config), config))


def do_done(status: DomainStatus, facts: Facts) -> DomainStatus:
    """Take over how the last work ended."""
    match facts.done:
        case Done(kind=Kind.PREPARE, error=""):
            return _clean(status, DiskStatusList=facts.done.disks, PendingAdd=False, PendingModify=False)
        case Done(kind=Kind.PREPARE):
            return _failed(status, facts, facts.done.error, PendingAdd=False, PendingModify=False)
        case Done(kind=Kind.BOOT, error=""):
            return _running(status, facts, facts.done.domain_id)
        case Done(kind=Kind.BOOT) if facts.done.lasting or status.TriedCount + 1 >= MAX_TRIES:
            tries = status.TriedCount + 1
            return _failed(
                status,
                facts,
                facts.done.error,
                State=SwState.HALTED,
                BootFailed=True,
                TriedCount=tries,
                Activated=False,
            )
        case Done(kind=Kind.BOOT):
            tries = status.TriedCount + 1
            return _failed(status, facts, f"try {tries} of {MAX_TRIES}: {facts.done.error}", TriedCount=tries)
        case Done(kind=Kind.HALT, error=""):
            return _clean(status, State=SwState.HALTED, Activated=False, DomainId=0)
        case Done(kind=Kind.HALT) | Done(kind=Kind.SWEEP) if facts.done.error:
            return _failed(status, facts, f"cannot stop the domain: {facts.done.error}")
        case _:
            return status


def do_modify(config: DomainConfig, status: DomainStatus, facts: Facts) -> DomainStatus:
    """A new configuration: a domain that runs only takes the version, another one starts over with it."""
    if facts.domain.phase is not Phase.GONE or status.Activated:
        return msgspec.structs.replace(status, UUIDandVersion=config.UUIDandVersion)
    status = _described(_clean(status), config)
    failed_before = not are_located(status.DiskStatusList or ())
    return msgspec.structs.replace(status, PendingModify=status.PendingModify or failed_before)


def must_prepare(config: DomainConfig, status: DomainStatus, facts: Facts) -> bool:
    """Whether the disks are not those that are wanted, which matters as soon as nothing runs from them."""
    if not are_located(status.DiskStatusList or ()):
        return True
    stopped = facts.domain.phase is Phase.GONE and not status.Activated
    return stopped and not same_disks(wanted_disks(config), status.DiskStatusList or ())


def do_prepare(config: DomainConfig, status: DomainStatus, facts: Facts) -> Decision:
    """Find the disks; after a failure again when the retry time is over."""
    wanted = wanted_disks(config)
    if not same_disks(wanted, status.DiskStatusList or ()):
        # It was never run from these disks: INSTALLED, so that a failure is not taken for a domain that stopped.
        status = msgspec.structs.replace(status, State=SwState.INSTALLED, DiskStatusList=wanted, PendingModify=True)
    if not (status.PendingAdd or status.PendingModify or facts.retry_due):
        return Decision(status, retry_s=facts.boot_retry_s)
    return Decision(status, Work(Kind.PREPARE, wanted, config))


def do_adapters(config: DomainConfig, status: DomainStatus, facts: Facts) -> DomainStatus:
    """Reserve the adapters that the domain wants; a running one keeps what it has."""
    wanted = config.IoAdapterList
    if facts.domain.phase is not Phase.GONE or (status.IoAdapterList == wanted and not status.AdaptersFailed):
        return status
    if facts.adapters_error:
        return _failed(status, facts, facts.adapters_error, AdaptersFailed=True, IoAdapterList=None)
    if status.AdaptersFailed:
        return _clean(status, IoAdapterList=wanted)
    return msgspec.structs.replace(status, IoAdapterList=wanted)


def do_activate(config: DomainConfig, status: DomainStatus, facts: Facts) -> Decision:
    """The domain should run."""
    if status.State == SwState.HALTING:  # a stop that was under way is finished, then it starts anew
        return _halt(status, facts)
    match facts.domain.phase:
        case Phase.RUNNING:
            return Decision(_running(status, facts, facts.domain.domain_id))
        case Phase.STARTING:
            return Decision(msgspec.structs.replace(status, State=SwState.BOOTING), retry_s=LOOK_AGAIN_S)
        case Phase.GONE if facts.domain.rebooted and status.Activated:
            return _boot(config, msgspec.structs.replace(status, Activated=False, DomainId=0))
        case Phase.GONE if status.Activated or status.State == SwState.RUNNING:
            ended = facts.domain.exit or "it is gone"
            halted = _failed(
                status,
                facts,
                f"the domain stopped by itself: {ended}",
                State=SwState.HALTED,
                Activated=False,
                DomainId=0,
            )
            return Decision(halted, Work(Kind.SWEEP, status.DiskStatusList or ()))
        case _ if status.AdaptersFailed:  # looked at again whenever the adapters change
            return Decision(status)
        case _ if status.BootFailed:
            return _boot(config, status) if facts.retry_due else Decision(status, retry_s=facts.boot_retry_s)
        case _ if status.State == SwState.BOOTING and status.TriedCount > 0 and not facts.retry_due:
            return Decision(status, retry_s=TRY_INTERVAL_S)
        case _ if status.State == SwState.HALTED and status.LastErr:
            return Decision(status)  # it stopped by itself, and nobody asked for more since
        case _:
            return _boot(config, status)


def do_inactivate(status: DomainStatus, facts: Facts) -> Decision:
    """The domain should not run."""
    gone = facts.domain.phase is Phase.GONE and not status.Activated
    if gone and status.State in (SwState.INSTALLED, 0):
        return Decision(status)
    if gone and status.State == SwState.HALTED and (status.AdaptersFailed or not status.LastErr):
        return Decision(status)
    return _halt(status, facts)


def do_delete(status: DomainStatus | None, facts: Facts) -> Decision:
    """The configuration is gone: stop, remove everything, then withdraw the status."""
    if facts.done is not None and facts.done.kind is Kind.REMOVE:
        if not facts.done.error:
            return Decision(None)
        failed = None if status is None else _failed(status, facts, f"cannot remove the domain: {facts.done.error}")
        return Decision(failed, retry_s=STOP_RETRY_S)
    if status is None:
        return do_leftovers(facts)
    if not status.PendingDelete and not facts.synchronized:
        return Decision(status)
    leaving = msgspec.structs.replace(status, PendingDelete=True, PendingAdd=False, PendingModify=False)
    if status.Activated:
        leaving = msgspec.structs.replace(leaving, State=SwState.HALTING)
    if status.PendingDelete and status.LastErr and facts.busy is None and not facts.retry_due:
        return Decision(leaving, retry_s=STOP_RETRY_S)  # the last removal failed
    leaving = msgspec.structs.replace(leaving, LastErr="", LastErrTime=ZERO_TIME)
    if facts.busy is not None:
        return Decision(leaving, cancel=facts.busy in (Kind.PREPARE, Kind.BOOT))
    return Decision(leaving, Work(Kind.REMOVE, status.DiskStatusList or ()))


def do_leftovers(facts: Facts) -> Decision:
    """Neither configuration nor status: what runs is stopped at once, what is stored is kept for a while.

    After a reboot the configurations come one by one, and an app must find the disks it wants preserved.
    """
    if not facts.synchronized or facts.busy is not None:
        return Decision(None)
    if facts.expired:
        return Decision(None, Work(Kind.REMOVE))
    return Decision(None, Work(Kind.HALT) if facts.domain.phase is not Phase.GONE else None)


def _boot(config: DomainConfig, status: DomainStatus) -> Decision:
    """Take the configuration as it is now, then run it. A try after a failed one keeps the count and the error."""
    again = status.State == SwState.BOOTING and status.TriedCount > 0
    fresh = status if again else _clean(status)
    booting = msgspec.structs.replace(_described(fresh, config), State=SwState.BOOTING)
    return Decision(booting, Work(Kind.BOOT, status.DiskStatusList or (), config))


def _halt(status: DomainStatus, facts: Facts) -> Decision:
    if status.State == SwState.HALTING and status.LastErr and not facts.retry_due:  # the last stop failed
        return Decision(status, retry_s=STOP_RETRY_S)
    return Decision(_clean(status, State=SwState.HALTING), Work(Kind.HALT, status.DiskStatusList or ()))


def _running(status: DomainStatus, facts: Facts, domain_id: int) -> DomainStatus:
    display = facts.domain.vnc_display or status.VncDisplay  # the configuration's 0 means: choose one
    same = status.DomainId == domain_id and status.VncDisplay == display
    if status.State == SwState.RUNNING and status.Activated and same and not status.BootFailed:
        return status
    boot_time = status.BootTime if status.DomainId == domain_id else facts.now
    return _clean(
        status, State=SwState.RUNNING, Activated=True, DomainId=domain_id, BootTime=boot_time, VncDisplay=display
    )


def _described(status: DomainStatus, config: DomainConfig) -> DomainStatus:
    """The status with everything that comes from the configuration as it is."""
    return msgspec.structs.replace(
        status,
        UUIDandVersion=config.UUIDandVersion,
        DisplayName=config.DisplayName,
        AppNum=config.AppNum,
        DomainName=f"{config.DisplayName}.{config.AppNum}",
        VifList=config.VifList,
        VirtualizationMode=config.VirtualizationMode,
        EnableVnc=config.EnableVnc,
        VncDisplay=config.VncDisplay,
        VncPasswd=config.VncPasswd,
        IsContainer=config.IsContainer,
        ContainerImageID=config.ContainerImageID,
    )


def _clean(status: DomainStatus, **fields: object) -> DomainStatus:
    """The status without any error, changed."""
    no_error: dict[str, object] = {
        "LastErr": "", "LastErrTime": ZERO_TIME, "BootFailed": False, "AdaptersFailed": False, "TriedCount": 0,
    }  # fmt: skip
    return msgspec.structs.replace(status, **(no_error | fields))


def _failed(status: DomainStatus, facts: Facts, error: str, **fields: object) -> DomainStatus:
    """The status with an error; the time is when this text first appeared."""
    since = status.LastErrTime if status.LastErr == error else facts.now
    return msgspec.structs.replace(status, LastErr=error, LastErrTime=since, **fields)
