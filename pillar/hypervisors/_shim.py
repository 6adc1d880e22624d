"""The parent of one container: starts it with runc, waits for its end, writes down how it ended.

Run as a program, by path, with `python -I -S`: it imports nothing of the project, because it outlives the domainmgr
that started it, and a container's start must not depend on what the project's packages look like at that moment.

    _shim.py LOCK_FD REPORT_FD GO_FD JOB

LOCK_FD    the flocked <uuid>.lock. We hold it as long as we live, and so do runc and the container's first process
           until it becomes the image: lock free means that nothing is on its way. Into the file goes, always 512
           bytes in one write, {"pid", "start_ticks", "boot", "phase", "init": {"pid", "start_ticks"}}.
REPORT_FD  a pipe to domainmgr: one line per step, "created <pid>", "started", or "failed <text>".
GO_FD      a pipe from domainmgr, which makes the vifs in the created container's network namespace and then writes
           "go". If it closes before that, domainmgr is gone or could not: the container is deleted again.
JOB        a JSON file with the fields of `Job` in runc.py.

Killed before `runc start`: the container never runs, its first process waits for a start that does not come and is
swept. Killed after it: the container goes on; the next domainmgr finds it by the identity in the lock file, and its
exit status is lost. runc's own records stay consistent because runc is told to delete what it created.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

RECORD_BYTES = 512
CLIENT_PAUSE_S = 2.0  # before an address client that ended is started again
RUNC_TIMEOUT_S = 60.0
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """The container cannot be started; the text is for a person."""


class Shim:
    def __init__(self, lock_fd: int, report_fd: int, go_fd: int, job: dict[str, Any]) -> None:
        self.lock_fd, self.report_fd, self.go_fd, self.job = lock_fd, report_fd, go_fd, job
        with open("/proc/sys/kernel/random/boot_id") as file:
            self.boot = file.read().strip()
        self.init = 0  # the container's first process, once runc created it
        self.clients: dict[int, int] = {}  # pid -> index in job["clients"]
        self.restarts: dict[int, float] = {}  # index -> when to start it again, monotonic

    def run(self) -> int:
        self.mark("creating")
        try:
            self.mount_drives()
            self.create()
            self.report(f"created {self.init}")
            if os.read(self.go_fd, 2) != b"go":
                raise Failed("domainmgr went away before it could start")
            self.wait_for_addresses()
            self.runc("start", self.job["id"])
        except (Failed, OSError) as failure:
            self.delete()
            os.ftruncate(self.lock_fd, 0)  # nothing runs: the next one that finds this file must not look for us
            self.report(f"failed {failure}")
            return 1
        self.mark("started")
        self.report("started")
        os.close(self.report_fd)
        status = self.supervise()
        self.record(status)
        self.end_clients()
        self.delete()
        return 0

    # The container.

    def mount_drives(self) -> None:
        """Further drives with a file system, in a mount namespace that goes when the container and we do."""
        if not self.job["drives"]:
            return
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
            raise Failed(f"cannot make a mount namespace: {os.strerror(ctypes.get_errno())}")
        for drive in self.job["drives"]:
            options = "loop,nodev,nosuid" + (",ro" if drive["read_only"] else "")
            command = ["mount", "-t", drive["type"], "-o", options, drive["file"], drive["at"]]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                raise Failed(f"cannot mount {drive['file']}: {' '.join(done.stderr.split())}")

    def create(self) -> None:
        pid_file = os.path.join(self.job["bundle"], "init.pid")
        self.runc("create", "--bundle", self.job["bundle"], "--pid-file", pid_file, self.job["id"])
        with open(pid_file) as file:
            self.init = int(file.read())
        self.mark("created")

    def runc(self, *words: str) -> None:
        """Run runc with the log as the container's output; it and the container's first process hold the lock."""
        log = os.path.join(self.job["bundle"], "runc.log")
        with open(log, "wb"):
            pass
        command = [self.job["runc"], "--root", self.job["state"], "--log", log, "--log-format", "json", *words]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(self.lock_fd,), start_new_session=False)
        try:
            code = child.wait(RUNC_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise Failed(f"runc {words[0]} has not ended after {RUNC_TIMEOUT_S:.0f} s") from None
        if code:
            raise Failed(f"runc {words[0]}: {last_error(log) or f'exit status {code}'}")

    def delete(self) -> None:
        """Whatever there is of the container goes, processes first."""
        self.end_clients()
        with suppress(Failed, OSError):  # domainmgr sweeps what stays, and says what does
            self.runc("delete", "--force", self.job["id"])

    def supervise(self) -> int:
        """Wait for the container's end and keep its address clients running. Returns its wait status."""
        while True:
            for pid, status in ended_children():
                if pid == self.init:
                    return status
                if pid in self.clients:
                    self.restarts[self.clients.pop(pid)] = time.monotonic() + CLIENT_PAUSE_S
            for index, due in list(self.restarts.items()):
                if due <= time.monotonic():
                    del self.restarts[index]
                    self.start_client(index)
            self.wait_for_children()

    def wait_for_children(self) -> None:
        """Until one of those we know ends, or an address client is due."""
        poll = select.poll()
        descriptors = [os.pidfd_open(pid) for pid in (self.init, *self.clients)]
        try:
            for descriptor in descriptors:
                poll.register(descriptor, select.POLLIN)
            due = min(self.restarts.values(), default=None)
            poll.poll(None if due is None else max(0.0, due - time.monotonic()) * 1000)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    # Its addresses.

    def wait_for_addresses(self) -> None:
        clients = self.job["clients"]
        for index in range(len(clients)):
            self.start_client(index)
        deadline = time.monotonic() + self.job["lease_wait_s"]
        wanted = [client["lease"] for client in clients if client["expected"]]
        while not all(map(os.path.exists, wanted)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def start_client(self, index: int) -> None:
        def die_with_us() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        namespace = f"--net=/proc/{self.init}/ns/net"
        command = ["nsenter", namespace, "--", *self.job["clients"][index]["command"]]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=die_with_us,
            )
        except OSError:
            self.restarts[index] = time.monotonic() + CLIENT_PAUSE_S
            return
        self.clients[child.pid] = index
        child.returncode = 0  # we wait for it ourselves; Popen must not

    def end_clients(self) -> None:
        self.restarts.clear()
        for pid in self.clients:
            os.kill(pid, signal.SIGKILL)
        for pid in self.clients:
            os.waitpid(pid, 0)
        self.clients.clear()

    # What others read.

    def mark(self, phase: str) -> None:
        mine: dict[str, object] = {
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "boot": self.boot,
            "phase": phase,
        }
        if self.init:
            mine["init"] = {"pid": self.init, "start_ticks": start_ticks(self.init)}
        os.pwrite(self.lock_fd, json.dumps(mine).ljust(RECORD_BYTES - 1).encode() + b"\n", 0)

    def record(self, status: int) -> None:
        """How it ended, on disk before anybody is told: a later domainmgr, or one after a power cut, reads it too."""
        ended: dict[str, object] = {"boot": self.boot, "out_of_memory": out_of_memory(self.job["oom_files"])}
        if os.WIFSIGNALED(status):
            ended["signal"] = os.WTERMSIG(status)
        else:
            ended["status"] = os.WEXITSTATUS(status)
        target = self.job["exit"]
        with open(target + ".tmp", "w") as file:
            json.dump(ended, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(target + ".tmp", target)
        directory = os.open(os.path.dirname(target), os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def report(self, line: str) -> None:
        with suppress(OSError):  # domainmgr is gone; the lock file tells the next one
            os.write(self.report_fd, " ".join(line.split()).encode() + b"\n")


def ended_children() -> Iterator[tuple[int, int]]:
    """(pid, wait status) of every child that ended, runc's orphans included."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def start_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def out_of_memory(files: list[str]) -> int:
    """How many processes the kernel ended for want of memory, as v1 or v2 counts them."""
    found = 0
    for name in files:
        try:
            with open(name) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        found = max(found, int(line.split()[1]))
        except OSError:
            continue
    return found


def last_error(log: str) -> str:
    """The last error in runc's log, "" when there is none."""
    found = ""
    with open(log, errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("level") in ("error", "fatal"):
                found = str(entry.get("msg", ""))
    return found


def main(arguments: list[str]) -> int:
    lock_fd, report_fd, go_fd = map(int, arguments[:3])
    for descriptor in (lock_fd, report_fd, go_fd):
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Who wants the container to end tells the container. Not SIG_IGN, which it would inherit.
        signal.signal(number, lambda *_: None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # runc leaves, and its container becomes our child
    with open(arguments[3]) as file:
        job = json.load(file)
    return Shim(lock_fd, report_fd, go_fd, job).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
