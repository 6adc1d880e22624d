"""zedagent: what the controller wants of this device, taken apart into tables.

Reads       <root>/config/device.json, device.pb  the device config (EdgeDevConfig); the newer file counts
Publishes   AppInstanceConfig, BaseOsConfig       by UUID, for zedmanager and baseosmgr
            CertObjConfig                         by its app's or base OS's UUID, for baseosmgr
            DatastoreConfig                       by UUID, for the downloader
            NetworkInstanceConfig                 by UUID, for zedrouter
            NetworkXObjectConfig                  by UUID, for people: ports have what they need of it
            PhysicalIOAdapterList                 key zedagent, for domainmgr
            DevicePortConfig                      key zedagent, for nim
            GlobalConfig                          key global, the global table, for everyone
            ZedAgentStatus, DeviceConfigStatus    key zedagent: the last attempt, the config in force
Owns        <root>/persist/checkpoint/lastconfig  the last good device config
            <root>/config/rebootConfig            the last reboot counter seen

    none --good file--> read --newer good file--> read
    none --no good file at the start--> saved --good file--> read
    a bad, cut or vanished file changes nothing but the two statuses

What vanished from the config is withdrawn, after a good parse only. What is referred to is published before what
refers to it, and withdrawn after it. A bad entry stays with itself: its app's Errors, its record's error, else
DeviceConfigStatus.Problems; the other entries are published all the same.

A changed reboot counter sets RebootCmd and withdraws Activate from every app. Nobody reboots here; a new start of
zedagent counts as the reboot.

Restart: everything is computed again from the file, else from the copy. Equal records are not written, and times
(TimePriority, ErrorTime) are kept while what they date has not changed, so a restart with nothing new says nothing.
"""
