"""What a `process` domain finds in its environment, and how user data gets there.

    PILLAR_ECO_UUID, PILLAR_ECO_NAME      the app's UUID and display name
    PILLAR_ECO_DISKS                      the files of all its disks, separated by ":"; xvda is the program itself
    PILLAR_ECO_XVDA, PILLAR_ECO_XVDB ...  one disk each
    PILLAR_ECO_USER_DATA                  path of the decoded cloud-init user data; absent when there is none
    PILLAR_ECO_LOCK                       the lock file; every process with this entry counts as part of the domain
    PATH, HOME (the working directory), LANG

User data (base64 in the configuration, as cloud-init's) is handed over whole in a file. When every line of it is
empty, a comment or NAME=value, it also becomes environment: no quoting, no expansion, the value is the rest of the
line. So `#cloud-config` documents and scripts reach the program as a file only. Names that start with PILLAR_ECO_
are ours.
"""

import base64
import binascii
import re
import shlex
from pathlib import Path

from pillar.hypervisors import CannotRun, DomainSpec

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCK_VARIABLE = "PILLAR_ECO_LOCK"
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def user_data(domain: DomainSpec) -> bytes:
    """The decoded cloud-init user data, b"" when there is none. Raises CannotRun when it is not base64."""
    text = "".join(domain.config.CloudInitUserData.split())
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CannotRun(f"the cloud-init user data is not base64: {error}") from error


def variables(data: bytes) -> dict[str, str]:
    """NAME=value lines as environment; {} when the data is anything else."""
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        return {}
    if "\0" in data.decode():
        return {}
    found = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            return {}
        found[match[1]] = match[2]
    return found


def arguments(domain: DomainSpec) -> list[str]:
    """ExtraArgs, split as a shell would. Raises CannotRun when a quote is not closed."""
    try:
        found = shlex.split(domain.config.ExtraArgs)
    except ValueError as error:
        raise CannotRun(f"ExtraArgs cannot be split into arguments: {error}") from error
    if any("\0" in argument for argument in found):
        raise CannotRun("ExtraArgs holds a NUL character, which no argument can")
    return found


def environment(domain: DomainSpec, work: Path, lock: Path, data_file: Path | None) -> dict[str, str]:
    """The whole environment of the domain; nothing of domainmgr's own is passed on."""
    ours = {
        "PILLAR_ECO_UUID": domain.uuid,
        "PILLAR_ECO_NAME": domain.config.DisplayName.replace("\0", ""),
        "PILLAR_ECO_DISKS": ":".join(disk.ActiveFileLocation for disk in domain.disks),
        LOCK_VARIABLE: str(lock),
    }
    for disk in domain.disks:
        ours[f"PILLAR_ECO_{disk.Vdev.upper()}"] = disk.ActiveFileLocation
    given = {}
    if data_file is not None:
        ours["PILLAR_ECO_USER_DATA"] = str(data_file)
        given = variables(data_file.read_bytes())
    return {"PATH": PATH, "HOME": str(work), "LANG": "C.UTF-8"} | given | ours
