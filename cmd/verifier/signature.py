"""Is this digest signed by somebody whom the device trusts?

The signer's certificate is in the certs directory under the last part of its URL, and so are the intermediates that
the config names. Trusted is only what stands in the device's root certificate file: whatever was downloaded is a link
of the chain at most, never its end.

An RSA signature is PKCS#1 v1.5 over the sha256; an ECDSA signature is r and s, each as long as the curve's order, raw
or as base64 text (EVE's form).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillar.types.common import filename_from_url
from pillar.types.verifier import VerifyImageConfig

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MAX_CHAIN = 8
MISSING = "signature: the config names none, and GlobalConfig's SignaturePolicy is strict: every image has to be signed"


class SignatureRefused(Exception):
    """The digest is not signed as it has to be; the text says what is missing or wrong and where."""


@dataclass(frozen=True)
class Trust:
    """Where certificates are: `certs` holds what was downloaded, `root` is the device's own trust anchor."""

    certs: Path
    root: Path


def is_signed(config: VerifyImageConfig) -> bool:
    """Whether the config asks for a signature; either half of it is enough to ask."""
    return bool(config.ImageSignature or config.SignatureKey)


def fingerprint(config: VerifyImageConfig) -> str:
    """Names what the config asks to be checked, so that it need not be checked again; empty without a signature."""
    if not is_signed(config):
        return ""
    parts = (
        config.ImageSignature or b"",
        config.SignatureKey.encode(),
        *(u.encode() for u in config.CertificateChain or ()),
    )
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def check(config: VerifyImageConfig, digest: bytes, trust: Trust, now: datetime.datetime | None = None) -> None:
    """Return if `digest` (32 bytes) is signed as the config says, by a chain that ends at a trusted root.

    Raises SignatureRefused.
    """
    if not config.ImageSignature:
        raise SignatureRefused("the signature is missing: SignatureKey is set, ImageSignature is empty")
    if not config.SignatureKey:
        raise SignatureRefused("the signer is missing: ImageSignature is set, SignatureKey is empty")
    moment = now or datetime.datetime.now(datetime.UTC)
    signer = _load(trust.certs / _certificate_name(config.SignatureKey), "signer certificate")[0]
    intermediates = [
        certificate
        for url in config.CertificateChain or ()
        for certificate in _load(trust.certs / _certificate_name(url), "chain certificate")
    ]
    roots = _load(trust.root, "root certificate")
    _check_chain(signer, intermediates, roots, moment)
    _check_signature(signer, config.ImageSignature, digest)


def _certificate_name(url: str) -> str:
    name = filename_from_url(url)
    if name in ("", ".", ".."):
        raise SignatureRefused(f"{url!r} names no certificate file")
    return name


def _load(path: Path, what: str) -> list[Certificate]:
    from cryptography import x509  # on use: unsigned images need none of it

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as err:
        raise SignatureRefused(f"{what} {path}: {err.strerror or err}") from err
    except ValueError as err:
        raise SignatureRefused(f"{what} {path}: not a PEM certificate: {err}") from err


def _check_chain(
    signer: Certificate, intermediates: list[Certificate], roots: list[Certificate], moment: datetime.datetime
) -> None:
    """Walk from the signer to a root, trying every issuer that fits. Raises SignatureRefused with the best reason."""
    _check_dates(signer, moment)
    if _usage_forbids(signer, "digital_signature"):
        raise SignatureRefused(f"certificate {_name(signer)} may not sign content")
    if signer in roots:
        return
    reasons: list[str] = []
    if not _reaches_root(signer, intermediates, roots, moment, 0, reasons):
        raise SignatureRefused(
            reasons[0] if reasons else f"certificate {_name(signer)} is not issued by anybody the device trusts"
        )


def _reaches_root(
    certificate: Certificate,
    intermediates: list[Certificate],
    roots: list[Certificate],
    moment: datetime.datetime,
    depth: int,
    reasons: list[str],
) -> bool:
    for issuer in [*roots, *intermediates]:
        if certificate.issuer != issuer.subject or not _issued(certificate, issuer):
            continue
        try:
            _check_dates(issuer, moment)
            _check_authority(issuer, depth)
        except SignatureRefused as err:
            reasons.append(str(err))
            continue
        if issuer in roots:
            return True
        rest = [other for other in intermediates if other != issuer]
        if depth < MAX_CHAIN and _reaches_root(issuer, rest, roots, moment, depth + 1, reasons):
            return True
    return False


def _issued(certificate: Certificate, issuer: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False  # same name, another key; or a kind of key that cannot sign certificates
    return True


def _check_dates(certificate: Certificate, moment: datetime.datetime) -> None:
    if moment < certificate.not_valid_before_utc:
        raise SignatureRefused(
            f"certificate {_name(certificate)} is not valid before {certificate.not_valid_before_utc}"
        )
    if moment > certificate.not_valid_after_utc:
        raise SignatureRefused(f"certificate {_name(certificate)} expired at {certificate.not_valid_after_utc}")


def _check_authority(certificate: Certificate, depth: int) -> None:
    """May it issue certificates, with `depth` intermediates below it?"""
    from cryptography import x509

    known = {x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, x509.SubjectAlternativeName.oid}
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as err:
        raise SignatureRefused(f"certificate {_name(certificate)} is no authority: {err}") from err
    if not constraints.ca or _usage_forbids(certificate, "key_cert_sign"):
        raise SignatureRefused(f"certificate {_name(certificate)} may not issue certificates")
    if constraints.path_length is not None and depth > constraints.path_length:
        raise SignatureRefused(
            f"certificate {_name(certificate)} allows {constraints.path_length} intermediates below it"
        )
    for extension in extensions:
        if extension.critical and extension.oid not in known:
            raise SignatureRefused(
                f"certificate {_name(certificate)} has a critical extension {extension.oid.dotted_string}"
            )


def _usage_forbids(certificate: Certificate, usage: str) -> bool:
    from cryptography import x509

    try:
        return not getattr(certificate.extensions.get_extension_for_class(x509.KeyUsage).value, usage)
    except x509.ExtensionNotFound:
        return False
    except (x509.DuplicateExtension, ValueError) as err:
        raise SignatureRefused(f"certificate {_name(certificate)} is malformed: {err}") from err


def _check_signature(signer: Certificate, signature: bytes, digest: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

    algorithm = utils.Prehashed(hashes.SHA256())
    key = signer.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            r, s = _halves(signature, (key.curve.key_size + 7) // 8)
            key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(algorithm))
        else:
            raise SignatureRefused(
                f"certificate {_name(signer)} has a {type(key).__name__}, only RSA and ECDSA can be checked"
            )
    except InvalidSignature as err:
        raise SignatureRefused(f"the signature is not one of {_name(signer)} over sha256 {digest.hex()}") from err


def _halves(signature: bytes, length: int) -> tuple[int, int]:
    """r and s of an ECDSA signature. Raises SignatureRefused."""
    raw = signature
    if len(raw) != 2 * length:
        try:
            raw = base64.b64decode(signature.strip(), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
    if len(raw) != 2 * length:
        raise SignatureRefused(
            f"an ECDSA signature for this key has {2 * length} bytes, raw or as base64; this one has {len(signature)}"
        )
    return int.from_bytes(raw[:length], "big"), int.from_bytes(raw[length:], "big")


def _name(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
