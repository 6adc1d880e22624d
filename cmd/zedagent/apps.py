"""Apps of the device config -> AppInstanceConfig, with the CertObjConfig of their signed images."""

from collections.abc import Iterable, Mapping

from pillar.cmd.zedagent.interfaces import Instances, app_label, parse_interfaces
from pillar.cmd.zedagent.storage import parse_drives
from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, enum_value, read_uuid
from pillar.types.common import AppInstanceOpsCmd, IoAdapter, UUIDandVersion, VmConfig
from pillar.types.enums import IoType, VmMode
from pillar.types.zedmanager import AppInstanceConfig


def parse_apps(
    apps: Iterable[wire.AppInstanceConfig], instances: Instances, refused: Mapping[str, str]
) -> tuple[dict[str, AppInstanceConfig], list[str]]:
    """The apps by UUID, and a line for each that has no usable UUID and so cannot be published at all.

    Everything else that is wrong with an app stands in its Errors; it is published all the same and zedmanager says it.
    """
    records: dict[str, AppInstanceConfig] = {}
    problems: list[str] = []
    for app in apps:
        try:
            uuid = read_uuid(app.uuidandversion.uuid)
        except Malformed as why:
            problems.append(f"app {app.displayname!r} is left out: {why}")
            continue
        records[uuid] = _parse_app(uuid, app, instances, refused)
    return records, problems


def _parse_app(
    uuid: str, app: wire.AppInstanceConfig, instances: Instances, refused: Mapping[str, str]
) -> AppInstanceConfig:
    images, drive_errors = parse_drives(app.drives, app_label(app))
    underlays, overlays, interface_errors = parse_interfaces(app, instances, refused)
    errors = [*drive_errors, *interface_errors]
    if not app.HasField("fixedresources"):
        errors.insert(0, f"{app_label(app)} has no fixedresources (memory and CPUs).\n")
    return AppInstanceConfig(
        UUIDandVersion=UUIDandVersion(UUID=uuid, Version=app.uuidandversion.version),
        DisplayName=app.displayname,
        Errors=tuple(errors) or None,
        FixedResources=_parse_resources(app.fixedresources),
        StorageConfigList=images,
        Activate=app.activate,
        OverlayNetworkList=overlays,
        UnderlayNetworkList=underlays,
        IoAdapterList=tuple(IoAdapter(Type=enum_value(IoType, io.type), Name=io.name) for io in app.adapters) or None,
        RestartCmd=AppInstanceOpsCmd(Counter=app.restart.counter, ApplyTime=app.restart.opsTime),
        PurgeCmd=AppInstanceOpsCmd(Counter=app.purge.counter, ApplyTime=app.purge.opsTime),
        CloudInitUserData=app.userData,
        RemoteConsole=app.remoteConsole,
    )


def _parse_resources(vm: wire.VmConfig) -> VmConfig:
    """The members EVE copies; maxcpus, extraargs, cpus, devicetree, dtdev, irqs and iomem are not among them."""
    return VmConfig(
        Kernel=vm.kernel,
        Ramdisk=vm.ramdisk,
        Memory=vm.memory,
        MaxMem=vm.maxmem,
        VCpus=vm.vcpus,
        RootDev=vm.rootdev,
        BootLoader=vm.bootloader,
        VirtualizationMode=enum_value(VmMode, vm.virtualizationMode),
        EnableVnc=vm.enableVnc,
        VncDisplay=vm.vncDisplay,
        VncPasswd=vm.vncPasswd,
    )
