"""Fetching objects: datastores, the downloader's orders and reports, its share of the disk."""

from __future__ import annotations

from pillar.types.enums import SwState
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Int64, Secret, Time, Uint64, Uuid


class DatastoreConfig(Record):
    """Where images are fetched from, with the login. Written by zedagent; keyed by UUID."""

    UUID: Uuid = NIL_UUID
    DsType: str = ""  # DsUnknown, DsHttp, DsHttps, DsS3, DsSFTP, DsContainerRegistry, DsAzureBlob
    Fqdn: str = ""  # scheme and host part, used as URL prefix
    ApiKey: Secret = ""  # user / access key / account
    Password: Secret = ""  # secret, clear text
    Dpath: str = ""  # path, bucket or container
    Region: str = ""  # S3 region; zedagent fills us-west-2 when empty

    def key(self) -> str:
        return self.UUID


class DownloaderConfig(Record):
    """An object to fetch and keep while RefCount > 0. Written by zedmanager (scope appImg.obj) and baseosmgr
    (baseOs.obj, cert.obj); keyed by Safename.
    """

    DatastoreID: Uuid = NIL_UUID  # which datastore to fetch from
    ImageID: Uuid = NIL_UUID  # image UUID (names the rkt credential dir)
    Safename: str = ""  # record key and file name
    Name: str = ""  # relative name or URL
    NameIsURL: bool = False  # name is a complete URL, do not combine with datastore
    IsContainer: bool = False  # image is a container handled by rkt
    AllowNonFreePort: bool = False  # may use ports marked as costing money
    Size: Uint64 = 0  # bytes to reserve
    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    FinalObjDir: str = ""  # unused
    RefCount: Uint64 = 0  # number of users; 0 = keep but unused

    def key(self) -> str:
        return self.Safename


class DownloaderStatus(Record):
    """How far a download got. Written by downloader, in the scope of the order; keyed by Safename."""

    DatastoreID: Uuid = NIL_UUID  # which datastore to fetch from
    ImageID: Uuid = NIL_UUID  # image UUID (names the rkt credential dir)
    Safename: str = ""  # record key and file name
    Name: str = ""
    ObjType: str = ""  # `appImg.obj`, `baseOs.obj` or `cert.obj`
    IsContainer: bool = False  # image is a container handled by rkt
    PendingAdd: bool = False
    PendingModify: bool = False
    PendingDelete: bool = False
    RefCount: Uint64 = 0  # copied from config
    LastUse: Time = ZERO_TIME  # time of last refcount change; clock for garbage collection
    Expired: bool = False  # owner offers the record for removal (handshake)
    NameIsURL: bool = False  # declared, not filled
    AllowNonFreePort: bool = False  # may use ports marked as costing money
    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    State: SwState = SwState.NONE  # 0 while new; DOWNLOAD_STARTED; DOWNLOADED; INITIAL after a delete
    ReservedSpace: Uint64 = 0  # KiB this object counts in the global reservation
    Size: Uint64 = 0  # bytes on disk once DOWNLOADED, else 0
    Progress: Uint64 = 0  # percent 0–100
    ModTime: Time = ZERO_TIME  # time download finished
    LastErr: str = ""  # for a person; "" means nothing is wrong now
    LastErrTime: Time = ZERO_TIME
    RetryCount: Int64 = 0  # number of failures/retries, never reset
    ContainerImageID: str = ""  # rkt image id, `sha512-...`
    ContainerRktLocalConfigDir: str = ""  # credential dir to delete later
    ContainerRktAuthFileName: str = ""  # credential file

    def key(self) -> str:
        return self.Safename


class DownloadAttempt(Record):
    """One way that was tried; inside DownloadProgress."""

    Port: str = ""  # the device's port; "" is the kernel's choice
    Address: str = ""  # of that port
    Proxy: str = ""  # URL without login; "" is none
    Error: str = ""  # for a person; "" means that it works, or is being tried


class DownloadProgress(Record):
    """How a download goes, for people. Ours, EVE has none. Written by downloader beside its DownloaderStatus, in the
    same scope and under the same key; nobody decides anything by it.
    """

    Safename: str = ""
    Source: str = ""  # from where, without login and query
    Attempt: Uint64 = 0  # number of this attempt, or of the last one; 0 once the object is here
    Attempts: tuple[DownloadAttempt, ...] | None = None  # the ways of this attempt, in order; the last one is in use
    Done: Uint64 = 0  # bytes that are here
    Total: Uint64 = 0  # bytes of the object; 0: not known
    Rate: Uint64 = 0  # bytes a second, lately; 0 when nothing comes
    NextRetry: Time = ZERO_TIME  # when the next attempt begins; zero: none is due by time
    Waiting: str = ""  # what has to happen first, for a person; errors stand in DownloaderStatus

    def key(self) -> str:
        return self.Safename


class GlobalDownloadConfig(Record):
    """How much disk downloads may take. Belongs to no agent (the boot script wrote it); key `global`."""

    MaxSpace: Uint64 = 0  # KiB allowed under /persist/downloads


class GlobalDownloadStatus(Record):
    """What downloads take of the disk. Written by downloader; key `global`. All in KiB."""

    UsedSpace: Uint64 = 0  # KiB
    ReservedSpace: Uint64 = 0  # KiB
    RemainingSpace: Uint64 = 0  # KiB = Max − Used − Reserved (unsigned)


class DatastoreContext(Record):
    """Everything needed for one fetch, put together by the downloader; never published."""

    DownloadURL: str = ""  # full URL
    TransportMethod: str = ""  # DsType text
    Dpath: str = ""  # path
    APIKey: Secret = ""  # user
    Password: Secret = ""  # secret
    Region: str = ""  # region


class RktCredentials(Record):
    """Login at a container registry."""

    user: str = ""  # user
    password: Secret = ""  # secret


class RktAuthInfo(Record):
    """Contents of the credential file for a container registry; no table."""

    rktkind: str = ""  # constant dockerAuth
    rktversion: str = ""  # constant v1
    registries: tuple[str, ...] | None = None  # registry host(s)
    credentials: RktCredentials | None = None  # login
