"""How a container's interfaces get their addresses: a DHCP client for each, run from outside in its network namespace.

DomainConfig names bridge, vif and MAC, and no address: zedrouter leases the one it allocated to that MAC, and takes
"Assigned" from the lease, whose host name must be the app's UUID. So the client asks as a VM would. It is udhcpc,
alone or as a part of busybox, and needs nothing in the image. What it learns goes into files of the bundle that are
mounted into the container (resolv.conf, hosts): the container's own tree is never written to from outside, where a
link in it could lead anywhere.
"""

import shlex
import shutil
from pathlib import Path

from pillar.hypervisors import CannotRun

HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
RESOLVER, HOSTS_FILE, SCRIPT_FILE = "resolv.conf", "hosts", "on-lease"

_SCRIPT = r"""
# Each interface has a client, and what they learn goes into the same files.
exec 9>"$HERE/on-lease.lock"
$FLOCK 9

set -f # what a server sends is text, no pattern

case "$1" in
deconfig)
    $IP link set "$interface" up
    $IP -4 address flush dev "$interface"
    rm -f "$HERE/lease.$interface" "$HERE/address.$interface" "$HERE/resolver.$interface"
    ;;
bound | renew)
    [ -z "$mtu" ] || $IP link set "$interface" mtu "$mtu"
    $IP -4 address replace "$ip/${mask:-24}" dev "$interface" || exit 1
    metric=$((100 + ${interface#eth}))
    if [ -n "$staticroutes" ]; then # they replace the router (RFC 3442): destination gateway destination gateway
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            case "$2" in
            0.0.0.0) $IP -4 route replace "$1" dev "$interface" metric $metric ;;
            *) $IP -4 route replace "$1" via "$2" dev "$interface" metric $metric ;;
            esac
            shift 2
        done
    else
        for gateway in $router; do
            $IP -4 route replace default via "$gateway" dev "$interface" metric $metric
            break
        done
    fi
    {
        [ -z "$domain" ] || printf 'search %s\n' "$domain"
        for server in $dns; do printf 'nameserver %s\n' "$server"; done
    } >"$HERE/resolver.$interface"
    printf '%s\n' "$ip" >"$HERE/address.$interface"
    ;;
esac

# These two are mounted into the container: written in place, the file must stay the same.
set +f
cat "$HERE"/resolver.eth* >"$HERE/resolv.conf" 2>/dev/null
{
    printf '%s' "$HOSTS"
    for address in "$HERE"/address.eth*; do
        [ ! -e "$address" ] || printf '%s\t%s\n' "$(cat "$address")" "$NAME"
    done
} >"$HERE/hosts"

# Last: a start waits for it, and the program finds the files whole.
case "$1" in
bound | renew) : >"$HERE/lease.$interface" ;;
esac
exit 0
"""


def client(interface: str, name: str, here: Path) -> list[str]:
    """The command that keeps one interface addressed; it stays in the foreground. `name` is sent as the host name.

    Raises CannotRun, naming what to install, when the machine has no DHCP client or no `ip`.
    """
    return [
        *_program("udhcpc"),
        *("-f", "-i", interface, "-s", str(here / SCRIPT_FILE), "-x", f"hostname:{name}"),
        *("-O", "staticroutes", "-O", "mtu", "-t", "5", "-T", "1", "-A", "3"),
    ]


def script(name: str, here: Path) -> bytes:
    """The program that udhcpc calls. `here` takes its files, `name` is the container's host name."""
    head = [
        "#!/bin/sh",
        "# udhcpc calls this in the container's network namespace; what it learned is in the environment.",
        f"IP={shlex.quote(shlex.join(_program('ip')))}",
        f"FLOCK={shlex.quote(shlex.join(_program('flock')))}",
        f"HERE={shlex.quote(str(here))}",
        f"NAME={shlex.quote(name)}",
        f"HOSTS={shlex.quote(HOSTS)}",
    ]
    return ("\n".join(head) + "\n" + _SCRIPT).encode()


def _program(name: str) -> list[str]:
    """The program by itself or as a part of busybox."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is not None:
        return [found]
    busybox = shutil.which("busybox")
    if busybox is None:
        raise CannotRun(
            f"a container with interfaces needs {name} to get its addresses: apt-get install busybox-static"
        )
    return [busybox, name]
