"""domainmgr: run the ECOs.

Subscribes  DomainConfig          from zedmanager, keyed by app UUID    what is wanted
            PhysicalIOAdapterList from zedagent, key "zedagent"         what the box has to give; absent means nothing
            DeviceNetworkStatus   from nim, key "global"                which interfaces are device ports
Publishes   DomainStatus          as domainmgr, keyed by app UUID       how far each domain got
            ImageStatus           as domainmgr, keyed by file name      the private copies in /persist/img
            AssignableAdapters    as domainmgr, key "global"            who has which adapter
Owns        /persist/img, /persist/adapters, /persist/{process,qemu,runc,xen}, /run/domainmgr/xen, vifs,
            /persist/log/<app uuid>.log, driver and driver_override of the PCI devices that its domains have

    (nothing) -> INSTALLED -> BOOTING -> RUNNING -> HALTING -> HALTED        see decide.py for every arm

Waits for nobody: without an adapter list there are no adapters. What runs a domain, and how it ends: docs/domains.md.

Beyond EVE: a domain that stops by itself is HALTED with LastErr saying how it ended (EVE shows HALTED only);
zedmanager's restart gives it a new chance (Activate off, which clears the error, and on again). A failed preparation
is tried again after DomainBootRetryTime. An error never needs more than a changed configuration to be forgotten.

Restart: domains go on without domainmgr. A new one finds them through the backend (`adopt`, `status`), publishes the
same domain id, watches them again, and takes up what the status says was in flight. A status whose
configuration is gone is removed once the table of configurations is complete. A domain that has neither is stopped
then, and what it stored is deleted after VdiskGCTime: after a reboot it may be wanted again. What a domain that does
not run has left in the kernel (processes, vifs, control groups) and half-made copies go at once.
"""
