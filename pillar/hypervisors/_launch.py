"""The last step before a domain runs: say who we are in the lock file, then become the image.

Run as a program, by path, with `python -I -S`: it imports nothing of the project, because a domain's start must not
depend on what the project's packages look like at that moment.

    _launch.py LOCK_FD REPORT_FD CPUS GROUP_FDS IMAGE [ARGUMENT ...]

LOCK_FD    the flocked <uuid>.lock, kept open across the exec: as long as the domain (or a child that kept it) lives,
           the lock is held. The holder is written into it before the exec, and neither the pid nor the start time
           changes by exec, so whoever finds the lock held and the file filled knows the domain's process.
REPORT_FD  a pipe that closes by itself when the exec succeeds; "<errno> <text>" when it does not.
CPUS       numbers of the processors that the domain may use, with commas between; "" for those that we may use.
GROUP_FDS  the open cgroup.procs of its control groups, with commas between. Entered first: whoever is in the lock
           file is within its limits.
"""

import errno
import fcntl
import json
import os
import signal
import sys
import time

BUSY_S = 10.0  # a fork takes no millisecond, on a busy machine a few seconds


def execute(image: str, arguments: list[str]) -> None:
    """Become the image. Raises OSError.

    It may be "busy" for a moment although its copy is complete: what another thread of domainmgr forked meanwhile has
    the descriptor it was written through until it executes its own program.
    """
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            os.execv(image, arguments)
        except OSError as error:
            if error.errno != errno.ETXTBSY or time.monotonic() >= give_up:
                raise
        time.sleep(0.01)


def main(arguments: list[str]) -> int:
    lock_fd, report_fd, cpus, groups, image = int(arguments[0]), int(arguments[1]), *arguments[2:5]
    fcntl.fcntl(report_fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    try:
        for group in map(int, filter(None, groups.split(","))):
            os.write(group, b"0")  # the process that writes
            os.close(group)
        with open("/proc/self/stat", "rb") as file:
            start_ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        holder = json.dumps({"pid": os.getpid(), "start_ticks": start_ticks, "boot": boot}) + "\n"
        os.pwrite(lock_fd, holder.encode(), 0)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and ignoring survives an exec
            signal.signal(ignored, signal.SIG_DFL)
        os.umask(0o022)
        if cpus:
            os.sched_setaffinity(0, {int(number) for number in cpus.split(",")})
        execute(image, [image, *arguments[5:]])
    except OSError as error:
        os.ftruncate(lock_fd, 0)  # nothing runs: the next one that finds this file must not look for us
        os.write(report_fd, f"{error.errno} {error.strerror}".encode())
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
