"""baseosmgr: put the certificates in place that signed images need. (Base OS images themselves come later.)

Subscribes  CertObjConfig     from zedagent, keyed by the owner's UUID             which certificates an owner needs
            DownloaderStatus  from downloader (cert.obj), keyed by safename        how far each got
Publishes   DownloaderConfig  as baseosmgr (cert.obj), keyed by safename           what to fetch
            CertObjStatus     as baseosmgr, keyed by the owner's UUID              how far an owner's certificates are
Owns        the files in <root>/persist/certs that it installed there, named by the last part of their URL

    per certificate:  INITIAL -> DOWNLOAD_STARTED -> DOWNLOADED -> INSTALLED, or Error
    per owner:        the least of its certificates; Error names those that have one

A certificate is fetched once for all owners that name it; its RefCount is how many they are, counted each time. What
is not a certificate is not installed: it is dropped and fetched again with back-off. Two certificates of one file name
cannot both be installed: the first stays, the other one's owner is told. A withdrawn CertObjConfig takes along its
status and the files that nobody else needs (EVE leaves both).

Restart: everything follows from the tables and the directory; installing twice writes nothing.
"""
