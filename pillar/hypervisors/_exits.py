"""How the main processes of domains ended, as far as this process can know.

A parent is told by wait(2). A domain that an earlier domainmgr started is nobody's child here, but the kernel tells of
it whoever held its pidfd when it ended: in /proc as long as it is a zombie, through the pidfd once it has been reaped
(PIDFD_INFO_EXIT of linux/pidfd.h, since Linux 6.15; an older one no longer knows then).
"""

import fcntl
import os
import signal
import struct
import subprocess
import threading
from contextlib import suppress

from pillar.hypervisors import _proc
from pillar.hypervisors._proc import Identity

# struct pidfd_info as it was published first: u64 mask, 12 further 32-bit words, i32 exit_code.
_INFO = struct.Struct("=Q 52x i")
_GET_INFO = 0xC000FF0B | _INFO.size << 16  # _IOWR(0xff, 11, struct pidfd_info)
_INFO_EXIT = 1 << 3


class Exits:
    """Of one backend's domains. Workers and the main loop both ask."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._others: dict[str, tuple[Identity, int]] = {}  # with a pidfd, held for this only
        self._ended: dict[str, str] = {}
        self._guard = threading.Lock()

    def born(self, uuid: str, child: subprocess.Popen[bytes]) -> None:
        """The domain has a new main process, and it is our child."""
        with self._guard:
            self._forget(uuid)
            self._children[uuid] = child

    def lives(self, uuid: str, who: Identity) -> None:
        """The domain's main process was just seen to live: its end will be known from now on."""
        with self._guard:
            known = self._others.get(uuid)
            if uuid in self._children or (known is not None and known[0] == who):
                return
            pidfd = _proc.opened(who)
            if pidfd is not None:
                self._forget(uuid)
                self._others[uuid] = who, pidfd

    def told(self, uuid: str) -> str:
        """How its last main process ended, for a person; "" when it lives or nobody knows."""
        with self._guard:
            status = self._exit_status(uuid)
            if status is not None:
                self._forget(uuid)
                self._ended[uuid] = exit_text(status)
            return self._ended.get(uuid, "")

    def forget(self, uuid: str) -> None:
        """The domain is no more."""
        with self._guard:
            self._forget(uuid)

    def _exit_status(self, uuid: str) -> int | None:
        child = self._children.get(uuid)
        if child is not None:
            return child.poll()
        other = self._others.get(uuid)
        return None if other is None else status_of_other(*other)

    def _forget(self, uuid: str) -> None:
        self._children.pop(uuid, None)
        self._ended.pop(uuid, None)
        other = self._others.pop(uuid, None)
        if other is not None:
            os.close(other[1])


def status_of_other(who: Identity, pidfd: int) -> int | None:
    """A process's exit status, or minus its signal, also if it is not our child; None when it lives or nobody knows.

    `pidfd` is one that was opened before it ended.
    """
    status = _proc.zombie_status(who)
    if status is None:  # it lives or has been reaped
        status = _reaped_status(pidfd)
    return None if status is None else os.waitstatus_to_exitcode(status)


def _reaped_status(pidfd: int) -> int | None:
    info = bytearray(_INFO.pack(_INFO_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:  # ENOTTY, EINVAL: a kernel before 6.13. ESRCH: one that does not tell of the reaped
        return None
    answered, status = _INFO.unpack(info)
    return status if answered & _INFO_EXIT else None


def exit_text(code: int) -> str:
    """How a process ended, for a person; `code` is a signal's number with a minus, or an exit status."""
    if code >= 0:
        return f"it exited with status {code}"
    with suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"
