"""One EID's next move, from its configuration, its published status and the facts. Pure."""

from dataclasses import dataclass

import msgspec

from pillar.types.eid import EIDConfig, EIDStatus
from pillar.types.eid_error import EIDError
from pillar.types.scalars import Time

DEFAULT_PREFIX = b"\xfd"


@dataclass(frozen=True)
class Made:
    """How the work ended: the complete status, or why there is none."""

    config: EIDConfig  # what it was made from
    status: EIDStatus | None = None
    error: str = ""
    lasting: bool = False  # nothing but another configuration can help


@dataclass(frozen=True)
class Facts:
    now: Time
    synchronized: bool = True  # the table of configurations is complete
    busy: bool = False
    made: Made | None = None
    retry_due: bool = False


@dataclass(frozen=True)
class Decision:
    """What to publish (None: unpublish), whether to make the identity, whether to forget the stored one."""

    status: EIDStatus | None
    error: EIDError | None = None
    make: bool = False
    forget: bool = False
    retry: bool = False  # look again later although nothing happens: an error of the machine passes


def step(config: EIDConfig | None, status: EIDStatus | None, error: EIDError | None, facts: Facts) -> Decision:
    """Decide one EID's next move."""
    if config is None:
        if not facts.synchronized or facts.busy:
            return Decision(status, error)
        return Decision(None, forget=status is not None or facts.made is not None)
    if status is None:
        return Decision(pending(config), make=not facts.busy)
    if facts.busy:
        return Decision(status, error)
    if facts.made is not None and facts.made.config == config:
        return do_made(config, status, error, facts.made, facts.now)
    if facts.made is not None or (error is not None and error.UUIDandVersion != config.UUIDandVersion):
        return Decision(status if not status.PendingAdd else pending(config), make=True)  # the configuration moved on
    if status.PendingAdd:
        if error is None or facts.retry_due:
            return Decision(status, error, make=True)
        return Decision(status, error, retry=True)
    return do_modify(config, status, error, facts)


def do_made(config: EIDConfig, status: EIDStatus, error: EIDError | None, made: Made, now: Time) -> Decision:
    """Take over what the work brought."""
    if made.status is not None:
        return Decision(made.status)
    since = error.ErrorTime if error is not None and error.Error == made.error else now
    new = EIDError(
        UUIDandVersion=config.UUIDandVersion,
        DisplayName=config.DisplayName,
        IID=config.IID,
        Error=made.error,
        ErrorTime=since,
    )
    return Decision(status, new, retry=not made.lasting)


def do_modify(config: EIDConfig, status: EIDStatus, error: EIDError | None, facts: Facts) -> Decision:
    """The identity is there. What was supplied may change; what was allocated stays as long as its EIDConfig."""
    if not config.Allocate and not status.Allocate:
        wanted = (config.EID, config.LispSignature, config.PemCert)
        if wanted != (status.EID, status.LispSignature, status.PemCert):
            return Decision(status, error, make=error is None or facts.retry_due)
    elif config.Allocate != status.Allocate or prefix_of(config) != status.AllocationPrefix:
        text = "the allocation of an existing EID cannot change; the app keeps its EID until it is purged"
        since = error.ErrorTime if error is not None and error.Error == text else facts.now
        return Decision(
            status,
            EIDError(
                UUIDandVersion=config.UUIDandVersion,
                DisplayName=config.DisplayName,
                IID=config.IID,
                Error=text,
                ErrorTime=since,
            ),
        )
    if config.ExportPrivate != status.ExportPrivate:
        return Decision(
            status, error, make=error is None or facts.retry_due
        )  # the stored identity with or without its key
    return Decision(
        msgspec.structs.replace(status, UUIDandVersion=config.UUIDandVersion, DisplayName=config.DisplayName)
    )


def prefix_of(config: EIDConfig) -> bytes:
    """The allocation prefix with its default, fd::/8."""
    return config.AllocationPrefix or DEFAULT_PREFIX


def pending(config: EIDConfig) -> EIDStatus:
    """The status before anything was made: what the configuration gives, PendingAdd."""
    return EIDStatus(
        UUIDandVersion=config.UUIDandVersion,
        DisplayName=config.DisplayName,
        IID=config.IID,
        Allocate=config.Allocate,
        ExportPrivate=config.ExportPrivate,
        AllocationPrefix=prefix_of(config),
        AllocationPrefixLen=config.AllocationPrefixLen if config.AllocationPrefix else 8 * len(DEFAULT_PREFIX),
        PendingAdd=True,
        EID=config.EID,
        LispSignature=config.LispSignature,
        PemCert=config.PemCert,
    )
