"""nim: which ports the device has, and which addresses they have now.

Subscribes  GlobalConfig           global, key `global`         NetworkFallbackAnyEth: is there a last resort
            DevicePortConfig       from zedagent, key `zedagent` what the controller wants
            DevicePortConfig       global, any key              override files, put there by hand or at boot
            AssignableAdapters     from domainmgr, key `global` interfaces that belong to apps are no last resort
            NetworkInstanceStatus  from zedrouter               nor are those of a switch
Publishes   DeviceNetworkStatus    key `global`
            DevicePortConfig       key `lastresort`
            DevicePortConfigList   key `global`, persistent     every config known, newest first, first in force
Owns        nothing on disk besides its tables; changes nothing in the kernel
Watches     the kernel's links, addresses and routes by netlink events; /etc/resolv.conf by inotify; polls nothing

Interfaces are not configured yet: no DHCP client, no static addresses, no connectivity test. A port has what the
machine gave it, `Testing` is always false, and the newest port config is in force whether or not it reaches the
controller.
The namespace is the one nim was started in; with nothing but a loopback there are no ports.

Restart: the status is a function of what is read anew. Nothing changed, nothing published; an error keeps its time.
"""
