"""Signatures of images with real keys and certificates: the right one passes, every other one is an error."""

from __future__ import annotations

import base64
import datetime
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from servers import Authority

from pillar.cmd.verifier.signature import SignatureRefused, Trust, check, fingerprint, is_signed
from pillar.types.verifier import VerifyImageConfig

DIGEST = hashlib.sha256(b"the image").digest()
ROOT = Authority("root")
MIDDLE = ROOT.issue("middle")
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def sign(signer: Authority, digest: bytes = DIGEST) -> bytes:
    """As EVE's tools do: RSA bytes, or base64 text of r and s."""
    algorithm = utils.Prehashed(hashes.SHA256())
    if isinstance(signer.key, rsa.RSAPrivateKey):
        return signer.key.sign(digest, padding.PKCS1v15(), algorithm)
    r, s = utils.decode_dss_signature(signer.key.sign(digest, ec.ECDSA(algorithm)))
    length = (signer.key.key_size + 7) // 8
    return base64.b64encode(r.to_bytes(length, "big") + s.to_bytes(length, "big"))


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    ROOT.write(tmp_path / "config", "root-certificate")
    (tmp_path / "certs").mkdir()
    return Trust(tmp_path / "certs", tmp_path / "config" / "root-certificate.pem")


def install(trust: Trust, signer: Authority, *chain: Authority, signature: bytes | None = None) -> VerifyImageConfig:
    """Certificates in place, and the config that names them."""
    (trust.certs / "signer.pem").write_bytes(signer.pem)
    for number, link in enumerate(chain):
        (trust.certs / f"link{number}.pem").write_bytes(link.pem)
    return VerifyImageConfig(
        SignatureKey="https://certs.example/a/signer.pem",
        CertificateChain=tuple(f"https://certs.example/link{number}.pem" for number in range(len(chain))),
        ImageSignature=sign(signer) if signature is None else signature,
    )


@pytest.mark.parametrize(
    "key", [RSA_KEY, ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())]
)
def test_a_good_signature_passes_directly_and_through_an_intermediate(trust: Trust, key: rsa.RSAPrivateKey):
    check(install(trust, ROOT.issue("direct", ca=False, key=key)), DIGEST, trust)
    check(install(trust, MIDDLE.issue("indirect", ca=False, key=key), MIDDLE), DIGEST, trust)


def test_an_ecdsa_signature_may_be_raw(trust: Trust):
    signer = ROOT.issue("signer", ca=False)
    check(install(trust, signer, signature=base64.b64decode(sign(signer))), DIGEST, trust)


def test_a_signer_whom_the_device_trusts_itself_passes(trust: Trust):
    check(install(trust, ROOT), DIGEST, trust)


def test_intermediates_in_any_order_and_more_than_needed(trust: Trust):
    lower = MIDDLE.issue("lower")
    signer = lower.issue("signer", ca=False)
    check(install(trust, signer, Authority("stranger"), lower, MIDDLE), DIGEST, trust)


def test_a_signature_over_another_image_is_refused(trust: Trust):
    for signer in (ROOT.issue("s", ca=False), ROOT.issue("s", ca=False, key=RSA_KEY)):
        config = install(trust, signer, signature=sign(signer, hashlib.sha256(b"another").digest()))
        with pytest.raises(SignatureRefused, match="not one of CN=s over sha256"):
            check(config, DIGEST, trust)


def test_a_signature_by_another_key_is_refused(trust: Trust):
    config = install(trust, ROOT.issue("s", ca=False), signature=sign(ROOT.issue("other", ca=False)))
    with pytest.raises(SignatureRefused, match="not one of"):
        check(config, DIGEST, trust)


@pytest.mark.parametrize("signature", [b"short", b"*" * 64 + b"!", b"A" * 31, base64.b64encode(b"x" * 33)])
def test_a_malformed_ecdsa_signature_is_refused_not_a_crash(trust: Trust, signature: bytes):
    with pytest.raises(SignatureRefused, match=r"64 bytes|not one of"):
        check(install(trust, ROOT.issue("s", ca=False), signature=signature), DIGEST, trust)


def test_half_a_configuration_is_refused(trust: Trust):
    config = install(trust, ROOT.issue("s", ca=False))
    unsigned = VerifyImageConfig(SignatureKey=config.SignatureKey)
    nameless = VerifyImageConfig(ImageSignature=config.ImageSignature)
    assert is_signed(unsigned) and is_signed(nameless) and not is_signed(VerifyImageConfig())
    with pytest.raises(SignatureRefused, match="signature is missing"):
        check(unsigned, DIGEST, trust)
    with pytest.raises(SignatureRefused, match="signer is missing"):
        check(nameless, DIGEST, trust)


@pytest.mark.parametrize("missing", ["signer.pem", "link0.pem"])
def test_a_missing_certificate_is_named(trust: Trust, missing: str):
    config = install(trust, MIDDLE.issue("s", ca=False), MIDDLE)
    (trust.certs / missing).unlink()
    with pytest.raises(SignatureRefused, match=rf"{missing}: No such file"):
        check(config, DIGEST, trust)


def test_a_missing_or_unreadable_root_is_named(trust: Trust):
    config = install(trust, ROOT.issue("s", ca=False))
    trust.root.write_text("nonsense")
    with pytest.raises(SignatureRefused, match=r"root certificate .*not a PEM certificate"):
        check(config, DIGEST, trust)
    trust.root.unlink()
    with pytest.raises(SignatureRefused, match=r"root certificate .*No such file"):
        check(config, DIGEST, trust)


def test_a_certificate_that_is_none_is_named(trust: Trust):
    config = install(trust, ROOT.issue("s", ca=False))
    (trust.certs / "signer.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(SignatureRefused, match="not a PEM certificate"):
        check(config, DIGEST, trust)


@pytest.mark.parametrize("url", ["https://host/", "..", "https://host/.."])
def test_a_url_without_a_file_name_reads_no_file(trust: Trust, url: str):
    with pytest.raises(SignatureRefused, match="names no certificate file"):
        check(VerifyImageConfig(SignatureKey=url, ImageSignature=b"x"), DIGEST, trust)


def test_an_expired_signer_and_one_that_is_not_valid_yet_are_refused(trust: Trust):
    with pytest.raises(SignatureRefused, match="CN=old expired at"):
        check(install(trust, ROOT.issue("old", ca=False, days=(-9, -1))), DIGEST, trust)
    with pytest.raises(SignatureRefused, match="CN=new is not valid before"):
        check(install(trust, ROOT.issue("new", ca=False, days=(1, 9))), DIGEST, trust)


def test_an_expired_intermediate_or_root_is_refused(trust: Trust):
    stale = ROOT.issue("stale", days=(-9, -1))
    with pytest.raises(SignatureRefused, match="CN=stale expired at"):
        check(install(trust, stale.issue("s", ca=False), stale), DIGEST, trust)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=31)
    with pytest.raises(SignatureRefused, match="CN=root expired at"):
        check(install(trust, ROOT.issue("s", ca=False, days=(-1, 99))), DIGEST, trust, later)


def test_a_foreign_signer_is_refused_and_so_is_one_that_only_bears_the_name(trust: Trust):
    for foreign in (Authority("elsewhere"), Authority("root")):
        with pytest.raises(SignatureRefused, match="not issued by anybody the device trusts"):
            check(install(trust, foreign.issue("s", ca=False)), DIGEST, trust)


def test_a_downloaded_intermediate_is_never_a_root(trust: Trust):
    foreign = Authority("foreign root")
    with pytest.raises(SignatureRefused, match="not issued by anybody the device trusts"):
        check(install(trust, foreign.issue("s", ca=False), foreign), DIGEST, trust)
    middle = foreign.issue("foreign middle")
    with pytest.raises(SignatureRefused, match="not issued by anybody the device trusts"):
        check(install(trust, middle.issue("s", ca=False), middle, foreign), DIGEST, trust)
    with pytest.raises(SignatureRefused, match="not issued by anybody the device trusts"):
        check(install(trust, Authority("self", ca=False), Authority("self", ca=False)), DIGEST, trust)


def test_a_certificate_that_is_no_authority_cannot_issue(trust: Trust):
    leaf = ROOT.issue("leaf", ca=False)
    with pytest.raises(SignatureRefused, match="CN=leaf may not issue certificates"):
        check(install(trust, leaf.issue("s", ca=False), leaf), DIGEST, trust)


def test_a_chain_longer_than_an_authority_allows_is_refused(trust: Trust):
    narrow = ROOT.issue("narrow", path_length=0)
    lower = narrow.issue("lower")
    check(install(trust, narrow.issue("s", ca=False), narrow), DIGEST, trust)
    with pytest.raises(SignatureRefused, match="CN=narrow allows 0 intermediates below it"):
        check(install(trust, lower.issue("s", ca=False), lower, narrow), DIGEST, trust)


def test_a_kind_of_key_that_cannot_be_checked_is_refused(trust: Trust):
    signer = ROOT.issue("s", ca=False, key=ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(SignatureRefused, match="only RSA and ECDSA can be checked"):
        check(install(trust, signer, signature=b"x"), DIGEST, trust)


def test_a_fingerprint_stands_for_signature_signer_and_chain(trust: Trust):
    config = install(trust, MIDDLE.issue("s", ca=False), MIDDLE)
    others = [
        VerifyImageConfig(SignatureKey=config.SignatureKey, ImageSignature=config.ImageSignature),
        VerifyImageConfig(
            SignatureKey="x", ImageSignature=config.ImageSignature, CertificateChain=config.CertificateChain
        ),
        VerifyImageConfig(
            SignatureKey=config.SignatureKey, ImageSignature=b"x", CertificateChain=config.CertificateChain
        ),
    ]
    assert len({fingerprint(config), *map(fingerprint, others)}) == 4
    assert fingerprint(VerifyImageConfig()) == ""
