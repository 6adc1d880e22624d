"""Apps: what the controller wants and how far zedmanager got with it."""

from __future__ import annotations

from pillar.types.common import AppInstanceOpsCmd, IoAdapter, UUIDandVersion, VmConfig
from pillar.types.eid import EIDOverlayConfig, EIDStatusDetails
from pillar.types.enums import Inprogress, SwState
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Secret, Time, Uint64, Uuid
from pillar.types.zedrouter import OverlayNetworkStatus, UnderlayNetworkConfig, UnderlayNetworkStatus


class StorageConfig(Record):
    """One image of an app, a base OS or a certificate object."""

    DatastoreID: Uuid = NIL_UUID  # which datastore to fetch from
    ImageID: Uuid = NIL_UUID  # image UUID (names the rkt credential dir)
    Name: str = ""  # name relative to datastore, or URL
    NameIsURL: bool = False  # name is a complete URL, do not combine with datastore
    Size: Uint64 = 0  # bytes, declared; only for reserving space
    CertificateChain: tuple[str, ...] | None = None  # URLs of intermediate certificates
    ImageSignature: bytes | None = None  # signature over the sha256 (see verifier)
    SignatureKey: str = ""  # URL of signer certificate
    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    ReadOnly: bool = False  # disk is never copied; used in place
    Preserve: bool = False  # RW copy survives inactivate/activate, removed at delete
    Maxsizebytes: Uint64 = 0  # grow copy to this size if larger than image (0 = no)
    Format: str = ""  # lower-case image format: raw, qcow, qcow2, vhd, vmdk, ova, vhdx, container, fmtunknown
    Devtype: str = ""  # lower-case drive type: hdd, cdrom, net, unclassified, hdd_empty
    # lower-case: disk, tgtunknown or "" = disk; kernel; ramdisk; device_tree; others rejected later (initrd too)
    Target: str = ""


class StorageStatus(Record):
    """One image and how far it got."""

    DatastoreID: Uuid = NIL_UUID  # which datastore to fetch from
    ImageID: Uuid = NIL_UUID  # image UUID (names the rkt credential dir)
    Name: str = ""
    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    NameIsURL: bool = False  # name is a complete URL, do not combine with datastore
    Size: Uint64 = 0  # bytes, declared
    CertificateChain: tuple[str, ...] | None = None  # URLs of intermediate certificates
    ImageSignature: bytes | None = None  # signature over the sha256 (see verifier)
    SignatureKey: str = ""  # URL of signer certificate
    ReadOnly: bool = False  # disk is never copied; used in place
    Preserve: bool = False  # RW copy survives inactivate/activate, removed at delete
    Maxsizebytes: Uint64 = 0  # grow copy to this size if larger than image (0 = no)
    Format: str = ""  # lower-case image format: raw, qcow, qcow2, vhd, vmdk, ova, vhdx, container, fmtunknown
    Devtype: str = ""  # lower-case drive type: hdd, cdrom, net, unclassified, hdd_empty
    # lower-case: disk, tgtunknown or "" = disk; kernel; ramdisk; device_tree; others rejected later (initrd too)
    Target: str = ""
    State: SwState = SwState.NONE  # state of this image
    Progress: Uint64 = 0  # percent 0–100
    HasDownloaderRef: bool = False  # we hold one DownloaderConfig refcount
    HasVerifierRef: bool = False  # we hold one VerifyImageConfig refcount
    IsContainer: bool = False  # image is a container handled by rkt
    ContainerImageID: str = ""  # rkt image id, `sha512-...`
    Vdev: str = ""  # device name from domainmgr
    # first `<verified dir>/<safename>` (not a real path), later the disk file from domainmgr
    ActiveFileLocation: str = ""
    FinalObjDir: str = ""  # install target for base OS (partition label) and certs
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorSource: str = ""  # `DownloaderStatus` or `VerifyImageStatus`
    ErrorTime: Time = ZERO_TIME


class AppInstanceConfig(Record):
    """An app (ECO) as the controller wants it. Written by zedagent; keyed by the app's UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    ConfigSha256: str = ""  # never filled by zedagent
    ConfigSignature: str = ""  # never filled by zedagent
    Errors: tuple[str, ...] | None = None  # parse errors found by zedagent; non-empty blocks creation
    FixedResources: VmConfig = VmConfig()  # CPU, memory, boot
    StorageConfigList: tuple[StorageConfig, ...] | None = None
    Activate: bool = False
    OverlayNetworkList: tuple[EIDOverlayConfig, ...] | None = None  # mesh networks wanted
    UnderlayNetworkList: tuple[UnderlayNetworkConfig, ...] | None = None  # other networks wanted
    IoAdapterList: tuple[IoAdapter, ...] | None = None  # adapter groups to pass through
    RestartCmd: AppInstanceOpsCmd = AppInstanceOpsCmd()
    PurgeCmd: AppInstanceOpsCmd = AppInstanceOpsCmd()
    CloudInitUserData: Secret = ""  # base64 text; domainmgr decodes it. A secret: people put passwords there
    RemoteConsole: bool = False  # start websocket tunnel for console

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class AppInstanceStatus(Record):
    """An app as it is. Written by zedmanager; keyed by the app's UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    DomainName: str = ""  # hypervisor domain name once known
    Activated: bool = False  # actual: running / provisioned
    ActivateInprogress: bool = False  # activation started; cleanup needed even if not Activated
    FixedResources: VmConfig = VmConfig()  # copy of config for change detection
    StorageStatusList: tuple[StorageStatus, ...] | None = None  # per-image progress
    EIDList: tuple[EIDStatusDetails, ...] | None = None  # one per overlay, sized at creation
    OverlayNetworks: tuple[OverlayNetworkStatus, ...] | None = None  # copy from AppNetworkStatus
    UnderlayNetworks: tuple[UnderlayNetworkStatus, ...] | None = None  # copy from AppNetworkStatus
    OverlayNetworkList: tuple[EIDOverlayConfig, ...] | None = None  # copy of config for change detection
    UnderlayNetworkList: tuple[UnderlayNetworkConfig, ...] | None = None  # copy of config for change detection
    BootTime: Time = ZERO_TIME  # from DomainStatus
    IoAdapterList: tuple[IoAdapter, ...] | None = None  # copy of config, later from DomainStatus
    RestartCmd: AppInstanceOpsCmd = AppInstanceOpsCmd()  # last counter acted on
    PurgeCmd: AppInstanceOpsCmd = AppInstanceOpsCmd()  # last counter acted on
    RestartInprogress: Inprogress = Inprogress.NONE  # restart machine
    PurgeInprogress: Inprogress = Inprogress.NONE  # purge machine
    IsContainer: bool = False  # any image has format container
    ContainerImageID: str = ""  # rkt image id, `sha512-...`
    State: SwState = SwState.NONE  # minimum over images, then domain state; RESTARTING/PURGING override
    MissingNetwork: bool = False  # declared; never set by zedmanager
    ErrorSource: str = ""  # type name of the failing table, `CheckDiskSize`, or ""
    Error: str = ""  # all current errors
    ErrorTime: Time = ZERO_TIME  # must be non-zero for the controller to be told

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class RetStatus(Record):
    """Sum over the images of an object; never published."""

    Changed: bool = False
    MinState: SwState = SwState.NONE
    WaitingForCerts: bool = False
    MissingDatastore: bool = False
    AllErrors: str = ""
    ErrorTime: Time = ZERO_TIME
