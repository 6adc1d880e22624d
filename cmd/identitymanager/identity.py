"""What an identity is made of: ECDSA P-256 key, self-signed certificate, EID and LISP signature.

    EID        the first 16 bytes of  prefix || sha256(IID as 4 bytes, big-endian || prefix || public key as SPKI DER)
    signature  ECDSA over the sha256 of the text "[<IID>]<EID>", as base64 of r || s, each 32 bytes long. EVE leaves the
               leading zero bytes of r and s out, so that one signature in 128 is short and cannot be taken apart again.

Importing this module imports `cryptography`; only who makes identities does.
"""

import base64
import datetime
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from pillar.types.scalars import Time, now, parse_ip

COORDINATE_BYTES = 32  # of P-256
EID_BYTES = 16
YEARS_VALID = 20
_SUBJECT: Sequence[tuple[x509.ObjectIdentifier, str]] = (
    (NameOID.COUNTRY_NAME, "US"),
    (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
    (NameOID.LOCALITY_NAME, "Santa Clara"),
    (NameOID.ORGANIZATION_NAME, "Zededa, Inc"),
    (NameOID.COMMON_NAME, "Application Instance"),
)


class BadIdentity(ValueError):
    """What the configuration asks for or supplies is wrong; no other try helps."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """One identity, whole. Holds a private key: never log it."""

    IID: int
    Prefix: bytes
    EID: str
    LispSignature: str
    PemCert: bytes
    PemPublicKey: bytes
    PemPrivateKey: bytes
    CreateTime: Time


def generate(iid: int, prefix: bytes) -> Identity:
    """A new identity. Raises BadIdentity when the instance id or the prefix do not fit."""
    key = ec.generate_private_key(ec.SECP256R1())
    eid = eid_of(iid, prefix, spki(key.public_key()))
    return Identity(
        IID=iid,
        Prefix=prefix,
        EID=eid,
        LispSignature=signature(key, iid, eid),
        PemCert=self_signed(key).public_bytes(serialization.Encoding.PEM),
        PemPublicKey=public_pem(key.public_key()),
        PemPrivateKey=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,  # "EC PRIVATE KEY"
            serialization.NoEncryption(),
        ),
        CreateTime=now(),
    )


def eid_of(iid: int, prefix: bytes, public_der: bytes) -> str:
    """The EID of a public key, as an IPv6 address in Go's form."""
    if not 0 <= iid < 2**32:
        raise BadIdentity(f"the instance id is {iid}, expected 32 bits")
    if len(prefix) >= EID_BYTES:
        raise BadIdentity(
            f"the allocation prefix has {len(prefix)} bytes and leaves nothing of the {EID_BYTES} of an EID"
        )
    digest = hashlib.sha256(iid.to_bytes(4, "big") + prefix + public_der).digest()
    return parse_ip(_ipv6_text((prefix + digest)[:EID_BYTES]))


def signature(key: ec.EllipticCurvePrivateKey, iid: int, eid: str) -> str:
    """The LISP signature of an EID: base64 of exactly 64 bytes."""
    r, s = decode_dss_signature(key.sign(f"[{iid}]{eid}".encode(), ec.ECDSA(hashes.SHA256())))
    return base64.b64encode(r.to_bytes(COORDINATE_BYTES, "big") + s.to_bytes(COORDINATE_BYTES, "big")).decode()


def self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A CA certificate for the key, from now for 20 years, with a random serial number of 128 bits."""
    name = x509.Name([x509.NameAttribute(oid, text) for oid, text in _SUBJECT])
    start = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() >> 32)  # 160 bits less 32
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=YEARS_VALID * 365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def public_key_of(certificate_pem: bytes) -> bytes:
    """The public key (PEM) of a supplied certificate. Raises BadIdentity saying what is wrong with it."""
    if not certificate_pem:
        raise BadIdentity("no certificate is supplied, and none is to be made (Allocate is false)")
    if b"-----BEGIN " not in certificate_pem:
        raise BadIdentity("the supplied certificate is not PEM")
    kind = certificate_pem.partition(b"-----BEGIN ")[2].partition(b"-----")[0].decode(errors="replace")
    if kind != "CERTIFICATE":
        raise BadIdentity(f"the supplied PEM holds a {kind!r}, expected a CERTIFICATE")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadIdentity(f"the supplied certificate cannot be read: {error}") from error
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo, PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _ipv6_text(address: bytes) -> str:
    return ":".join(address[index : index + 2].hex() for index in range(0, EID_BYTES, 2))
