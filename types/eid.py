"""Identities of apps in LISP networks: keys, endpoint ids (EIDs) and their signatures."""

from __future__ import annotations

from pillar.types.common import UUIDandVersion, eid_key
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Int64, IpAddr, Mac, SecretBytes, Time, Uint32, Uuid
from pillar.types.zedrouter import ACE


class EIDAllocation(Record):
    """How to make an EID; its fields stand in the records below."""

    Allocate: bool = False  # generate key and EID on the device
    ExportPrivate: bool = False  # put the private key in the status
    AllocationPrefix: bytes | None = None  # EID prefix bytes; null → single byte 0xfd
    AllocationPrefixLen: Int64 = 0  # bits; default 8


class EIDConfigDetails(Record):
    """An EID wanted: generated, or given with its certificate."""

    IID: Uint32 = 0
    Allocate: bool = False  # generate key and EID on the device
    ExportPrivate: bool = False  # put the private key in the status
    AllocationPrefix: bytes | None = None  # EID prefix bytes; null → single byte 0xfd
    AllocationPrefixLen: Int64 = 0  # bits; default 8
    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    LispSignature: str = ""  # base64 text of r‖s
    PemCert: bytes | None = None  # certificate PEM
    PemPrivateKey: SecretBytes = None  # private key PEM


class EIDConfig(Record):
    """An EID wanted for an app. Written by zedmanager; keyed `<app UUID>:<IID>`."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    IID: Uint32 = 0
    Allocate: bool = False  # generate key and EID on the device
    ExportPrivate: bool = False  # put the private key in the status
    AllocationPrefix: bytes | None = None  # EID prefix bytes; null → single byte 0xfd
    AllocationPrefixLen: Int64 = 0  # bits; default 8
    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    LispSignature: str = ""  # base64 text of r‖s
    PemCert: bytes | None = None  # certificate PEM
    PemPrivateKey: SecretBytes = None  # private key PEM

    def key(self) -> str:
        return eid_key(self.UUIDandVersion.UUID, self.IID)


class EIDStatusDetails(Record):
    """An EID as it is; also an element of AppInstanceStatus.EIDList."""

    IID: Uint32 = 0
    Allocate: bool = False  # generate key and EID on the device
    ExportPrivate: bool = False  # put the private key in the status
    AllocationPrefix: bytes | None = None  # EID prefix bytes; null → single byte 0xfd
    AllocationPrefixLen: Int64 = 0  # bits; default 8
    PendingAdd: bool = False
    PendingModify: bool = False
    PendingDelete: bool = False
    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    LispSignature: str = ""  # base64 text of r‖s
    PemCert: bytes | None = None  # certificate PEM
    PemPublicKey: bytes | None = None  # public key PEM
    PemPrivateKey: SecretBytes = None  # only if ExportPrivate
    CreateTime: Time = ZERO_TIME  # when generated (zero if supplied)


class EIDStatus(Record):
    """An EID as it is. Written by identitymanager; keyed `<app UUID>:<IID>`."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    IID: Uint32 = 0
    Allocate: bool = False  # generate key and EID on the device
    ExportPrivate: bool = False  # put the private key in the status
    AllocationPrefix: bytes | None = None  # EID prefix bytes; null → single byte 0xfd
    AllocationPrefixLen: Int64 = 0  # bits; default 8
    PendingAdd: bool = False
    PendingModify: bool = False
    PendingDelete: bool = False
    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    LispSignature: str = ""  # base64 text of r‖s
    PemCert: bytes | None = None  # certificate PEM
    PemPublicKey: bytes | None = None  # public key PEM
    PemPrivateKey: SecretBytes = None  # only if ExportPrivate
    CreateTime: Time = ZERO_TIME  # when generated (zero if supplied)

    def key(self) -> str:
        return eid_key(self.UUIDandVersion.UUID, self.IID)


class EIDOverlayConfig(Record):
    """An interface on a mesh network together with the EID wanted for it."""

    Name: str = ""
    IID: Uint32 = 0
    Allocate: bool = False  # generate key and EID on the device
    ExportPrivate: bool = False  # put the private key in the status
    AllocationPrefix: bytes | None = None  # EID prefix bytes; null → single byte 0xfd
    AllocationPrefixLen: Int64 = 0  # bits; default 8
    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    LispSignature: str = ""  # base64 text of r‖s
    PemCert: bytes | None = None  # certificate PEM
    PemPrivateKey: SecretBytes = None  # private key PEM
    ACLs: tuple[ACE, ...] | None = None
    AppMacAddr: Mac = None  # static guest MAC; None = generate
    AppIPAddr: IpAddr = ""  # address of the guest; defaults to EID
    Network: Uuid = NIL_UUID
    Error: str = ""  # for a person; "" means nothing is wrong now
