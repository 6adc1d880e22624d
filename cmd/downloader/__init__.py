"""downloader: bring objects from datastores to this device, once, however often it is interrupted.

Subscribes  DownloaderConfig      from zedmanager (appImg.obj), baseosmgr (baseOs.obj, cert.obj)   what is wanted
            DatastoreConfig       from zedagent, keyed by UUID                                     where it is
            DeviceNetworkStatus   from nim, `global`                                               over which ports
            GlobalDownloadConfig  the global table, `global`                                       how much room
Publishes   DownloaderStatus      as downloader, per object type, keyed by safename                how far each got
            DownloadProgress      as downloader, the same scopes and keys         ours: rate, attempt, next retry
            GlobalDownloadStatus  as downloader, `global`                                          room used, reserved
Owns        <root>/persist/downloads/<objtype>/pending

    (new) -> PendingAdd -> DOWNLOAD_STARTED -+-> DOWNLOADED
                ^              ^             |
                |              +- back-off --+-> INITIAL with LastErr
                +- datastore not there yet: an error after some seconds, resolves by itself

An image that stands in pending, verifier or verified is present: it is never fetched again. With RefCount 0 nothing
is fetched; unused for DownloadGCTime the status is offered as Expired, and when its config goes, so do file and status.

Restart: status is published before work starts, so a new downloader finds what was in flight and continues its part
file; a complete file is recognised by its digest. Fetching twice is harmless.
"""
