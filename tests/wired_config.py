"""Device configs for a device in a lab (netlab): uplinks, network instances, and apps whose images the lab serves.

All of it is protobuf-JSON as an EVE controller sends it; each function adds to a config and returns what it added.

    config = uplinks(lab)                                              # eth0 and eth1 by DHCP, one datastore
    lan = instance(config, "lan", "10.1.0")
    vm = linux(lab, config, guest, "vm", instance=lan, rules=[port_map(8080, 80)], script=SCRIPT)
    box = container(lab, config, "box", ENTRY, instance=lan)
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from typing import Any

from netlab import CONTROLLER, NetLab
from vm_images import MEMORY_KIB, Guest

from pillar.demo import container as oci
from pillar.demo.eco import Image

Json = dict[str, Any]

EVERYBODY: Json = {"matches": [{"type": "ip", "value": "0.0.0.0/0"}], "id": 99}


def uplinks(lab: NetLab) -> Json:
    """A config of a device without apps: both uplinks by DHCP, and the lab's web server as the datastore."""
    network = str(uuid.uuid4())
    names = ("eth0", "eth1")
    return {
        "id": {"uuid": str(uuid.uuid4()), "version": "1"},
        "datastores": [{"id": str(uuid.uuid4()), "dType": "DsHttp", "fqdn": f"http://{CONTROLLER}"}],
        "networks": [{"id": network, "type": "V4", "ip": {"dhcp": "Client"}}],
        "deviceIoList": [
            {"ptype": 1, "phylabel": name, "logicallabel": name, "phyaddrs": {"Ifname": name}} for name in names
        ],
        "systemAdapterList": [
            {"name": name, "uplink": True, "freeUplink": True, "networkUUID": network} for name in names
        ],
        "networkInstances": [],
        "apps": [],
    }


def instance(config: Json, name: str, stem: str, *, first: int = 2, last: int = 200, port: str = "eth0") -> Json:
    """A local network instance `stem`.0/24 whose DHCP range is `stem`.`first` to `stem`.`last`.

    It leads out of eth0. With the label `uplink` as its port it is whichever has an address first, and stays with that.
    """
    made: Json = {
        "uuidandversion": {"uuid": str(uuid.uuid4()), "version": "1"},
        "displayname": name,
        "instType": "ZnetInstLocal",
        "activate": True,
        "ipType": "IPV4",
        "port": {"name": port},
        "ip": {
            "subnet": f"{stem}.0/24",
            "gateway": f"{stem}.1",
            "dhcpRange": {"start": f"{stem}.{first}", "end": f"{stem}.{last}"},
        },
    }
    config["networkInstances"].append(made)
    return made


def app(
    config: Json,
    name: str,
    drives: list[Json],
    *,
    instance: Json | None = None,
    rules: list[Json] | None = None,
    memory: int = 65536,
    script: str = "",
) -> Json:
    """An app of these drives, with an interface on the instance (everything is allowed without rules)."""
    made: Json = {
        "uuidandversion": {"uuid": str(uuid.uuid4()), "version": "1"},
        "displayname": name,
        "fixedresources": {"memory": memory, "vcpus": 1},
        "drives": drives,
        "interfaces": [],
        "activate": True,
    }
    if script:
        made["userData"] = base64.b64encode(script.encode()).decode()
    if instance is not None:
        network = instance["uuidandversion"]["uuid"]
        acls = [EVERYBODY] if rules is None else rules
        made["interfaces"] = [{"name": "eth0", "networkId": network, "acls": acls}]
    config["apps"].append(made)
    return made


def linux(lab: NetLab, config: Json, guest: Guest, name: str, *disks: Json, **options: Any) -> Json:
    """An app that is a virtual machine: the small Linux of vm_images, and these disks. Options: those of `app`."""
    boot = [
        drive(config, served(lab, "vmlinuz", guest.kernel.read_bytes()), target="Kernel"),
        drive(config, served(lab, "initrd", guest.ramdisk.read_bytes()), target="RamDisk"),
    ]
    return app(config, name, [*boot, *disks], **{"memory": MEMORY_KIB, **options})


def container(lab: NetLab, config: Json, name: str, entry: str, **options: Any) -> Json:
    """An app that is a container of busybox with this entry point, a shell script. Options: those of `app`."""
    layers = [oci.busybox_layer(), oci.layer({"entry": entry.encode()})]
    built = oci.image(f"{name}.tar", layers, {"Entrypoint": ["/entry"], "Env": ["PATH=/bin"]})
    image = served(lab, built.name, built.content)
    return app(config, name, [drive(config, image, iformat="CONTAINER", readonly=False)], **options)


def served(lab: NetLab, name: str, content: bytes) -> Image:
    """An image that the lab's web server has under this name from now on."""
    lab.serve(name, content)
    return Image(name, content, hashlib.sha256(content).hexdigest())


def drive(
    config: Json, image: Image, *, target: str = "Disk", iformat: str = "RAW", readonly: bool = True, **fields: Any
) -> Json:
    """A drive of an app with this image, from the config's datastore."""
    return {
        "image": {
            "uuidandversion": {"uuid": str(uuid.uuid4()), "version": "1"},
            "name": image.name,
            "sha256": image.sha256,
            "iformat": iformat,
            "siginfo": {},
            "dsId": config["datastores"][0]["id"],
            "sizeBytes": str(len(image.content)),
        },
        "readonly": readonly,
        "drvtype": "HDD",
        "target": target,
        **fields,
    }


def port_map(outer: int, inner: int, number: int = 1) -> Json:
    """Port `inner` of the app is reached under port `outer` of the uplink."""
    matches = [{"type": "protocol", "value": "tcp"}, {"type": "lport", "value": str(outer)}]
    return {"matches": matches, "actions": [{"portmap": True, "appPort": inner}], "id": number}


def reaches(address: str, number: int) -> Json:
    """Flows to and from this address are allowed."""
    return {"matches": [{"type": "ip", "value": address}], "id": number}


def drops(number: int, **matches: str) -> Json:
    """Flows that match are refused."""
    listed = [{"type": kind, "value": value} for kind, value in matches.items()]
    return {"matches": listed, "actions": [{"drop": True}], "id": number}
