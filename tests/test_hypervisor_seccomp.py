"""What a real container is refused by the kernel, and that a program that asks for nothing special does not notice."""

from __future__ import annotations

import errno
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import UUID, Machine, needs_runc
from servers import needs

from pillar.demo import container
from pillar.hypervisors import _seccomp

# Tries each call that this machine's C headers know, with arguments that do nothing, and says the error's number.
PROBE = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static void try(const char *name, long number, long a, long b) {
    errno = 0;
    long got = syscall(number, a, b, 0, 0, 0, 0);
    printf("%%s %%d\\n", name, got < 0 ? errno : 0);
}
int main(void) {
%s
    return 0;
}
"""
ARGUMENTS = {
    "clone-user": ("clone", "0x10000000 | 17", "0"),
    "clone-net": ("clone", "0x40000000 | 17", "0"),
    "personality-no-random": ("personality", "0x0040000", "0"),
    "personality-ask": ("personality", "0xffffffff", "0"),
    "socket-vsock": ("socket", "40", "1"),
    "socket-inet": ("socket", "2", "1"),
}

SCRIPT = r"""
/bin/probe
ls / >/dev/null && (echo a; echo b) | sort -r | tail -n 1
sed -n 's/^NoNewPrivs:.//p;s/^Seccomp:.//p' /proc/self/status
echo done
"""
LOOKS = """
for file in /proc/interrupts /proc/timer_list; do wc -c <$file; done
echo 1 >/proc/sys/kernel/ctrl-alt-del
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    needs_runc()
    machine = Machine(tmp_path)
    yield machine
    machine.backend.stop(UUID, 0)
    machine.backend.cleanup(UUID)


def probe(directory: Path) -> bytes:
    """The program, for a root without libraries."""
    gcc = needs("gcc", "gcc")
    refused = [name for names in _seccomp.REFUSED.values() for name in names]
    calls = [(name, name, "-1", "-1") for name in [*refused, "clone3", "getpid"]]
    calls += [(label, *found) for label, found in ARGUMENTS.items()]
    lines = [
        f'#ifdef SYS_{name}\n    try("{label}", SYS_{name}, {first}, {second});\n#endif'
        for label, name, first, second in calls
    ]
    (directory / "probe.c").write_text(PROBE % "\n".join(lines))
    built = subprocess.run(
        [gcc, "-static", "-O1", "-o", directory / "probe", directory / "probe.c"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return (directory / "probe").read_bytes()


def test_every_listed_call_is_refused_in_a_container_and_busybox_works(machine: Machine, tmp_path: Path) -> None:
    layer = container.layer({"bin/probe": probe(tmp_path)})
    machine.run(machine.domain(SCRIPT, layer))
    assert machine.ended() == "it exited with status 0"
    found = dict(re.findall(r"^(\S+) (\d+)$", machine.output, re.MULTILINE))
    got = {name: int(number) for name, number in found.items()}
    free = {"getpid": 0, "personality-ask": 0, "socket-inet": 0}
    assert {name: got.pop(name) for name in free} == free
    assert got.pop("clone3") == errno.ENOSYS
    assert len(got) > 45
    assert {name for name, number in got.items() if number != errno.EPERM} == set()
    assert machine.output.endswith("\na\n1\n2\ndone\n")  # no new privileges; a filter


def test_what_the_kernel_tells_of_itself_is_masked(machine: Machine) -> None:
    machine.run(machine.domain(LOOKS))
    machine.ended()
    assert machine.output.splitlines()[:2] == ["0", "0"]
    assert "Read-only file system" in machine.output


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    assert _seccomp.profile("vax") is None
    assert _seccomp.profile(platform.machine()) is not None
    names = [name for names in _seccomp.REFUSED.values() for name in names]
    assert len(names) == len(set(names))
