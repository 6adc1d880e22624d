"""What runs below one root, asked of the kernel; works without a supervisor and changes nothing."""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

from pillar.agents import AGENTS
from pillar.bootid import boot_id
from pillar.locations import Locations
from pillar.pidfile import holder, locked
from pillar.pubsub import BadRecord, decode
from pillar.pubsub.names import LOCK
from pillar.supervisor.process import Process, adopt, start_ticks, uptime_s
from pillar.supervisor.record import SupervisorStatus

SUPERVISOR: Final = "pillar"  # its published name


class Row(NamedTuple):
    """One agent as it is now."""

    agent: str
    state: str  # of SupervisorStatus; "running" and "stopped" are checked against the kernel
    pid: int | None
    uptime_s: float | None
    restarts: int
    last_exit: str
    last_exit_time: str
    touch_age_s: float | None  # None: no touch file
    reason: str
    supervised: bool
    wanted: bool  # somebody asked for it: it is in the ledger, or it runs


def ledger(where: Locations) -> dict[str, SupervisorStatus]:
    """What the supervisor, dead or alive, published last, by agent. Unreadable records are left out."""
    directory = where.agent_dir(SUPERVISOR) / SupervisorStatus.__name__
    found: dict[str, SupervisorStatus] = {}
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return found
    for name in names:
        if name.startswith(".") or not name.endswith(".json"):
            continue
        try:
            found[name.removesuffix(".json")] = decode(SupervisorStatus, (directory / name).read_bytes())
        except (OSError, BadRecord):
            continue  # gone meanwhile, or somebody wrote there: the kernel is asked anyway
    return found


def find(where: Locations, agent: str, record: SupervisorStatus | None) -> Process | None:
    """Hold the live process of this agent, if there is one: never a stranger's.

    By the lock on its pid file, or, before it has one, by the pid and start time in the ledger.
    """
    pid = holder(where.pid(agent))
    if pid is not None:
        process = adopt(pid)
        if process is not None:
            if holder(where.pid(agent)) == pid:
                return process
            process.close()
    if record is not None and record.Pid and record.StartTicks and record.Boot == boot_id():
        return adopt(record.Pid, record.StartTicks)
    return None


def left_over(where: Locations) -> str:
    """For a person: what shows that a supervisor still lives here, though `find` may not know it; "" when none does.

    Its table's lock tells of one whose pid file was removed; a lock whose pid is not to be found here belongs to a
    process of another pid namespace (a container that shares the directory).
    """
    for path in (where.pid(SUPERVISOR), where.agent_dir(SUPERVISOR) / SupervisorStatus.__name__ / LOCK):
        if locked(path):
            pid = holder(path)
            return f"{path} is held by {f'process {pid}' if pid is not None else 'a process that is not to be seen'}"
    return ""


def survey(where: Locations) -> tuple[Row | None, list[Row]]:
    """The supervisor (None when it does not run) and every agent of the table or the ledger."""
    records = ledger(where)
    supervisor = _row(where, SUPERVISOR, None, supervised=False)
    supervised = supervisor.pid is not None
    names = [entry.name for entry in AGENTS]
    names += [name for name in records if name not in names]
    rows = [_row(where, name, records.get(name), supervised=supervised and name in records) for name in names]
    return (supervisor if supervised else None), rows


def _row(where: Locations, agent: str, record: SupervisorStatus | None, *, supervised: bool) -> Row:
    known = record if record is not None else SupervisorStatus(Agent=agent)
    process = find(where, agent, record)
    state: str = known.State
    if process is not None and (not supervised or state not in ("starting", "stopping")):
        state = "running"
    elif process is None and not (supervised and state in ("starting", "waiting")) and state != "failed":
        state = "stopped"
    pid = process.pid if process is not None else None
    ticks = start_ticks(pid) if pid is not None else None
    if process is not None:
        process.close()
    return Row(
        agent=agent,
        state=state,
        pid=pid,
        uptime_s=uptime_s(ticks) if ticks is not None else None,
        restarts=known.Restarts,
        last_exit=known.LastExit,
        last_exit_time=known.LastExitTime if known.LastExit else "",
        touch_age_s=_touch_age(where, agent),
        reason=known.Reason if state in ("waiting", "failed") else "",
        supervised=supervised and process is not None,
        wanted=record is not None or process is not None,
    )


def _touch_age(where: Locations, agent: str) -> float | None:
    try:
        return max(0.0, time.time() - where.touch(agent).stat().st_mtime)
    except OSError:
        return None
