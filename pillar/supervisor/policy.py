"""When a dead agent is started again. Pure: seconds of the monotonic clock go in, a decision comes out."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """How patient the supervisor is; seconds where not said otherwise."""

    first_wait_s: float = 0.1
    longest_wait_s: float = 30.0
    stable_s: float = 10.0  # an agent that ran for so long is waited for as if it had never died
    restarts: int = 10  # so many within the window, and it has failed
    window_s: float = 120.0
    stale_s: float = 60.0  # the touch file did not change for so long (agents touch it every 5 s)
    grace_s: float = 10.0  # between TERM and KILL


class History(NamedTuple):
    """What is remembered of an agent's deaths."""

    deaths: tuple[float, ...] = ()  # when, within the window
    streak: int = 0  # deaths in a row, each after less than stable_s


class Decision(NamedTuple):
    """Start it again in `wait_s`, or None: it has failed, for this reason."""

    wait_s: float | None
    reason: str
    history: History


def after_death(history: History, now: float, ran_s: float, limits: Limits) -> Decision:
    """An agent died at `now` after `ran_s`; what next?"""
    deaths = (*(death for death in history.deaths if now - death < limits.window_s), now)
    streak = 1 if ran_s >= limits.stable_s else history.streak + 1
    remembered = History(deaths, streak)
    if len(deaths) > limits.restarts:
        reason = f"died {len(deaths)} times in {now - deaths[0]:.0f} s, not started again"
        return Decision(None, reason, remembered)
    # Not 2 ** streak, which overflows a float one day.
    wait_s = min(limits.first_wait_s * 2.0 ** min(streak - 1, 60), limits.longest_wait_s)
    return Decision(wait_s, f"started again in {wait_s:.1f} s", remembered)
