"""verifier: let an image through only if it is the one that was asked for, and signed if that was asked for.

Subscribes  VerifyImageConfig  from zedmanager (appImg.obj), baseosmgr (baseOs.obj), keyed by safename   what to verify
            DownloaderStatus   from downloader, same scopes            only a hint that a new file may be in pending
Publishes   VerifyImageStatus  as verifier, per object type, keyed by safename                  DELIVERED when good
Owns        <root>/persist/downloads/<objtype>/{verifier,verified,quarantine}, <root>/persist/verifier (the ledger)

    (new) -> PendingAdd, DOWNLOADED -+-> DELIVERED
                  ^                  +-> DOWNLOADED with LastErr
                  +---- a new file, new certificates, back-off

    pending/<sha>/<safename> --rename--> verifier/<sha>/<safename> --sha256, signature--> verified/<sha>/<filename>

Nothing that the downloader says about content is believed: every file is sealed (see `seal`), then read. Directories
are 0500 and files 0400 from `verifier` on; a verified directory holds exactly one file. A file that hashes to something
else goes to `quarantine`, so that a new download can be verified; one whose signature is not good stays in `verifier`
and is judged again when certificates come. A configured signature that is absent, wrong, expired or foreign is an
error, also for an image that was verified before without one. When GlobalConfig's SignaturePolicy is `strict`, so is
an image whose config names no signature at all.

Restart: wherever a kill left the file, it is found in one of the three directories and taken up from there. Verified
images are offered again (RefCount 0) without reading them: the ledger holds size, times and inode of each as they
were when its digest was proven, and only an image that differs from that is hashed again. Unused for DownloadGCTime
an image is offered as Expired; when no config asks for it then, it is removed.
"""
