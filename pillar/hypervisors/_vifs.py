"""The virtual interfaces of domains, as far as a backend makes them: a tap for a VM, a veth pair for a container.

The end on the host has the name that zedrouter gave it (VifInfo.Vif), is put into VifInfo.Bridge when that bridge is
there, and is up. Bridges, addresses and rules are zedrouter's, which also brings a vif of a known name back to its
bridge when somebody took it out. Made, owned and removed by the backend only.

Whose a link is stands in the kernel, in its alias: `pillar:<root>:<app uuid>`. So a kill between any two steps leaves
links that the next look finds, several devices can live on one machine, and nothing foreign is touched. One step is
not covered by the mark: a link has none in the moment it is made. A link of the wanted name and kind without an
alias that is down is therefore taken for a left-over of ours and made again.

All functions work in the network namespace of the calling process and may be repeated. They raise HypervisorError,
whose text names the vif. pyroute2 is loaded when the first vif is made or removed: it costs 0.3 s. `owners`, which
domainmgr asks often, does without it.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import socket
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pillar.hypervisors import HypervisorError
from pillar.types.zedrouter import VifInfo

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_LONGEST_ROOT = 200  # an alias holds 255 bytes
_IFF_UP = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_HEADER = struct.Struct("=IHHII")  # of a netlink message: length, type, flags, sequence, port
_IFINFOMSG_BYTES = 16
_RTM_GETLINK, _NLM_F_REQUEST_DUMP, _NLMSG_ERROR, _NLMSG_DONE = 18, 0x301, 2, 3
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Owner:
    """Who a vif belongs to: a domain of the device with this root."""

    root: Path
    uuid: str

    @property
    def alias(self) -> str:
        return _start(self.root) + self.uuid


def make_tap(vif: VifInfo, owner: Owner) -> None:
    """A tap of the vif's name that lives on its own, in its bridge and up. One that is there is kept."""
    with _kernel(f"cannot make the tap {vif.Vif!r}", vif) as kernel:
        found = _look(kernel, vif.Vif)
        if found is not None and not _is_ours(found, owner, "tun"):
            kernel.link("del", index=found["index"])
            found = None
        if found is None:
            kernel.link("add", ifname=vif.Vif, kind="tuntap", mode="tap")
            found = _look(kernel, vif.Vif)
        _finish(kernel, found, vif, owner)


def make_veth(vif: VifInfo, owner: Owner, namespace: Path, inner: str) -> None:
    """A veth pair: one end of the vif's name here, the other as `inner` with the vif's MAC in a network namespace.

    Both are up. `namespace` is a file of it, as /run/netns/<name> or /proc/<pid>/ns/net. A pair that is there is made
    anew, because nothing tells whether its other end is still where it belongs.
    """
    with _kernel(f"cannot make the veth pair {vif.Vif!r}", vif) as kernel:
        found = _look(kernel, vif.Vif)
        if found is not None:
            _is_ours(found, owner, "veth")
            kernel.link("del", index=found["index"])
        target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            peer: dict[str, object] = {"ifname": inner, "net_ns_fd": target}
            if vif.Mac:
                peer["address"] = vif.Mac
            kernel.link("add", ifname=vif.Vif, kind="veth", peer=peer)
        finally:
            os.close(target)
        _finish(kernel, _look(kernel, vif.Vif), vif, owner)
        _bring_up(inner, namespace)


def _bring_up(name: str, namespace: Path) -> None:
    """Set a link of another network namespace up. Raises OSError.

    Not by pyroute2's `netns`: it forks, and ends the child with SIGTERM. A child forked from an agent has the agent's
    signal handler and the descriptor that this writes to, so the agent took the signal for its own and ended.
    """
    with _socket_in(namespace) as inside:
        asked = struct.pack("16sH14x", name.encode(), 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(inside, _SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(inside, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | _IFF_UP))


def _socket_in(namespace: Path) -> socket.socket:
    """A socket of another network namespace: made by a thread that enters it and ends. Raises OSError."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with namespace.open("rb") as target:
                if libc.setns(target.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(namespace))
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="vif")
    thread.start()
    thread.join()
    for error in failed:
        raise error
    return made[0]


def remove(owner: Owner, keep: Collection[str] = ()) -> None:
    """Remove every vif of this domain but those named in `keep`; none is fine."""
    with _kernel(f"cannot remove the vifs of {owner.uuid}") as kernel:
        for name, uuid, index in _marked(kernel, owner.root):
            if uuid == owner.uuid and name not in keep:
                _delete(kernel, index)


def sweep(root: Path, keep: Collection[str], kind: str) -> list[str]:
    """Remove the vifs of one kind ("tun": taps, "veth") of all domains of this root but those with these UUIDs.

    A backend sweeps its own kind: it does not know the other backends' domains. Returns the names of the removed.
    """
    with _kernel(f"cannot sweep the vifs of {root}") as kernel:
        left = [(name, index) for name, uuid, index in _marked(kernel, root, kind) if uuid not in keep]
        for _, index in left:
            _delete(kernel, index)
    return sorted(name for name, _ in left)


def owners(root: Path, kind: str) -> set[str]:
    """The app UUIDs of all links of one kind that carry a mark of this root. Quick: one question to the kernel."""
    mark = re.compile(re.escape(os.fsencode(_start(root))) + rb"([^:\0]+)\0")
    kind_name = kind.encode() + b"\0"
    try:
        links = _dumped_links()
    except OSError as error:
        raise HypervisorError(f"cannot list the vifs of {root}: {_reason(error.errno or 0)}") from error
    return {found[1].decode() for link in links if kind_name in link and (found := mark.search(link))}


def _dumped_links() -> list[bytes]:
    """Every link as the kernel describes it (RTM_NEWLINK), not taken apart. Raises OSError."""
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        body = bytes(_IFINFOMSG_BYTES)
        size = _HEADER.size + len(body)
        kernel.send(_HEADER.pack(size, _RTM_GETLINK, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        while True:
            data = kernel.recv(1 << 20)
            while data:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", data, _HEADER.size)
                    raise OSError(-number, os.strerror(-number))
                found.append(data[:length])
                data = data[-(-length // 4) * 4 :]


def owned(root: Path) -> dict[str, str]:
    """Every vif of this root's domains: name -> app UUID."""
    with _kernel(f"cannot list the vifs of {root}") as kernel:
        return {name: uuid for name, uuid, _ in _marked(kernel, root)}


def _marked(kernel: "IPRoute", root: Path, kind: str = "") -> list[tuple[str, str, int]]:
    """Name, app UUID and index of every link, or those of one kind, that carries a mark of this root."""
    start = _start(root)
    return [
        (str(link.get_attr("IFLA_IFNAME")), alias[len(start) :], int(link["index"]))
        for link in kernel.get_links()
        if (alias := link.get_attr("IFLA_IFALIAS") or "").startswith(start)
        and ":" not in alias[len(start) :]  # another root's, whose name goes on where ours ends
        and kind in ("", _kind(link))
    ]


def _start(root: Path) -> str:
    text = str(root)
    if len(os.fsencode(text)) > _LONGEST_ROOT:
        text = hashlib.sha256(os.fsencode(text)).hexdigest()
    return f"pillar:{text}:"


@contextmanager
def _kernel(doing: str, vif: VifInfo | None = None) -> Iterator["IPRoute"]:
    """A netlink socket; whatever the kernel refuses becomes a HypervisorError that says what was being done."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    if vif is not None and not vif.Vif:
        raise HypervisorError("a vif of the domain has no name")
    try:
        with IPRoute() as kernel:
            yield kernel
    except NetlinkError as error:
        raise HypervisorError(f"{doing}: {_reason(error.code)}") from error
    except OSError as error:
        raise HypervisorError(f"{doing}: {_reason(error.errno or 0)}") from error


def _reason(number: int) -> str:
    if number in (errno.EPERM, errno.EACCES):
        return "not permitted; domainmgr needs CAP_NET_ADMIN and /dev/net/tun (run it as root)"
    return os.strerror(number)


def _look(kernel: "IPRoute", name: str) -> Any:
    """The link of this name, None when there is none."""
    for index in kernel.link_lookup(ifname=name):
        return next(iter(kernel.get_links(index)), None)
    return None


def _kind(link: Any) -> str:
    """As the kernel calls it, "" for hardware."""
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info is not None else ""


def _is_ours(link: Any, owner: Owner, kind: str) -> bool:
    """Whether the link carries our mark. False: a left-over to make again. Raises for anybody else's."""
    alias = link.get_attr("IFLA_IFALIAS") or ""
    same_kind = _kind(link) == kind
    if alias == owner.alias and same_kind:
        return True
    if not alias and same_kind and not link["flags"] & _IFF_UP:
        return False
    whose = f"marked {alias!r}" if alias else "not made by a hypervisor backend"
    raise HypervisorError(
        f"there is already a link {link.get_attr('IFLA_IFNAME')}, {whose}; it is left alone: remove it, or run this"
        " device in a network namespace of its own"
    )


def _finish(kernel: "IPRoute", link: Any, vif: VifInfo, owner: Owner) -> None:
    """Mark first, so that a kill leaves nothing nameless; then the bridge, then up."""
    kernel.link("set", index=link["index"], ifalias=owner.alias)
    bridge = _look(kernel, vif.Bridge) if vif.Bridge else None
    if bridge is not None and link.get_attr("IFLA_MASTER") != bridge["index"]:
        kernel.link("set", index=link["index"], master=bridge["index"])
    kernel.link("set", index=link["index"], state="up")


def _delete(kernel: "IPRoute", index: int) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        kernel.link("del", index=index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:  # it went together with its peer, or its namespace
            raise
