"""Which port config is in force, which is tried next, and what the list says about each. Pure.

    settle   the list changed, or nim started     keep the config, or begin a round at a newer one nobody has tried
    judge    something was found out about it     it works, it fails, it is to be waited for
    retry    look for a better one than the one in force

    a round     the configs from the top, each once, until one works
                none works: the one that worked last is taken, else the first that had an address at all
    in force    checked now and then; the first failure is tolerated, the second begins a round

What was found out stands in the list (LastSucceeded, LastFailed, LastError), which is persistent; a Trial is the rest,
and a killed nim does without: it goes on at CurrentIndex.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import msgspec

from pillar.cmd.nim.portconfigs import same_wish
from pillar.types.globalconfig import GlobalConfig
from pillar.types.nim import DevicePortConfig, DevicePortConfigList
from pillar.types.scalars import Time, is_zero, parse_time

MAX_WAITS: Final = 5  # test durations without an address or a name server until a config has failed
MAX_MISSES: Final = 2  # failed checks in a row until the config in force is given up
REST_S: Final = 60  # a config that failed less than this ago is not tried again


class Word(Enum):
    """What is known about a config."""

    WORKS = "works"
    REMOTE = "remote"  # the controller was reached, and is not well: no fault of the ports
    WAITING = "waiting"  # something that may come is not there yet
    FAILS = "fails"


@dataclass(frozen=True)
class Finding:
    """What is known now about the config of a Trial; `text` tells a person why it does not work."""

    word: Word
    text: str = ""
    had_address: bool = False  # some management port had an address to test with


@dataclass(frozen=True)
class Failed:
    """One config that failed in this round."""

    config: DevicePortConfig
    had_address: bool


@dataclass(frozen=True)
class Trial:
    """Where nim is with the list. `config` is in force, or with `testing` it is not known yet whether it works."""

    config: DevicePortConfig | None = None
    testing: bool = False
    waits: int = 0  # test durations that passed in vain
    misses: int = 0  # of the config in force: failed checks in a row
    failed: tuple[Failed, ...] = ()  # in this round
    remote: bool = False  # of the config in force: the controller is there, but not well
    guess: bool = False  # nothing works: this one is only the best guess


def resume(configs: DevicePortConfigList) -> Trial:
    """Where the nim before this one was, in the same boot: a config that is not known to work was under test."""
    listed = configs.PortConfigList or ()
    if not 0 <= configs.CurrentIndex < len(listed):
        return Trial()
    config = listed[configs.CurrentIndex]
    return Trial(config, testing=parse_time(config.LastSucceeded) <= parse_time(config.LastFailed))


def settle(configs: DevicePortConfigList, trial: Trial, now: Time) -> Trial:
    """What to do with a list that may have changed: a newer config that nobody has tried yet is tried at once."""
    listed = configs.PortConfigList or ()
    here = position(configs, trial.config)
    newer = next((config for config in listed[: len(listed) if here is None else here] if untested(config)), None)
    if newer is not None:
        return Trial(newer, testing=True)
    if here is None:
        return _next(configs, Trial(), now)
    return replace(trial, config=listed[here])  # with the stamps and ports it has now


def judge(
    configs: DevicePortConfigList, trial: Trial, finding: Finding, now: Time, *, overdue: bool = False
) -> tuple[DevicePortConfigList, Trial]:
    """What follows from a finding. `overdue`: a whole test duration has passed since the last one that was.

    The list has CurrentIndex and the config's stamps as they are to be published, both at once.
    """
    config = trial.config
    if config is None:
        return configs, trial
    match finding.word:
        case Word.WORKS:
            configs = _stamp(configs, config, LastSucceeded=now, LastError="")
            trial = Trial(config)
        case Word.REMOTE:
            configs = _stamp(configs, config, LastError=finding.text)
            trial = Trial(config, remote=True)
        case Word.WAITING if not overdue or (trial.testing and trial.waits + 1 < MAX_WAITS):
            trial = replace(trial, waits=trial.waits + overdue)
        case _ if not trial.testing and trial.misses + 1 < MAX_MISSES:
            trial = replace(trial, misses=trial.misses + 1, remote=False)
        case _:
            configs = _stamp(configs, config, LastFailed=now, LastError=finding.text)
            failed = (*trial.failed, Failed(config, finding.had_address))
            trial = _next(configs, replace(trial, failed=failed), now)
    trial = settle(configs, trial, now)
    return msgspec.structs.replace(configs, CurrentIndex=index_of(configs, trial)), trial


def retry(configs: DevicePortConfigList, trial: Trial, now: Time, *, at_once: bool = False) -> Trial:
    """Begin a round at the top, if there is a better config to try; `at_once` also tries one that has just failed."""
    here = position(configs, trial.config)
    for config in (configs.PortConfigList or ())[:here]:
        if at_once or not _resting(config, now):
            return Trial(config, testing=True)
    return trial


def patience_s(trial: Trial, settings: GlobalConfig) -> float:
    """Seconds until the next look at the trial's config, if nothing happens before."""
    if trial.testing or trial.remote or (trial.misses and not trial.guess):
        return float(settings.NetworkTestDuration)
    return float(settings.NetworkTestInterval)


def position(configs: DevicePortConfigList, wanted: DevicePortConfig | None) -> int | None:
    """Where this config stands in the list, None when it does not."""
    if wanted is None:
        return None
    listed = configs.PortConfigList or ()
    return next((index for index, config in enumerate(listed) if same_wish(config, wanted)), None)


def index_of(configs: DevicePortConfigList, trial: Trial) -> int:
    """CurrentIndex: the position of the trial's config, -1 for none."""
    found = position(configs, trial.config)
    return -1 if found is None else found


def untested(config: DevicePortConfig) -> bool:
    """Nobody has found out yet whether it works."""
    return is_zero(config.LastFailed) and is_zero(config.LastSucceeded) and not config.LastError


def _next(configs: DevicePortConfigList, trial: Trial, now: Time) -> Trial:
    """The next config of the round, or what to do when there is none left."""
    listed = configs.PortConfigList or ()
    tried = {index for failed in trial.failed if (index := position(configs, failed.config)) is not None}
    for index, config in enumerate(listed):
        if index not in tried and not _resting(config, now):
            return Trial(config, testing=True, failed=trial.failed)
    if not listed:
        return Trial()
    # What worked last is the best guess; it is known to fail, so one more miss begins a round.
    guess = Trial(misses=MAX_MISSES - 1, guess=True)
    worked = [config for config in listed if not is_zero(config.LastSucceeded)]
    if worked:
        return replace(guess, config=max(worked, key=lambda config: parse_time(config.LastSucceeded)))
    addressed = [failed.config for failed in trial.failed if failed.had_address]
    best = next((config for config in listed if any(same_wish(config, other) for other in addressed)), listed[0])
    return replace(guess, config=best)


def _resting(config: DevicePortConfig, now: Time) -> bool:
    """It failed a moment ago (a time that lies ahead of a clock that was set back does not count)."""
    if is_zero(config.LastFailed):
        return False
    age = parse_time(now) - parse_time(config.LastFailed)
    return datetime.timedelta(0) <= age < datetime.timedelta(seconds=REST_S)


def _stamp(configs: DevicePortConfigList, tested: DevicePortConfig, **stamps: str) -> DevicePortConfigList:
    listed = tuple(
        msgspec.structs.replace(config, **stamps) if same_wish(config, tested) else config
        for config in configs.PortConfigList or ()
    )
    return msgspec.structs.replace(configs, PortConfigList=listed)
