"""nim: which ports the device has, which addresses they have now, and which of its port configs works.

Subscribes  GlobalConfig           global, key `global`         last resort or not, timers of the tests
            DevicePortConfig       from zedagent, key `zedagent` what the controller wants
            DevicePortConfig       global, any key              override files, put there by hand or at boot
            AssignableAdapters     from domainmgr, key `global` interfaces that belong to apps are no last resort
            NetworkInstanceStatus  from zedrouter               nor are those of a switch
Publishes   DeviceNetworkStatus    key `global`
            DevicePortConfig       key `lastresort`
            DevicePortConfigList   key `global`, persistent     every config known, newest first, and how it fared
Reads       config/server, config/root-certificate.pem, config/device.*.pem: whose ping tells that a config works

--ports observe (the default) changes nothing: a port has what the machine gave it, resolv.conf is the machine's, and
the newest config is in force whether or not it reaches the controller.

In both, a port with NetworkProxyEnable gets its PAC file from NetworkProxyURL, or where WPAD says.

--ports manage sets the ports up: addresses, routes, a DHCP client each. It tests the newest config, falls back to the
one that worked last, and tries better ones again.
Owns        run/nim/ports, run/resolv.conf; in the kernel the addresses of its ports, and the routes and rules of
            protocol 178

    untested -> testing -+-> in force   checked every NetworkTestInterval; two failures begin a new round of tests
                ^        +-> failed     tried again in a later round, or when a port of it comes up
                +- a newer config, or NetworkTestBetterInterval

Watches the kernel's links, addresses and routes by netlink events, leases and resolv.conf by inotify; polls nothing.
The namespace is the one nim was started in; with nothing but a loopback there are no ports.

Restart: the status is a function of what is read anew. Nothing changed, nothing published; an error keeps its time.
DHCP clients outlive nim and are adopted; the config that CurrentIndex names is gone on with, after a reboot the newest
is tried first.
"""
