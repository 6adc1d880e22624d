"""Verifying images: what zedmanager asks of the verifier and what it found."""

from __future__ import annotations

from pillar.types.enums import SwState
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Int64, Time, Uint64


class VerifyImageConfig(Record):
    """An image to verify. Written by zedmanager (scope appImg.obj) and baseosmgr (baseOs.obj); keyed by Safename."""

    Safename: str = ""  # record key and file name
    Name: str = ""  # for logs
    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    RefCount: Uint64 = 0  # number of users; 0 = keep but unused
    CertificateChain: tuple[str, ...] | None = None  # URLs of intermediate certificates
    ImageSignature: bytes | None = None  # signature over the sha256 (see verifier)
    SignatureKey: str = ""  # URL of signer certificate
    IsContainer: bool = False  # image is a container handled by rkt
    ContainerImageID: str = ""  # rkt image id, `sha512-...`

    def key(self) -> str:
        return self.Safename


class VerifyImageStatus(Record):
    """What the verifier found, in the scope of the order; keyed by Safename. State is DOWNLOADED while unverified,
    DELIVERED when good.
    """

    Safename: str = ""  # record key and file name
    ObjType: str = ""  # `appImg.obj`, `baseOs.obj` or `cert.obj`
    PendingAdd: bool = False
    PendingModify: bool = False
    PendingDelete: bool = False
    IsContainer: bool = False  # copied from config
    ContainerImageID: str = ""  # rkt image id, `sha512-...`
    ImageSha256: str = ""  # expected sha256, hex text as given (compared case-insensitively)
    State: SwState = SwState.NONE  # DOWNLOADED while unverified, DELIVERED when good
    LastErr: str = ""  # for a person; "" means nothing is wrong now
    LastErrTime: Time = ZERO_TIME
    Size: Int64 = 0  # bytes (signed)
    RefCount: Uint64 = 0  # number of users; 0 = keep but unused
    LastUse: Time = ZERO_TIME  # time of last refcount change; clock for garbage collection
    Expired: bool = False  # owner offers the record for removal (handshake)

    def key(self) -> str:
        return self.Safename


class SignatureInfo(Record):
    """Certificates and signature of an image; not used on the way of an app."""

    IntermediateCertsPem: bytes | None = None  # PEM
    SignerCertPem: bytes | None = None  # PEM
    Signature: bytes | None = None  # signature
