"""The kernel's network of one device: what it should be, what it is, and the steps from one to the other.

    desired     (tables, links) -> NetState    pure: what zedrouter's statuses ask of the kernel
    kernel      the namespace -> Actual        links, addresses, routes, rules, sysctls read back
    difference  (NetState, Actual) -> steps    pure; empty when nothing is to be done
    rules       one access rule, judged        pure; zedrouter tells its errors
    firewall    NetState -> nftables           pure; `nft` reads the tables back, compares and replaces what differs
    dnsmasq     one process per bridge         files, process, adoption

zedrouter applies the steps in passes; `pillar net` only shows them. Nothing is remembered between two passes that the
kernel does not say itself, so a kill between any two steps, or somebody's `ip link del`, is mended by the next one.

What is ours, and therefore may be changed or deleted:
    bridges     whose alias begins with the device's mark (or that have EVE's name and MAC and no alias yet)
    routes, rules   of protocol PROTOCOL
    nftables    the tables named like the device's mark, in the families inet and bridge
    processes   dnsmasq with a configuration file of this root
A vif belongs to the hypervisor that made it: it is put on its bridge, never deleted.
"""

from typing import Final

PROTOCOL: Final = 177  # of routes and rules; free in iproute2's list
TABLE_BASE: Final = 500  # an instance's route table is this plus the interface index of its bridge, as in EVE
RULE_PRIORITY: Final = 9000  # before the tables main and default
