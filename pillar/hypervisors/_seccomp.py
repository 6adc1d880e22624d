"""The system calls that a container may not make: the `linux.seccomp` part of runc's config.json. Pure.

A list of what is refused, each group with its reason, and all else is allowed: a program that needs something unusual
works, and a reader sees what is closed. The price: a call that a later kernel adds is open until it is listed here.
Refused calls fail with EPERM, as if a capability were missing; that is what programs are ready for.

Most of these also need capabilities that a container does not have. They are listed all the same: the filter stands
before the kernel's own check, so a fault in that check or in the call's code is out of reach. The reasons are those
of the calls' manual pages and of the kernel's documentation (admin-guide, userspace-api).
"""

import errno
import platform
from typing import Any

# Namespaces: in a new user namespace a process has all capabilities over what it makes there, and with them it reaches
# the code of mounts, network set-up and netfilter, which was long root's alone.
_NEW_NAMESPACE = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
_AF_VSOCK = 40
_ADDR_NO_RANDOMIZE, _READ_IMPLIES_EXEC = 0x0040000, 0x0400000
_ASKING = 0x80000000  # personality(0xffffffff) changes nothing

REFUSED: dict[str, tuple[str, ...]] = {
    "new namespaces, and entering others": ("unshare", "setns"),
    "mounts: what the container sees of the host's file systems is decided outside": (
        *(
            "mount",
            "umount",
            "umount2",
            "pivot_root",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "fsopen",
            "fsconfig",
        ),
        *("fsmount", "fspick", "mount_setattr"),
    ),
    "a file handle opens any file of a file system, also outside of the container's root": ("open_by_handle_at",),
    "the kernel itself: modules, other kernels, restart": (
        *("init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms"),
        *("kexec_load", "kexec_file_load", "reboot"),
    ),
    "programs inside the kernel, and counters that tell of other processes": ("bpf", "perf_event_open"),
    "I/O that is asked for in shared memory, past this filter": (
        *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    ),
    "the kernel's keyrings have no namespace: keys of the host and of other containers": (
        *("add_key", "request_key", "keyctl"),
    ),
    "the host's clock has no namespace": (
        "settimeofday",
        "clock_settime",
        "clock_settime64",
        "clock_adjtime",
        "clock_adjtime64",
        "stime",
    ),
    "the host's swap, quotas, accounting and log": (
        *("swapon", "swapoff", "quotactl", "quotactl_fd", "acct", "syslog", "lookup_dcookie"),
    ),
    "hardware ports and the processor's old modes": ("ioperm", "iopl", "vm86", "vm86old"),
    "where memory lies is the host's matter, and tells of its layout": (
        *("mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages"),
    ),
    "another process's files, memory advice and kernel objects": ("pidfd_getfd", "process_madvise", "kcmp"),
    "lets a program stop the kernel in the middle of a copy, which faults in the kernel are used with": (
        "userfaultfd",
    ),
    "watching every file of a mount": ("fanotify_init",),
    "names of the machine, terminals of others": ("sethostname", "setdomainname", "vhangup"),
    "old, and not needed by anything that is alive": ("uselib", "ustat", "sysfs", "_sysctl", "nfsservctl"),
}

_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
}


def profile(machine: str = platform.machine()) -> dict[str, Any] | None:
    """What runc is given; None for a machine whose ways into the kernel are not known here."""
    architectures = _ARCHITECTURES.get(machine)
    if architectures is None:
        return None
    rules = [_refuse(names) for names in REFUSED.values()]
    # What clone3 is asked for stands in memory, where no filter can look. Without it, C libraries use clone.
    rules.append(_refuse(("clone3",), errno.ENOSYS))
    rules += [_refuse(("clone",), args=[_has(0, flag, flag)]) for flag in _NEW_NAMESPACE.values()]
    # To the hypervisor that this machine may run under.
    rules.append(_refuse(("socket",), args=[{"index": 0, "value": _AF_VSOCK, "op": "SCMP_CMP_EQ"}]))
    # Switching off what makes memory faults hard to use.
    for flag in (_ADDR_NO_RANDOMIZE, _READ_IMPLIES_EXEC):
        rules.append(_refuse(("personality",), args=[_has(0, flag | _ASKING, flag)]))
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": rules}


def _refuse(
    names: tuple[str, ...], number: int = errno.EPERM, args: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": number}
    return rule | {"args": args} if args else rule


def _has(index: int, mask: int, value: int) -> dict[str, Any]:
    """An argument of which these bits are so."""
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
