"""identitymanager: give ECOs their LISP identities (EIDs).

Subscribes  EIDConfig  from zedmanager,      keyed by `<app UUID>:<IID>`   what is wanted
Publishes   EIDStatus  as identitymanager,   keyed the same                the identity; PendingAdd until there is one
            EIDError   as identitymanager,   keyed the same                why there is none (EVE has no such record)
Owns        /persist/identitymanager         one identity a file, 0600: the private key is in it

    (nothing) -> PendingAdd -+-> done      key pair, certificate, EID and signature made once, or those supplied checked
                             +-> PendingAdd with EIDError, again after a while or when the configuration changes

An EID is made once: it is on the disk before it is published, so it stays over restarts and reboots until its
EIDConfig is withdrawn (EVE makes a new one each time it starts). If the configuration went away while the device was
off nobody sees it go, and the file stays; an app that comes back finds its identity again.

Restart: statuses are loaded, what is pending is made again; a file that is there is read, never replaced by a new key.
"""
