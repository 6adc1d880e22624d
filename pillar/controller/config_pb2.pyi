from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DsType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DsUnknown: _ClassVar[DsType]
    DsHttp: _ClassVar[DsType]
    DsHttps: _ClassVar[DsType]
    DsS3: _ClassVar[DsType]
    DsSFTP: _ClassVar[DsType]
    DsContainerRegistry: _ClassVar[DsType]
    DsAzureBlob: _ClassVar[DsType]

class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FmtUnknown: _ClassVar[Format]
    RAW: _ClassVar[Format]
    QCOW: _ClassVar[Format]
    QCOW2: _ClassVar[Format]
    VHD: _ClassVar[Format]
    VMDK: _ClassVar[Format]
    OVA: _ClassVar[Format]
    VHDX: _ClassVar[Format]
    CONTAINER: _ClassVar[Format]

class Target(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TgtUnknown: _ClassVar[Target]
    Disk: _ClassVar[Target]
    Kernel: _ClassVar[Target]
    Initrd: _ClassVar[Target]
    RamDisk: _ClassVar[Target]

class DriveType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Unclassified: _ClassVar[DriveType]
    CDROM: _ClassVar[DriveType]
    HDD: _ClassVar[DriveType]
    NET: _ClassVar[DriveType]
    HDD_EMPTY: _ClassVar[DriveType]

class VmMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PV: _ClassVar[VmMode]
    HVM: _ClassVar[VmMode]

class ZNetworkInstType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ZNetInstFirst: _ClassVar[ZNetworkInstType]
    ZnetInstSwitch: _ClassVar[ZNetworkInstType]
    ZnetInstLocal: _ClassVar[ZNetworkInstType]
    ZnetInstCloud: _ClassVar[ZNetworkInstType]
    ZnetInstMesh: _ClassVar[ZNetworkInstType]
    ZnetInstHoneyPot: _ClassVar[ZNetworkInstType]
    ZnetInstTransparent: _ClassVar[ZNetworkInstType]
    ZNetInstLast: _ClassVar[ZNetworkInstType]

class AddressType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    First: _ClassVar[AddressType]
    IPV4: _ClassVar[AddressType]
    IPV6: _ClassVar[AddressType]
    CryptoIPV4: _ClassVar[AddressType]
    CryptoIPV6: _ClassVar[AddressType]
    Last: _ClassVar[AddressType]

class ZNetworkOpaqueConfigType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ZNetOConfigVPN: _ClassVar[ZNetworkOpaqueConfigType]
    ZNetOConfigLisp: _ClassVar[ZNetworkOpaqueConfigType]

class ZcServiceType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    zcloudInvalidSrv: _ClassVar[ZcServiceType]
    mapServer: _ClassVar[ZcServiceType]
    supportServer: _ClassVar[ZcServiceType]

class NetworkType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NETWORKTYPENOOP: _ClassVar[NetworkType]
    V4: _ClassVar[NetworkType]
    V6: _ClassVar[NetworkType]
    CryptoV4: _ClassVar[NetworkType]
    CryptoV6: _ClassVar[NetworkType]
    CryptoEID: _ClassVar[NetworkType]

class DHCPType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DHCPNoop: _ClassVar[DHCPType]
    Static: _ClassVar[DHCPType]
    DHCPNone: _ClassVar[DHCPType]
    Client: _ClassVar[DHCPType]

class proxyProto(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROXY_HTTP: _ClassVar[proxyProto]
    PROXY_HTTPS: _ClassVar[proxyProto]
    PROXY_SOCKS: _ClassVar[proxyProto]
    PROXY_FTP: _ClassVar[proxyProto]
    PROXY_OTHER: _ClassVar[proxyProto]

class ACEDirection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOTH: _ClassVar[ACEDirection]
    INGRESS: _ClassVar[ACEDirection]
    EGRESS: _ClassVar[ACEDirection]

class PhyIoType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PhyIoNoop: _ClassVar[PhyIoType]
    PhyIoNetEth: _ClassVar[PhyIoType]
    PhyIoUSB: _ClassVar[PhyIoType]
    PhyIoCOM: _ClassVar[PhyIoType]
    PhyIoAudio: _ClassVar[PhyIoType]
    PhyIoNetWLAN: _ClassVar[PhyIoType]
    PhyIoNetWWAN: _ClassVar[PhyIoType]
    PhyIoHDMI: _ClassVar[PhyIoType]
    PhyIoOther: _ClassVar[PhyIoType]

class PhyIoMemberUsage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PhyIoUsageNone: _ClassVar[PhyIoMemberUsage]
    PhyIoUsageMgmtAndApps: _ClassVar[PhyIoMemberUsage]
    PhyIoUsageShared: _ClassVar[PhyIoMemberUsage]
    PhyIoUsageDedicated: _ClassVar[PhyIoMemberUsage]
    PhyIoUsageDisabled: _ClassVar[PhyIoMemberUsage]
    PhyIoUsageMgmtOnly: _ClassVar[PhyIoMemberUsage]
DsUnknown: DsType
DsHttp: DsType
DsHttps: DsType
DsS3: DsType
DsSFTP: DsType
DsContainerRegistry: DsType
DsAzureBlob: DsType
FmtUnknown: Format
RAW: Format
QCOW: Format
QCOW2: Format
VHD: Format
VMDK: Format
OVA: Format
VHDX: Format
CONTAINER: Format
TgtUnknown: Target
Disk: Target
Kernel: Target
Initrd: Target
RamDisk: Target
Unclassified: DriveType
CDROM: DriveType
HDD: DriveType
NET: DriveType
HDD_EMPTY: DriveType
PV: VmMode
HVM: VmMode
ZNetInstFirst: ZNetworkInstType
ZnetInstSwitch: ZNetworkInstType
ZnetInstLocal: ZNetworkInstType
ZnetInstCloud: ZNetworkInstType
ZnetInstMesh: ZNetworkInstType
ZnetInstHoneyPot: ZNetworkInstType
ZnetInstTransparent: ZNetworkInstType
ZNetInstLast: ZNetworkInstType
First: AddressType
IPV4: AddressType
IPV6: AddressType
CryptoIPV4: AddressType
CryptoIPV6: AddressType
Last: AddressType
ZNetOConfigVPN: ZNetworkOpaqueConfigType
ZNetOConfigLisp: ZNetworkOpaqueConfigType
zcloudInvalidSrv: ZcServiceType
mapServer: ZcServiceType
supportServer: ZcServiceType
NETWORKTYPENOOP: NetworkType
V4: NetworkType
V6: NetworkType
CryptoV4: NetworkType
CryptoV6: NetworkType
CryptoEID: NetworkType
DHCPNoop: DHCPType
Static: DHCPType
DHCPNone: DHCPType
Client: DHCPType
PROXY_HTTP: proxyProto
PROXY_HTTPS: proxyProto
PROXY_SOCKS: proxyProto
PROXY_FTP: proxyProto
PROXY_OTHER: proxyProto
BOTH: ACEDirection
INGRESS: ACEDirection
EGRESS: ACEDirection
PhyIoNoop: PhyIoType
PhyIoNetEth: PhyIoType
PhyIoUSB: PhyIoType
PhyIoCOM: PhyIoType
PhyIoAudio: PhyIoType
PhyIoNetWLAN: PhyIoType
PhyIoNetWWAN: PhyIoType
PhyIoHDMI: PhyIoType
PhyIoOther: PhyIoType
PhyIoUsageNone: PhyIoMemberUsage
PhyIoUsageMgmtAndApps: PhyIoMemberUsage
PhyIoUsageShared: PhyIoMemberUsage
PhyIoUsageDedicated: PhyIoMemberUsage
PhyIoUsageDisabled: PhyIoMemberUsage
PhyIoUsageMgmtOnly: PhyIoMemberUsage

class EdgeDevConfig(_message.Message):
    __slots__ = ("id", "apps", "networks", "datastores", "lispInfo", "base", "reboot", "backup", "configItems", "systemAdapterList", "deviceIoList", "manufacturer", "productName", "networkInstances", "enterprise", "name")
    ID_FIELD_NUMBER: _ClassVar[int]
    APPS_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    DATASTORES_FIELD_NUMBER: _ClassVar[int]
    LISPINFO_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    REBOOT_FIELD_NUMBER: _ClassVar[int]
    BACKUP_FIELD_NUMBER: _ClassVar[int]
    CONFIGITEMS_FIELD_NUMBER: _ClassVar[int]
    SYSTEMADAPTERLIST_FIELD_NUMBER: _ClassVar[int]
    DEVICEIOLIST_FIELD_NUMBER: _ClassVar[int]
    MANUFACTURER_FIELD_NUMBER: _ClassVar[int]
    PRODUCTNAME_FIELD_NUMBER: _ClassVar[int]
    NETWORKINSTANCES_FIELD_NUMBER: _ClassVar[int]
    ENTERPRISE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    id: UUIDandVersion
    apps: _containers.RepeatedCompositeFieldContainer[AppInstanceConfig]
    networks: _containers.RepeatedCompositeFieldContainer[NetworkConfig]
    datastores: _containers.RepeatedCompositeFieldContainer[DatastoreConfig]
    lispInfo: DeviceLispDetails
    base: _containers.RepeatedCompositeFieldContainer[BaseOSConfig]
    reboot: DeviceOpsCmd
    backup: DeviceOpsCmd
    configItems: _containers.RepeatedCompositeFieldContainer[ConfigItem]
    systemAdapterList: _containers.RepeatedCompositeFieldContainer[SystemAdapter]
    deviceIoList: _containers.RepeatedCompositeFieldContainer[PhysicalIO]
    manufacturer: str
    productName: str
    networkInstances: _containers.RepeatedCompositeFieldContainer[NetworkInstanceConfig]
    enterprise: str
    name: str
    def __init__(self, id: _Optional[_Union[UUIDandVersion, _Mapping]] = ..., apps: _Optional[_Iterable[_Union[AppInstanceConfig, _Mapping]]] = ..., networks: _Optional[_Iterable[_Union[NetworkConfig, _Mapping]]] = ..., datastores: _Optional[_Iterable[_Union[DatastoreConfig, _Mapping]]] = ..., lispInfo: _Optional[_Union[DeviceLispDetails, _Mapping]] = ..., base: _Optional[_Iterable[_Union[BaseOSConfig, _Mapping]]] = ..., reboot: _Optional[_Union[DeviceOpsCmd, _Mapping]] = ..., backup: _Optional[_Union[DeviceOpsCmd, _Mapping]] = ..., configItems: _Optional[_Iterable[_Union[ConfigItem, _Mapping]]] = ..., systemAdapterList: _Optional[_Iterable[_Union[SystemAdapter, _Mapping]]] = ..., deviceIoList: _Optional[_Iterable[_Union[PhysicalIO, _Mapping]]] = ..., manufacturer: _Optional[str] = ..., productName: _Optional[str] = ..., networkInstances: _Optional[_Iterable[_Union[NetworkInstanceConfig, _Mapping]]] = ..., enterprise: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class UUIDandVersion(_message.Message):
    __slots__ = ("uuid", "version")
    UUID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    version: str
    def __init__(self, uuid: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ConfigItem(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class DeviceOpsCmd(_message.Message):
    __slots__ = ("counter", "desiredState", "opsTime")
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    DESIREDSTATE_FIELD_NUMBER: _ClassVar[int]
    OPSTIME_FIELD_NUMBER: _ClassVar[int]
    counter: int
    desiredState: bool
    opsTime: str
    def __init__(self, counter: _Optional[int] = ..., desiredState: _Optional[bool] = ..., opsTime: _Optional[str] = ...) -> None: ...

class AppInstanceConfig(_message.Message):
    __slots__ = ("uuidandversion", "displayname", "fixedresources", "drives", "activate", "interfaces", "adapters", "restart", "purge", "userData", "remoteConsole")
    UUIDANDVERSION_FIELD_NUMBER: _ClassVar[int]
    DISPLAYNAME_FIELD_NUMBER: _ClassVar[int]
    FIXEDRESOURCES_FIELD_NUMBER: _ClassVar[int]
    DRIVES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    PURGE_FIELD_NUMBER: _ClassVar[int]
    USERDATA_FIELD_NUMBER: _ClassVar[int]
    REMOTECONSOLE_FIELD_NUMBER: _ClassVar[int]
    uuidandversion: UUIDandVersion
    displayname: str
    fixedresources: VmConfig
    drives: _containers.RepeatedCompositeFieldContainer[Drive]
    activate: bool
    interfaces: _containers.RepeatedCompositeFieldContainer[NetworkAdapter]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    restart: InstanceOpsCmd
    purge: InstanceOpsCmd
    userData: str
    remoteConsole: bool
    def __init__(self, uuidandversion: _Optional[_Union[UUIDandVersion, _Mapping]] = ..., displayname: _Optional[str] = ..., fixedresources: _Optional[_Union[VmConfig, _Mapping]] = ..., drives: _Optional[_Iterable[_Union[Drive, _Mapping]]] = ..., activate: _Optional[bool] = ..., interfaces: _Optional[_Iterable[_Union[NetworkAdapter, _Mapping]]] = ..., adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., restart: _Optional[_Union[InstanceOpsCmd, _Mapping]] = ..., purge: _Optional[_Union[InstanceOpsCmd, _Mapping]] = ..., userData: _Optional[str] = ..., remoteConsole: _Optional[bool] = ...) -> None: ...

class InstanceOpsCmd(_message.Message):
    __slots__ = ("counter", "opsTime")
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    OPSTIME_FIELD_NUMBER: _ClassVar[int]
    counter: int
    opsTime: str
    def __init__(self, counter: _Optional[int] = ..., opsTime: _Optional[str] = ...) -> None: ...

class VmConfig(_message.Message):
    __slots__ = ("kernel", "ramdisk", "memory", "maxmem", "vcpus", "maxcpus", "rootdev", "extraargs", "bootloader", "cpus", "devicetree", "dtdev", "irqs", "iomem", "virtualizationMode", "enableVnc", "vncDisplay", "vncPasswd")
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    RAMDISK_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MAXMEM_FIELD_NUMBER: _ClassVar[int]
    VCPUS_FIELD_NUMBER: _ClassVar[int]
    MAXCPUS_FIELD_NUMBER: _ClassVar[int]
    ROOTDEV_FIELD_NUMBER: _ClassVar[int]
    EXTRAARGS_FIELD_NUMBER: _ClassVar[int]
    BOOTLOADER_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    DEVICETREE_FIELD_NUMBER: _ClassVar[int]
    DTDEV_FIELD_NUMBER: _ClassVar[int]
    IRQS_FIELD_NUMBER: _ClassVar[int]
    IOMEM_FIELD_NUMBER: _ClassVar[int]
    VIRTUALIZATIONMODE_FIELD_NUMBER: _ClassVar[int]
    ENABLEVNC_FIELD_NUMBER: _ClassVar[int]
    VNCDISPLAY_FIELD_NUMBER: _ClassVar[int]
    VNCPASSWD_FIELD_NUMBER: _ClassVar[int]
    kernel: str
    ramdisk: str
    memory: int
    maxmem: int
    vcpus: int
    maxcpus: int
    rootdev: str
    extraargs: str
    bootloader: str
    cpus: str
    devicetree: str
    dtdev: _containers.RepeatedScalarFieldContainer[str]
    irqs: _containers.RepeatedScalarFieldContainer[int]
    iomem: _containers.RepeatedScalarFieldContainer[str]
    virtualizationMode: VmMode
    enableVnc: bool
    vncDisplay: int
    vncPasswd: str
    def __init__(self, kernel: _Optional[str] = ..., ramdisk: _Optional[str] = ..., memory: _Optional[int] = ..., maxmem: _Optional[int] = ..., vcpus: _Optional[int] = ..., maxcpus: _Optional[int] = ..., rootdev: _Optional[str] = ..., extraargs: _Optional[str] = ..., bootloader: _Optional[str] = ..., cpus: _Optional[str] = ..., devicetree: _Optional[str] = ..., dtdev: _Optional[_Iterable[str]] = ..., irqs: _Optional[_Iterable[int]] = ..., iomem: _Optional[_Iterable[str]] = ..., virtualizationMode: _Optional[_Union[VmMode, str]] = ..., enableVnc: _Optional[bool] = ..., vncDisplay: _Optional[int] = ..., vncPasswd: _Optional[str] = ...) -> None: ...

class Drive(_message.Message):
    __slots__ = ("image", "readonly", "preserve", "drvtype", "target", "maxsizebytes")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    READONLY_FIELD_NUMBER: _ClassVar[int]
    PRESERVE_FIELD_NUMBER: _ClassVar[int]
    DRVTYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    MAXSIZEBYTES_FIELD_NUMBER: _ClassVar[int]
    image: Image
    readonly: bool
    preserve: bool
    drvtype: DriveType
    target: Target
    maxsizebytes: int
    def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ..., readonly: _Optional[bool] = ..., preserve: _Optional[bool] = ..., drvtype: _Optional[_Union[DriveType, str]] = ..., target: _Optional[_Union[Target, str]] = ..., maxsizebytes: _Optional[int] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("uuidandversion", "name", "sha256", "iformat", "siginfo", "dsId", "sizeBytes")
    UUIDANDVERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    IFORMAT_FIELD_NUMBER: _ClassVar[int]
    SIGINFO_FIELD_NUMBER: _ClassVar[int]
    DSID_FIELD_NUMBER: _ClassVar[int]
    SIZEBYTES_FIELD_NUMBER: _ClassVar[int]
    uuidandversion: UUIDandVersion
    name: str
    sha256: str
    iformat: Format
    siginfo: SignatureInfo
    dsId: str
    sizeBytes: int
    def __init__(self, uuidandversion: _Optional[_Union[UUIDandVersion, _Mapping]] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ..., iformat: _Optional[_Union[Format, str]] = ..., siginfo: _Optional[_Union[SignatureInfo, _Mapping]] = ..., dsId: _Optional[str] = ..., sizeBytes: _Optional[int] = ...) -> None: ...

class SignatureInfo(_message.Message):
    __slots__ = ("intercertsurl", "signercerturl", "signature")
    INTERCERTSURL_FIELD_NUMBER: _ClassVar[int]
    SIGNERCERTURL_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    intercertsurl: str
    signercerturl: str
    signature: bytes
    def __init__(self, intercertsurl: _Optional[str] = ..., signercerturl: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class DatastoreConfig(_message.Message):
    __slots__ = ("dType", "fqdn", "apiKey", "password", "dpath", "region", "id")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    FQDN_FIELD_NUMBER: _ClassVar[int]
    APIKEY_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    DPATH_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    dType: DsType
    fqdn: str
    apiKey: str
    password: str
    dpath: str
    region: str
    id: str
    def __init__(self, dType: _Optional[_Union[DsType, str]] = ..., fqdn: _Optional[str] = ..., apiKey: _Optional[str] = ..., password: _Optional[str] = ..., dpath: _Optional[str] = ..., region: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class NetworkAdapter(_message.Message):
    __slots__ = ("name", "networkId", "addr", "hostname", "lispsignature", "pemcert", "pemprivatekey", "macAddress", "cryptoEid", "acls")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NETWORKID_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    LISPSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PEMCERT_FIELD_NUMBER: _ClassVar[int]
    PEMPRIVATEKEY_FIELD_NUMBER: _ClassVar[int]
    MACADDRESS_FIELD_NUMBER: _ClassVar[int]
    CRYPTOEID_FIELD_NUMBER: _ClassVar[int]
    ACLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    networkId: str
    addr: str
    hostname: str
    lispsignature: str
    pemcert: bytes
    pemprivatekey: bytes
    macAddress: str
    cryptoEid: str
    acls: _containers.RepeatedCompositeFieldContainer[ACE]
    def __init__(self, name: _Optional[str] = ..., networkId: _Optional[str] = ..., addr: _Optional[str] = ..., hostname: _Optional[str] = ..., lispsignature: _Optional[str] = ..., pemcert: _Optional[bytes] = ..., pemprivatekey: _Optional[bytes] = ..., macAddress: _Optional[str] = ..., cryptoEid: _Optional[str] = ..., acls: _Optional[_Iterable[_Union[ACE, _Mapping]]] = ...) -> None: ...

class ACE(_message.Message):
    __slots__ = ("matches", "actions", "name", "id", "dir")
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DIR_FIELD_NUMBER: _ClassVar[int]
    matches: _containers.RepeatedCompositeFieldContainer[ACEMatch]
    actions: _containers.RepeatedCompositeFieldContainer[ACEAction]
    name: str
    id: int
    dir: ACEDirection
    def __init__(self, matches: _Optional[_Iterable[_Union[ACEMatch, _Mapping]]] = ..., actions: _Optional[_Iterable[_Union[ACEAction, _Mapping]]] = ..., name: _Optional[str] = ..., id: _Optional[int] = ..., dir: _Optional[_Union[ACEDirection, str]] = ...) -> None: ...

class ACEMatch(_message.Message):
    __slots__ = ("type", "value")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    type: str
    value: str
    def __init__(self, type: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ACEAction(_message.Message):
    __slots__ = ("drop", "limit", "limitrate", "limitunit", "limitburst", "portmap", "appPort")
    DROP_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LIMITRATE_FIELD_NUMBER: _ClassVar[int]
    LIMITUNIT_FIELD_NUMBER: _ClassVar[int]
    LIMITBURST_FIELD_NUMBER: _ClassVar[int]
    PORTMAP_FIELD_NUMBER: _ClassVar[int]
    APPPORT_FIELD_NUMBER: _ClassVar[int]
    drop: bool
    limit: bool
    limitrate: int
    limitunit: str
    limitburst: int
    portmap: bool
    appPort: int
    def __init__(self, drop: _Optional[bool] = ..., limit: _Optional[bool] = ..., limitrate: _Optional[int] = ..., limitunit: _Optional[str] = ..., limitburst: _Optional[int] = ..., portmap: _Optional[bool] = ..., appPort: _Optional[int] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("type", "name")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    type: PhyIoType
    name: str
    def __init__(self, type: _Optional[_Union[PhyIoType, str]] = ..., name: _Optional[str] = ...) -> None: ...

class NetworkInstanceConfig(_message.Message):
    __slots__ = ("uuidandversion", "displayname", "instType", "activate", "port", "cfg", "ipType", "ip", "dns")
    UUIDANDVERSION_FIELD_NUMBER: _ClassVar[int]
    DISPLAYNAME_FIELD_NUMBER: _ClassVar[int]
    INSTTYPE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CFG_FIELD_NUMBER: _ClassVar[int]
    IPTYPE_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    DNS_FIELD_NUMBER: _ClassVar[int]
    uuidandversion: UUIDandVersion
    displayname: str
    instType: ZNetworkInstType
    activate: bool
    port: Adapter
    cfg: NetworkInstanceOpaqueConfig
    ipType: AddressType
    ip: ipspec
    dns: _containers.RepeatedCompositeFieldContainer[ZnetStaticDNSEntry]
    def __init__(self, uuidandversion: _Optional[_Union[UUIDandVersion, _Mapping]] = ..., displayname: _Optional[str] = ..., instType: _Optional[_Union[ZNetworkInstType, str]] = ..., activate: _Optional[bool] = ..., port: _Optional[_Union[Adapter, _Mapping]] = ..., cfg: _Optional[_Union[NetworkInstanceOpaqueConfig, _Mapping]] = ..., ipType: _Optional[_Union[AddressType, str]] = ..., ip: _Optional[_Union[ipspec, _Mapping]] = ..., dns: _Optional[_Iterable[_Union[ZnetStaticDNSEntry, _Mapping]]] = ...) -> None: ...

class NetworkInstanceOpaqueConfig(_message.Message):
    __slots__ = ("oconfig", "lispConfig", "type")
    OCONFIG_FIELD_NUMBER: _ClassVar[int]
    LISPCONFIG_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    oconfig: str
    lispConfig: NetworkInstanceLispConfig
    type: ZNetworkOpaqueConfigType
    def __init__(self, oconfig: _Optional[str] = ..., lispConfig: _Optional[_Union[NetworkInstanceLispConfig, _Mapping]] = ..., type: _Optional[_Union[ZNetworkOpaqueConfigType, str]] = ...) -> None: ...

class NetworkInstanceLispConfig(_message.Message):
    __slots__ = ("LispMSs", "LispInstanceId", "allocate", "exportprivate", "allocationprefix", "allocationprefixlen", "experimental")
    LISPMSS_FIELD_NUMBER: _ClassVar[int]
    LISPINSTANCEID_FIELD_NUMBER: _ClassVar[int]
    ALLOCATE_FIELD_NUMBER: _ClassVar[int]
    EXPORTPRIVATE_FIELD_NUMBER: _ClassVar[int]
    ALLOCATIONPREFIX_FIELD_NUMBER: _ClassVar[int]
    ALLOCATIONPREFIXLEN_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENTAL_FIELD_NUMBER: _ClassVar[int]
    LispMSs: _containers.RepeatedCompositeFieldContainer[ZcServicePoint]
    LispInstanceId: int
    allocate: bool
    exportprivate: bool
    allocationprefix: bytes
    allocationprefixlen: int
    experimental: bool
    def __init__(self, LispMSs: _Optional[_Iterable[_Union[ZcServicePoint, _Mapping]]] = ..., LispInstanceId: _Optional[int] = ..., allocate: _Optional[bool] = ..., exportprivate: _Optional[bool] = ..., allocationprefix: _Optional[bytes] = ..., allocationprefixlen: _Optional[int] = ..., experimental: _Optional[bool] = ...) -> None: ...

class ZcServicePoint(_message.Message):
    __slots__ = ("NameOrIp", "Credential", "zsType")
    NAMEORIP_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    ZSTYPE_FIELD_NUMBER: _ClassVar[int]
    NameOrIp: str
    Credential: str
    zsType: ZcServiceType
    def __init__(self, NameOrIp: _Optional[str] = ..., Credential: _Optional[str] = ..., zsType: _Optional[_Union[ZcServiceType, str]] = ...) -> None: ...

class NetworkConfig(_message.Message):
    __slots__ = ("id", "type", "ip", "dns", "entProxy")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    DNS_FIELD_NUMBER: _ClassVar[int]
    ENTPROXY_FIELD_NUMBER: _ClassVar[int]
    id: str
    type: NetworkType
    ip: ipspec
    dns: _containers.RepeatedCompositeFieldContainer[ZnetStaticDNSEntry]
    entProxy: ProxyConfig
    def __init__(self, id: _Optional[str] = ..., type: _Optional[_Union[NetworkType, str]] = ..., ip: _Optional[_Union[ipspec, _Mapping]] = ..., dns: _Optional[_Iterable[_Union[ZnetStaticDNSEntry, _Mapping]]] = ..., entProxy: _Optional[_Union[ProxyConfig, _Mapping]] = ...) -> None: ...

class ipspec(_message.Message):
    __slots__ = ("dhcp", "subnet", "gateway", "domain", "ntp", "dns", "dhcpRange")
    DHCP_FIELD_NUMBER: _ClassVar[int]
    SUBNET_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    NTP_FIELD_NUMBER: _ClassVar[int]
    DNS_FIELD_NUMBER: _ClassVar[int]
    DHCPRANGE_FIELD_NUMBER: _ClassVar[int]
    dhcp: DHCPType
    subnet: str
    gateway: str
    domain: str
    ntp: str
    dns: _containers.RepeatedScalarFieldContainer[str]
    dhcpRange: ipRange
    def __init__(self, dhcp: _Optional[_Union[DHCPType, str]] = ..., subnet: _Optional[str] = ..., gateway: _Optional[str] = ..., domain: _Optional[str] = ..., ntp: _Optional[str] = ..., dns: _Optional[_Iterable[str]] = ..., dhcpRange: _Optional[_Union[ipRange, _Mapping]] = ...) -> None: ...

class ipRange(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: str
    end: str
    def __init__(self, start: _Optional[str] = ..., end: _Optional[str] = ...) -> None: ...

class ZnetStaticDNSEntry(_message.Message):
    __slots__ = ("HostName", "Address")
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HostName: str
    Address: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, HostName: _Optional[str] = ..., Address: _Optional[_Iterable[str]] = ...) -> None: ...

class ProxyConfig(_message.Message):
    __slots__ = ("networkProxyEnable", "proxies", "exceptions", "pacfile", "networkProxyURL")
    NETWORKPROXYENABLE_FIELD_NUMBER: _ClassVar[int]
    PROXIES_FIELD_NUMBER: _ClassVar[int]
    EXCEPTIONS_FIELD_NUMBER: _ClassVar[int]
    PACFILE_FIELD_NUMBER: _ClassVar[int]
    NETWORKPROXYURL_FIELD_NUMBER: _ClassVar[int]
    networkProxyEnable: bool
    proxies: _containers.RepeatedCompositeFieldContainer[ProxyServer]
    exceptions: str
    pacfile: str
    networkProxyURL: str
    def __init__(self, networkProxyEnable: _Optional[bool] = ..., proxies: _Optional[_Iterable[_Union[ProxyServer, _Mapping]]] = ..., exceptions: _Optional[str] = ..., pacfile: _Optional[str] = ..., networkProxyURL: _Optional[str] = ...) -> None: ...

class ProxyServer(_message.Message):
    __slots__ = ("proto", "server", "port")
    PROTO_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    proto: proxyProto
    server: str
    port: int
    def __init__(self, proto: _Optional[_Union[proxyProto, str]] = ..., server: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class BaseOSConfig(_message.Message):
    __slots__ = ("uuidandversion", "drives", "activate", "baseOSVersion", "baseOSDetails")
    UUIDANDVERSION_FIELD_NUMBER: _ClassVar[int]
    DRIVES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    BASEOSVERSION_FIELD_NUMBER: _ClassVar[int]
    BASEOSDETAILS_FIELD_NUMBER: _ClassVar[int]
    uuidandversion: UUIDandVersion
    drives: _containers.RepeatedCompositeFieldContainer[Drive]
    activate: bool
    baseOSVersion: str
    baseOSDetails: OSVerDetails
    def __init__(self, uuidandversion: _Optional[_Union[UUIDandVersion, _Mapping]] = ..., drives: _Optional[_Iterable[_Union[Drive, _Mapping]]] = ..., activate: _Optional[bool] = ..., baseOSVersion: _Optional[str] = ..., baseOSDetails: _Optional[_Union[OSVerDetails, _Mapping]] = ...) -> None: ...

class OSVerDetails(_message.Message):
    __slots__ = ("baseOSParams",)
    BASEOSPARAMS_FIELD_NUMBER: _ClassVar[int]
    baseOSParams: _containers.RepeatedCompositeFieldContainer[OSKeyTags]
    def __init__(self, baseOSParams: _Optional[_Iterable[_Union[OSKeyTags, _Mapping]]] = ...) -> None: ...

class OSKeyTags(_message.Message):
    __slots__ = ("OSVerKey", "OSVerValue")
    OSVERKEY_FIELD_NUMBER: _ClassVar[int]
    OSVERVALUE_FIELD_NUMBER: _ClassVar[int]
    OSVerKey: str
    OSVerValue: str
    def __init__(self, OSVerKey: _Optional[str] = ..., OSVerValue: _Optional[str] = ...) -> None: ...

class PhysicalIO(_message.Message):
    __slots__ = ("ptype", "phylabel", "phyaddrs", "logicallabel", "assigngrp", "usage", "usagePolicy", "cbattr")
    class PhyaddrsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class CbattrEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PTYPE_FIELD_NUMBER: _ClassVar[int]
    PHYLABEL_FIELD_NUMBER: _ClassVar[int]
    PHYADDRS_FIELD_NUMBER: _ClassVar[int]
    LOGICALLABEL_FIELD_NUMBER: _ClassVar[int]
    ASSIGNGRP_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    USAGEPOLICY_FIELD_NUMBER: _ClassVar[int]
    CBATTR_FIELD_NUMBER: _ClassVar[int]
    ptype: PhyIoType
    phylabel: str
    phyaddrs: _containers.ScalarMap[str, str]
    logicallabel: str
    assigngrp: str
    usage: PhyIoMemberUsage
    usagePolicy: PhyIOUsagePolicy
    cbattr: _containers.ScalarMap[str, str]
    def __init__(self, ptype: _Optional[_Union[PhyIoType, str]] = ..., phylabel: _Optional[str] = ..., phyaddrs: _Optional[_Mapping[str, str]] = ..., logicallabel: _Optional[str] = ..., assigngrp: _Optional[str] = ..., usage: _Optional[_Union[PhyIoMemberUsage, str]] = ..., usagePolicy: _Optional[_Union[PhyIOUsagePolicy, _Mapping]] = ..., cbattr: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PhyIOUsagePolicy(_message.Message):
    __slots__ = ("freeUplink", "fallBackPriority")
    FREEUPLINK_FIELD_NUMBER: _ClassVar[int]
    FALLBACKPRIORITY_FIELD_NUMBER: _ClassVar[int]
    freeUplink: bool
    fallBackPriority: int
    def __init__(self, freeUplink: _Optional[bool] = ..., fallBackPriority: _Optional[int] = ...) -> None: ...

class SystemAdapter(_message.Message):
    __slots__ = ("name", "freeUplink", "uplink", "networkUUID", "addr", "alias", "lowerLayerName", "accessPoint")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FREEUPLINK_FIELD_NUMBER: _ClassVar[int]
    UPLINK_FIELD_NUMBER: _ClassVar[int]
    NETWORKUUID_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    LOWERLAYERNAME_FIELD_NUMBER: _ClassVar[int]
    ACCESSPOINT_FIELD_NUMBER: _ClassVar[int]
    name: str
    freeUplink: bool
    uplink: bool
    networkUUID: str
    addr: str
    alias: str
    lowerLayerName: str
    accessPoint: str
    def __init__(self, name: _Optional[str] = ..., freeUplink: _Optional[bool] = ..., uplink: _Optional[bool] = ..., networkUUID: _Optional[str] = ..., addr: _Optional[str] = ..., alias: _Optional[str] = ..., lowerLayerName: _Optional[str] = ..., accessPoint: _Optional[str] = ...) -> None: ...

class DeviceLispDetails(_message.Message):
    __slots__ = ("LispMapServers", "LispInstance", "EID", "EIDHashLen", "ZedServers", "EidAllocationPrefix", "EidAllocationPrefixLen", "ClientAddr", "dns", "Experimental")
    LISPMAPSERVERS_FIELD_NUMBER: _ClassVar[int]
    LISPINSTANCE_FIELD_NUMBER: _ClassVar[int]
    EID_FIELD_NUMBER: _ClassVar[int]
    EIDHASHLEN_FIELD_NUMBER: _ClassVar[int]
    ZEDSERVERS_FIELD_NUMBER: _ClassVar[int]
    EIDALLOCATIONPREFIX_FIELD_NUMBER: _ClassVar[int]
    EIDALLOCATIONPREFIXLEN_FIELD_NUMBER: _ClassVar[int]
    CLIENTADDR_FIELD_NUMBER: _ClassVar[int]
    DNS_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENTAL_FIELD_NUMBER: _ClassVar[int]
    LispMapServers: _containers.RepeatedCompositeFieldContainer[MapServer]
    LispInstance: int
    EID: str
    EIDHashLen: int
    ZedServers: _containers.RepeatedCompositeFieldContainer[ZedServer]
    EidAllocationPrefix: bytes
    EidAllocationPrefixLen: int
    ClientAddr: str
    dns: _containers.RepeatedCompositeFieldContainer[ZnetStaticDNSEntry]
    Experimental: bool
    def __init__(self, LispMapServers: _Optional[_Iterable[_Union[MapServer, _Mapping]]] = ..., LispInstance: _Optional[int] = ..., EID: _Optional[str] = ..., EIDHashLen: _Optional[int] = ..., ZedServers: _Optional[_Iterable[_Union[ZedServer, _Mapping]]] = ..., EidAllocationPrefix: _Optional[bytes] = ..., EidAllocationPrefixLen: _Optional[int] = ..., ClientAddr: _Optional[str] = ..., dns: _Optional[_Iterable[_Union[ZnetStaticDNSEntry, _Mapping]]] = ..., Experimental: _Optional[bool] = ...) -> None: ...

class MapServer(_message.Message):
    __slots__ = ("NameOrIp", "Credential")
    NAMEORIP_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    NameOrIp: str
    Credential: str
    def __init__(self, NameOrIp: _Optional[str] = ..., Credential: _Optional[str] = ...) -> None: ...

class ZedServer(_message.Message):
    __slots__ = ("HostName", "EID")
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    EID_FIELD_NUMBER: _ClassVar[int]
    HostName: str
    EID: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, HostName: _Optional[str] = ..., EID: _Optional[_Iterable[str]] = ...) -> None: ...
