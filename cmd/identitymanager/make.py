"""Making an identity, or checking a supplied one: runs in a worker thread.

`cryptography` is imported here when the first EID is wanted, so an identitymanager without overlay networks stays
small.
"""

from pathlib import Path

import msgspec

from pillar.cmd.identitymanager.decide import Made, pending, prefix_of
from pillar.types.eid import EIDConfig


def make(directory: Path, key: str, config: EIDConfig) -> Made:
    """The status of a configuration, complete; an allocated identity is durable when this returns."""
    from pillar.cmd.identitymanager import store
    from pillar.cmd.identitymanager.identity import BadIdentity

    try:
        return _allocate(directory, key, config) if config.Allocate else _check(config)
    except BadIdentity as error:
        return Made(config, error=str(error), lasting=True)
    except store.BadStore as error:
        return Made(config, error=str(error))
    except OSError as error:
        return Made(config, error=f"cannot keep the identity in {error.filename or directory}: {error.strerror}")


def _allocate(directory: Path, key: str, config: EIDConfig) -> Made:
    from pillar.cmd.identitymanager import store
    from pillar.cmd.identitymanager.identity import BadIdentity, generate

    prefix = prefix_of(config)
    if config.AllocationPrefix and config.AllocationPrefixLen not in (0, 8 * len(prefix)):
        raise BadIdentity(
            f"the allocation prefix has {8 * len(prefix)} bits, AllocationPrefixLen says {config.AllocationPrefixLen}"
        )
    identity = store.load(directory, key)
    if identity is None or identity.Prefix != prefix or identity.IID != config.IID:
        identity = generate(config.IID, prefix)
        store.save(directory, key, identity)
    status = msgspec.structs.replace(
        pending(config),
        PendingAdd=False,
        EID=identity.EID,
        LispSignature=identity.LispSignature,
        PemCert=identity.PemCert,
        PemPublicKey=identity.PemPublicKey,
        PemPrivateKey=identity.PemPrivateKey if config.ExportPrivate else None,
        CreateTime=identity.CreateTime,
    )
    return Made(config, status)


def _check(config: EIDConfig) -> Made:
    from pillar.cmd.identitymanager.identity import BadIdentity, public_key_of

    public = public_key_of(config.PemCert or b"")
    if not config.EID:
        raise BadIdentity("a certificate is supplied without the EID that belongs to it")
    status = msgspec.structs.replace(
        pending(config),
        PendingAdd=False,
        PemPublicKey=public,
        PemPrivateKey=config.PemPrivateKey if config.ExportPrivate else None,
    )
    return Made(config, status)
