"""identitymanager: what an identity is, every arm of the decision, and a real agent that is killed and restarted."""

import base64
import dataclasses
import hashlib
import ipaddress
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from support import wait_for

from pillar.cmd.identitymanager import identity, store
from pillar.cmd.identitymanager.decide import Decision, Facts, Made, pending, step
from pillar.cmd.identitymanager.make import make
from pillar.locations import Locations
from pillar.pidfile import holder
from pillar.pubsub import decode, encode
from pillar.types.common import UUIDandVersion
from pillar.types.eid import EIDConfig, EIDStatus
from pillar.types.eid_error import EIDError

UUID = "6f1c0a3e-0000-4000-8000-000000000001"
NOW = "2026-01-02T03:04:05Z"
KEY = f"{UUID}:77"
ALLOCATE = EIDConfig(
    UUIDandVersion=UUIDandVersion(UUID=UUID, Version="1"), DisplayName="overlay", IID=77, Allocate=True
)
R = TypeVar("R", bound=msgspec.Struct)


def but(record: R, **fields: object) -> R:
    return msgspec.structs.replace(record, **fields)


# What an identity is.


def test_the_eid_comes_from_the_key_and_the_signature_and_the_certificate_prove_it() -> None:
    made = identity.generate(77, b"\xfd")
    public = serialization.load_pem_public_key(made.PemPublicKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256((77).to_bytes(4, "big") + b"\xfd" + der).digest()
    assert str(ipaddress.IPv6Address(b"\xfd" + digest[:15])) == made.EID

    raw = base64.b64decode(made.LispSignature)
    assert len(raw) == 64
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(signature, f"[77]{made.EID}".encode(), ec.ECDSA(hashes.SHA256()))

    certificate = x509.load_pem_x509_certificate(made.PemCert)
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.rfc4514_string() == "CN=Application Instance,O=Zededa\\, Inc,L=Santa Clara,ST=CA,C=US"
    assert certificate.public_key() == public
    assert 7299 <= (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 7306
    assert certificate.serial_number < 2**128
    assert made.PemPrivateKey.startswith(b"-----BEGIN EC PRIVATE KEY-----")


def test_short_numbers_of_a_signature_are_padded() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    lengths = {len(base64.b64decode(identity.signature(key, 1, "fd00::1"))) for _ in range(400)}
    assert lengths == {64}, "without padding about 3 of 400 are shorter"


def test_a_prefix_or_an_instance_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(identity.BadIdentity, match="leaves nothing"):
        identity.eid_of(1, bytes(16), b"key")
    with pytest.raises(identity.BadIdentity, match="32 bits"):
        identity.eid_of(2**32, b"\xfd", b"key")


# Making and keeping one.


def test_an_identity_is_made_once_and_its_private_key_is_exported_on_request_only(tmp_path: Path) -> None:
    first = make(tmp_path / "ids", KEY, ALLOCATE).status
    assert first is not None
    assert not first.PendingAdd
    assert first.PemPrivateKey is None
    assert (first.AllocationPrefix, first.AllocationPrefixLen) == (b"\xfd", 8)
    exported = make(tmp_path / "ids", KEY, but(ALLOCATE, ExportPrivate=True)).status
    assert exported is not None
    assert (exported.EID, exported.LispSignature) == (first.EID, first.LispSignature)
    assert b"EC PRIVATE KEY" in (exported.PemPrivateKey or b"")
    (file,) = (tmp_path / "ids").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_another_prefix_is_another_identity_and_a_wrong_length_is_an_error(tmp_path: Path) -> None:
    config = but(ALLOCATE, AllocationPrefix=b"\xfd\x10", AllocationPrefixLen=16)
    first, second = make(tmp_path, KEY, ALLOCATE).status, make(tmp_path, KEY, config).status
    assert first is not None
    assert second is not None
    assert second.EID.startswith("fd10:")
    assert first.EID != second.EID
    wrong = make(tmp_path, KEY, but(config, AllocationPrefixLen=12))
    assert "has 16 bits, AllocationPrefixLen says 12" in wrong.error
    assert wrong.lasting


def test_a_broken_file_is_an_error_and_never_a_new_key(tmp_path: Path) -> None:
    make(tmp_path, KEY, ALLOCATE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    made = make(tmp_path, KEY, ALLOCATE)
    assert made.status is None
    assert "remove the file" in made.error
    assert not made.lasting
    with pytest.raises(store.BadStore):
        store.load(tmp_path, KEY)


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a file where the directory should be")
    made = make(tmp_path / "ids", KEY, ALLOCATE)
    assert "cannot keep the identity" in made.error
    assert made.status is None


def supplied(**fields: object) -> EIDConfig:
    made = identity.generate(77, b"\xfd")
    given = EIDConfig(
        UUIDandVersion=ALLOCATE.UUIDandVersion,
        IID=77,
        EID=made.EID,
        LispSignature=made.LispSignature,
        PemCert=made.PemCert,
        PemPrivateKey=made.PemPrivateKey,
    )
    return but(given, **fields)


def test_a_supplied_identity_is_checked_and_passed_through(tmp_path: Path) -> None:
    config = supplied()
    status = make(tmp_path, KEY, config).status
    assert status is not None
    assert (status.EID, status.LispSignature, status.PemCert) == (config.EID, config.LispSignature, config.PemCert)
    assert (status.PemPublicKey or b"").startswith(b"-----BEGIN PUBLIC KEY-----")
    assert status.PemPrivateKey is None
    assert status.CreateTime == EIDStatus().CreateTime
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("certificate", "problem"),
    [
        (None, "no certificate is supplied"),
        (b"hello", "is not PEM"),
        (b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", "holds a 'EC PRIVATE KEY'"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\n\xff\xfe", "cannot be read"),
    ],
)
def test_a_bad_certificate_is_an_error_that_waits_for_another_configuration(
    tmp_path: Path, certificate: bytes | None, problem: str
) -> None:
    made = make(tmp_path, KEY, supplied(PemCert=certificate))
    assert problem in made.error
    assert made.lasting


def test_a_certificate_without_its_eid_is_an_error(tmp_path: Path) -> None:
    assert "without the EID" in make(tmp_path, KEY, supplied(EID="")).error


# The decision.

DONE = but(pending(ALLOCATE), PendingAdd=False, EID="fd00::1")


def decided(
    config: EIDConfig | None, status: EIDStatus | None, error: EIDError | None = None, **given: object
) -> Decision:
    return step(config, status, error, dataclasses.replace(Facts(now=NOW), **given))  # type: ignore[arg-type]


def test_a_new_eid_is_pending_before_it_is_made() -> None:
    decision = decided(ALLOCATE, None)
    assert decision.make
    assert decision.status == pending(ALLOCATE)
    assert pending(ALLOCATE).PendingAdd


def test_what_a_kill_interrupted_is_made_and_what_is_done_is_left_alone() -> None:
    assert decided(ALLOCATE, pending(ALLOCATE)).make
    assert not decided(ALLOCATE, pending(ALLOCATE), busy=True).make
    finished = decided(ALLOCATE, pending(ALLOCATE), made=Made(ALLOCATE, DONE))
    assert (finished.status, finished.make) == (DONE, False)
    assert decided(ALLOCATE, DONE) == Decision(DONE)


def test_a_failure_stays_pending_with_an_error_record_and_is_tried_again_if_that_can_help() -> None:
    failed = decided(ALLOCATE, pending(ALLOCATE), made=Made(ALLOCATE, error="disk full"))
    assert failed.status == pending(ALLOCATE)
    assert failed.error is not None
    assert (failed.error.Error, failed.error.ErrorTime, failed.error.key()) == ("disk full", NOW, KEY)
    assert failed.retry
    assert not decided(ALLOCATE, failed.status, failed.error).make
    assert decided(ALLOCATE, failed.status, failed.error, retry_due=True).make
    lasting = decided(ALLOCATE, pending(ALLOCATE), made=Made(ALLOCATE, error="bad", lasting=True))
    assert not lasting.retry


def test_what_was_made_for_an_older_configuration_is_made_again() -> None:
    newer = but(ALLOCATE, ExportPrivate=True)
    assert decided(newer, pending(ALLOCATE), made=Made(ALLOCATE, DONE)).make


def test_another_version_or_name_is_taken_over_and_another_allocation_refused() -> None:
    newer = but(ALLOCATE, UUIDandVersion=UUIDandVersion(UUID=UUID, Version="2"), DisplayName="new")
    assert decided(newer, DONE).status == but(DONE, UUIDandVersion=newer.UUIDandVersion, DisplayName="new")
    refused = decided(but(ALLOCATE, AllocationPrefix=b"\xfc"), DONE)
    assert refused.status == DONE
    assert refused.error is not None
    assert "cannot change" in refused.error.Error
    assert decided(ALLOCATE, DONE, refused.error).error is None


def test_a_withdrawn_eid_is_forgotten_once_the_table_is_complete() -> None:
    gone = decided(None, DONE)
    assert (gone.status, gone.forget) == (None, True)
    assert decided(None, DONE, synchronized=False).status == DONE
    assert decided(None, DONE, busy=True).status == DONE
    assert not decided(None, None).forget, "after a reboot the file of an app that nobody mentioned yet stays"


# The agent.


class Device:
    def __init__(self, root: Path) -> None:
        self.where = Locations(root)
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.agent = subprocess.Popen(
            [sys.executable, "-m", "pillar.cmd.identitymanager", "--root", str(self.where.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
            self.agent = None

    def config(self, config: EIDConfig) -> Path:
        directory = self.where.agent_dir("zedmanager") / "EIDConfig"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{KEY}.json"
        staged = directory / f".{KEY}"
        staged.write_bytes(encode(config))
        return staged.rename(path)

    def read(self, record: type[R]) -> R | None:
        path = self.where.agent_dir("identitymanager") / record.__name__ / f"{KEY}.json"
        try:
            return decode(record, path.read_bytes())
        except FileNotFoundError:
            return None

    def until(self, true: Callable[[EIDStatus], object], what: str) -> EIDStatus:
        def look() -> EIDStatus | None:
            found = self.read(EIDStatus)
            return found if found is not None and true(found) else None

        found = wait_for(look, what)
        assert found is not None
        return found


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    device.kill()


def test_the_eid_stays_over_kills_and_reboots_until_it_is_withdrawn(device: Device) -> None:
    path = device.config(ALLOCATE)
    device.start()
    first = device.until(lambda found: not found.PendingAdd, "an EID")
    device.kill()
    device.start()
    wait_for(lambda: device.where.log("identitymanager").read_text().count("started") == 2, "it is up again")
    assert device.read(EIDStatus) == first
    device.kill()
    for table in device.where.agent_dir("identitymanager").iterdir():  # a reboot empties /run
        for entry in table.glob("*.json"):
            entry.unlink()
    device.start()
    assert device.until(lambda found: not found.PendingAdd, "an EID") == first
    path.unlink()
    wait_for(lambda: device.read(EIDStatus) is None, "the status is withdrawn")
    assert list((device.where.persist / "identitymanager").iterdir()) == []
    device.config(ALLOCATE)
    assert device.until(lambda found: not found.PendingAdd, "an EID").EID != first.EID


def test_an_eid_that_was_withdrawn_while_it_was_dead_is_forgotten(device: Device) -> None:
    path = device.config(ALLOCATE)
    device.start()
    device.until(lambda found: not found.PendingAdd, "an EID")
    device.kill()
    path.unlink()
    device.start()
    wait_for(lambda: device.read(EIDStatus) is None, "the status is withdrawn")
    assert list((device.where.persist / "identitymanager").iterdir()) == []


def test_a_failure_can_be_seen_and_a_better_configuration_heals_it(device: Device) -> None:
    device.config(supplied(PemCert=b"junk"))
    device.start()
    error = wait_for(lambda: device.read(EIDError), "an EIDError")
    assert error is not None
    assert "is not PEM" in error.Error
    status = device.read(EIDStatus)
    assert status is not None
    assert status.PendingAdd
    log = device.where.log("identitymanager")
    wait_for(lambda: "is not PEM" in log.read_text(), "the log line that follows the record")
    assert "PRIVATE KEY" not in log.read_text()
    better = supplied()
    device.config(better)
    assert device.until(lambda found: not found.PendingAdd, "it is accepted").EID == better.EID
    wait_for(lambda: device.read(EIDError) is None, "the error is withdrawn")


def test_a_disk_that_refuses_is_tried_again_in_a_moment_and_then_less_and_less_often(device: Device) -> None:
    in_the_way = device.where.persist / "identitymanager"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    device.config(ALLOCATE)
    device.start()
    wait_for(lambda: device.read(EIDError), "an EIDError")
    began = time.monotonic()
    in_the_way.unlink()
    device.until(lambda found: not found.PendingAdd, "an EID")
    assert time.monotonic() - began < 30, "half of the longest time between two tries"
    wait_for(lambda: device.read(EIDError) is None, "the error is withdrawn")


@pytest.mark.parametrize("call", ["fsync", "rename,renameat,renameat2"])
@pytest.mark.parametrize("occurrence", [1, 2])
def test_an_eid_that_anybody_saw_is_never_replaced_by_another(device: Device, call: str, occurrence: int) -> None:
    device.config(ALLOCATE)
    fault = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={occurrence}"]
    command = [sys.executable, "-m", "pillar.cmd.identitymanager", "--root", str(device.where.root)]
    try:
        traced = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", *fault, *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("strace is not installed")

    def seen() -> str:
        found = device.read(EIDStatus)
        return found.EID if found is not None and not found.PendingAdd else ""

    try:
        wait_for(lambda: traced.poll() is not None or seen(), "it is killed, or does not make the call so often", 60)
        before = seen()
    finally:
        _end(device, traced)
    device.start()
    after = device.until(lambda found: not found.PendingAdd, "an EID").EID
    assert before in ("", after)


def _end(device: Device, traced: "subprocess.Popen[bytes]") -> None:
    """End strace and the agent under it."""
    children = Path(f"/proc/{traced.pid}/task/{traced.pid}/children")
    agents = children.read_text().split() if children.exists() else []
    for pid in agents:
        subprocess.run(["kill", "-9", pid], check=False)
    traced.kill()
    traced.wait()
    pid_file = device.where.pid("identitymanager")
    wait_for(lambda: holder(pid_file) is None, "the kernel has taken it down: the next one would be refused")
