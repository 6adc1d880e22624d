"""Facts, configs and worlds that the tests of zedmanager's decisions share."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from zedmanager_world import (
    SHA1,
    SHA2,
    T0,
    A,
    World,
    app_config,
)

from pillar.cmd.zedmanager.facts import Facts, VerifiedImage
from pillar.cmd.zedmanager.phase import Phase, phase
from pillar.types.common import UUIDandVersion
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig
from pillar.types.zedrouter import AppNetworkStatus

NAME = f"disk.img.{SHA1}"
NAME2 = f"new.img.{SHA2}"
GOOD = VerifyImageStatus(Safename=NAME, ImageSha256=SHA1, State=SwState.DELIVERED, RefCount=1)
FOUND = {SHA1: VerifiedImage(path="/v/1/disk.img", size_bytes=1000), SHA2: VerifiedImage(path="/v/2/new.img")}
NETWORK_UP = AppNetworkStatus(Activated=True, AppNum=7)


def facts(config: AppInstanceConfig | None = None, **fields: Any) -> Facts:
    plain: dict[str, Any] = {"key": A, "now": T0, "config": config if config is not None else app_config()}
    return Facts(**(plain | fields))


def verified(config: AppInstanceConfig | None = None, **fields: Any) -> Facts:
    """Facts of an app whose image is verified."""
    return facts(config, **({"verifications": {NAME: GOOD}, "verified": FOUND} | fields))


def running(*, seed: int = 0, **fields: Any) -> World:
    world = World(seed, a=app_config(**fields)).settle()
    assert world.status().State == SwState.RUNNING
    return world


def change(world: World, **fields: Any) -> World:
    config = world.tables["config"][A]
    world.tables["config"][A] = replace(
        config, **fields, UUIDandVersion=UUIDandVersion(UUID=A, Version=config.UUIDandVersion.Version + "+")
    )
    return world


def app_phase(world: World) -> Phase:
    return phase(world.tables["status"].get(A), world.tables["config"].get(A))


SIGNED = {"SignatureKey": "k.pem"}
ASKED: dict[str, dict[str, Any]] = {
    "unsigned": {},
    "good": {"ImageSignature": b"good", **SIGNED},
    "bad": {"ImageSignature": b"bad", **SIGNED},
    "absent": SIGNED,
}
