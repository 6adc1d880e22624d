"""The config.json that runc is given for a container: the OCI runtime specification's words, version 1.0.2. Pure.

From the image: entry point, command, environment, user, working directory. From the app: memory, CPUs, user data,
further drives. The rest is what people know from Docker: its 14 capabilities, masked parts of /proc and /sys, every
namespace of its own, system calls that are refused (_seccomp); and no program gains rights by being run (setuid, file
capabilities). No user namespace: root in it is root, without what the capabilities leave out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillar.hypervisors import CannotRun, DomainSpec, _seccomp
from pillar.hypervisors._cgroup import Limits
from pillar.hypervisors._environment import PATH, arguments, variables
from pillar.hypervisors._user import User

USER_DATA = "/var/lib/cloud/seed/nocloud/user-data"  # where cloud-init looks for its NoCloud data source
META_DATA = "/var/lib/cloud/seed/nocloud/meta-data"
MAX_PROCESSES = 4096
OURS = "PILLAR_ECO_"

_CAPABILITIES = [
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID"),
    *("CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL"),
    "CAP_AUDIT_WRITE",
]
_MASKED = [
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/interrupts", "/sys/firmware"),
    "/sys/devices/virtual/powercap",  # how much power the processor takes tells what it computes
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_MOUNTS = [
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
]


@dataclass(frozen=True)
class Bind:
    """A file or directory of the host that stands in the container."""

    source: Path
    target: str
    read_only: bool = True


def command(image: Mapping[str, Any], domain: DomainSpec) -> list[str]:
    """Entry point and command; ExtraArgs take the command's place. Raises CannotRun when there is nothing to run."""
    words = [*_texts(image, "Entrypoint"), *(arguments(domain) or _texts(image, "Cmd"))]
    if not words:
        raise CannotRun("the image names neither an entry point nor a command")
    return words


def environment(image: Mapping[str, Any], domain: DomainSpec, user: User, user_data: bytes) -> dict[str, str]:
    """The image's environment, over it the user data's if that is a list of NAME=value, over it ours.

    Names that begin with PILLAR_ECO_ are ours alone.
    """
    given = dict(entry.partition("=")[::2] for entry in _texts(image, "Env"))
    found = {"PATH": PATH, "HOME": user.home, "HOSTNAME": domain.uuid} | given | variables(user_data)
    found = {name: value for name, value in found.items() if name and not name.startswith(OURS)}
    found[f"{OURS}UUID"] = domain.uuid
    found[f"{OURS}NAME"] = domain.config.DisplayName.replace("\0", "")
    if user_data:
        found[f"{OURS}USER_DATA"] = USER_DATA
    return found


def document(
    domain: DomainSpec,
    image: Mapping[str, Any],
    user: User,
    user_data: bytes,
    binds: Sequence[Bind],
    limits: Limits,
    group: str,
) -> dict[str, Any]:
    """The whole config.json. `image` is the `config` of the image's configuration, `group` the cgroup's name."""
    seccomp = _seccomp.profile()
    capabilities = dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES)
    return {
        "ociVersion": "1.0.2",
        "hostname": domain.uuid,
        "root": {"path": "rootfs", "readonly": domain.disks[0].ReadOnly},
        "process": {
            "terminal": False,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
            "args": command(image, domain),
            "env": [f"{name}={value}" for name, value in environment(image, domain, user, user_data).items()],
            "cwd": _working_directory(image),
            "capabilities": capabilities,
            "noNewPrivileges": True,
        },
        "mounts": [_mount(*mount) for mount in _MOUNTS] + [_bind(bind) for bind in binds],
        "linux": {
            "cgroupsPath": f"/{group}",
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": _resources(limits),
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            **({"seccomp": seccomp} if seccomp is not None else {}),
        },
    }


def stop_signal(image: Mapping[str, Any]) -> str:
    """The signal's name or number that asks the image to end; SIGTERM unless it says otherwise."""
    text = image.get("StopSignal")
    return text if isinstance(text, str) and text else "SIGTERM"


def _working_directory(image: Mapping[str, Any]) -> str:
    text = image.get("WorkingDir")
    return text if isinstance(text, str) and text.startswith("/") else "/"


def _resources(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits.processes:
        found["pids"] = {"limit": limits.processes}
    if limits.memory_bytes:
        found["memory"] = {"limit": limits.memory_bytes}
        if limits.swap_too:
            found["memory"]["swap"] = limits.memory_bytes  # of both together: no swap
    cpu: dict[str, Any] = {}
    if limits.cpus:
        cpu |= {"period": 100_000, "quota": 100_000 * limits.cpus}
    if limits.cpu_list:
        cpu["cpus"] = limits.cpu_list
    if cpu:
        found["cpu"] = cpu
    return found


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _bind(bind: Bind) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", "ro" if bind.read_only else "rw"]
    return _mount(bind.target, "bind", str(bind.source), options)


def _texts(image: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts of the image's configuration; null is none."""
    found = image.get(name) or []
    if not isinstance(found, list) or not all(isinstance(text, str) and "\0" not in text for text in found):
        raise CannotRun(f"{name} in the image's configuration is no list of texts")
    return found
