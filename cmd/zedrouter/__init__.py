"""zedrouter: numbers, names, MACs and addresses for network instances and for the vifs of apps, and their kernel side.

Subscribes  NetworkInstanceConfig  from zedagent, key UUID     which instances there should be
            AppNetworkConfig       from zedmanager, key UUID   which app is on which of them
            AppNetworkConfig       from zedagent, key UUID     the device's own management overlay
            DeviceNetworkStatus    from nim, key `global`      ports and uplinks
Publishes   NetworkInstanceStatus  key UUID
            AppNetworkStatus       key app UUID
            UuidToNum              key UUID, persistent        bridge and app numbers, 1 to 255 each
            NetworkMode            key `global`                whether the kernel is left alone
            NetworkMetrics         key `global`                counters of ports, bridges and vifs, every 10 s
            NetworkInstanceMetrics key UUID                    the same by network instance
            EIDRegistration        app:IID:map server          whether a map server knows where an EID is
            IPFlow                 app, network, sequence      flows of guests, drops, DNS requests; the last of each
Owns        those numbers; an address on an instance is owned by the status that shows it; with `--network kernel`
            the bridges, routes, rules and nftables described in pillar/netplan, and a dnsmasq per bridge

    instance    (no status) -> in service <-> Error, re-judged whenever a config or a port changes
                            -> ChangeInProgress DELETE while apps are still on it -> (no status)
    app         (no status) -> Activated <-> Error and MissingNetwork, re-judged likewise -> (no status)

`--network none` (the default): no bridge, vif, address, route or rule is made in the kernel, the statuses are the plan
of it. NetworkMode says so, ProgUplinkIntf stays empty.
`--network kernel`: passes over the namespace (see `kernelnet`) make it what the statuses say, after each change of a
table, each event of the kernel, each end of a dnsmasq, and every 60 s. What cannot be made is the error of its
instance or app. Vifs are made by domainmgr's backends; zedrouter puts each on its bridge.
ACLRules, which are iptables rules in EVE, stay empty: `pillar net` shows the nftables. The LISP data plane is not
driven.

Restart: a number is on disk before a status shows it, and an address is given by the one write of the status that shows
it, so a kill in between loses nothing and gives nothing twice. Statuses without a config are removed once the tables
are synchronized; numbers of apps that did not come back are freed five minutes after the first app config.
"""
