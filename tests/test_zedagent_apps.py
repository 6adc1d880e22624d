"""Every rule of the device config about apps, their images and interfaces, without files or processes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from zedagent_cases import APP, APP2, LABEL, MESH, NET, NET2, STORE, app, image, instance, parse, parse_app

from pillar.types.scalars import NIL_UUID

# ---- apps and their images


def test_an_app_without_anything_else_has_eves_zero_values() -> None:
    record = parse_app(app())
    assert (record.StorageConfigList, record.UnderlayNetworkList, record.OverlayNetworkList) == ((), None, None)
    assert (record.IoAdapterList, record.Errors, record.ConfigSha256) == (None, None, "")
    assert record.RestartCmd.Counter == record.PurgeCmd.Counter == 0
    assert record.FixedResources.Memory == 1024


def test_resources_that_eve_does_not_copy_stay_zero() -> None:
    uncopied = {
        "maxcpus": 4,
        "extraargs": "x",
        "cpus": "1",
        "devicetree": "d",
        "dtdev": ["a"],
        "irqs": [1],
        "iomem": ["m"],
    }
    vm = parse_app(app(fixedresources={"vcpus": 2, "virtualizationMode": 7, **uncopied})).FixedResources
    assert (vm.VCpus, vm.MaxCpus, vm.ExtraArgs, vm.CPUs, vm.DeviceTree) == (2, 0, "", "", "")
    assert (vm.DtDev, vm.IRQs, vm.IOMem, vm.VirtualizationMode) == (None, None, None, 7)


def test_unknown_kinds_of_images_come_out_as_their_number() -> None:
    drive = {"image": image(iformat=9, sizeBytes="-1"), "drvtype": 12, "target": 5}
    (storage,) = parse_app(app(drives=[drive])).StorageConfigList or ()
    assert (storage.Format, storage.Devtype, storage.Target, storage.Size) == ("9", "12", "5", 2**64 - 1)


def test_an_unusable_image_or_datastore_id_becomes_the_nil_uuid() -> None:
    drive = {"image": image(uuidandversion={"uuid": "x"}, dsId="y")}
    record = parse_app(app(drives=[drive]))
    (storage,) = record.StorageConfigList or ()
    assert (storage.ImageID, storage.DatastoreID, record.Errors) == (NIL_UUID, NIL_UUID, None)


def test_a_missing_part_is_an_error_of_its_app_and_blocks_nobody() -> None:
    broken = app(drives=[{"target": "Kernel"}, {"image": {"name": "a"}}, {"image": image(name="good")}])
    del broken["fixedresources"]
    parsed = parse({"apps": [broken, app(APP2)]})
    assert parsed.apps[APP].Errors == (
        f"{LABEL} has no fixedresources (memory and CPUs).\n",
        f"{LABEL}: drive 1 has no image.\n",
        f"{LABEL}: drive 2 (a): its image has no uuidandversion.\n",
        f"{LABEL}: drive 2 (a): its image has no siginfo (an unsigned one has an empty siginfo).\n",
    )
    images = parsed.apps[APP].StorageConfigList or ()
    assert [(i.Name, i.Target, i.Format) for i in images] == [
        ("", "kernel", ""),
        ("a", "tgtunknown", "fmtunknown"),
        ("good", "tgtunknown", "fmtunknown"),
    ]
    assert parsed.apps[APP2].Errors is None


def test_what_has_no_usable_id_is_left_out_and_named() -> None:
    nameless = {"displayname": "farm", "fixedresources": {}}
    parsed = parse(
        {
            "apps": [nameless, app("short"), app(APP2)],
            "networkInstances": [{"displayname": "lan"}],
            "base": [{"baseOSVersion": "1.0"}],
            "datastores": [{"fqdn": "http://a", "id": "zz"}, {"id": STORE}],
        }
    )
    assert list(parsed.apps) == [APP2]
    assert list(parsed.datastores) == [STORE]
    assert (parsed.instances, parsed.base) == ({}, {})
    assert parsed.problems == (
        "datastore 'http://a' is left out: uuid: incorrect UUID length: zz",
        "base OS '1.0' is left out: uuid: incorrect UUID length: ",
        "network instance 'lan' is left out: uuid: incorrect UUID length: ",
        "app 'farm' is left out: uuid: incorrect UUID length: ",
        "app 'farm' is left out: uuid: incorrect UUID length: short",
    )


def test_an_upper_case_uuid_is_the_same_app() -> None:
    drives = [{"image": image(siginfo={"signercerturl": "s"})}]
    parsed = parse({"apps": [app(APP.upper(), drives=drives)]})
    assert list(parsed.apps) == list(parsed.certs) == [APP]


def test_certificates_are_the_signer_then_the_chain_of_each_image() -> None:
    both = {"signercerturl": "signer", "intercertsurl": "chain", "signature": base64.b64encode(b"s").decode()}
    drives = [{"image": image(siginfo=both)}, {"image": image()}, {"image": image(siginfo={"intercertsurl": "c2"})}]
    parsed = parse({"apps": [app(drives=drives), app(APP2, drives=[{"image": image()}])]})
    assert list(parsed.certs) == [APP]
    wanted = parsed.certs[APP].StorageConfigList or ()
    assert [(c.Name, c.NameIsURL, c.Size, c.DatastoreID) for c in wanted] == [
        (name, True, 102400, STORE) for name in ("signer", "chain", "c2")
    ]
    first = (parsed.apps[APP].StorageConfigList or ())[0]
    assert (first.CertificateChain, first.ImageSignature, first.SignatureKey) == (("chain",), b"s", "signer")


# ---- interfaces


@pytest.mark.parametrize(
    ("nic", "text", "kept"),
    [
        ({"macAddress": "zz"}, f"{LABEL}: bad MAC:zz, Err: address zz: invalid MAC address\n", (NET, None, "")),
        (
            {"macAddress": "02:00:00:00:00:01", "addr": "1.2.3"},
            f"{LABEL}: bad AppIPAddr:1.2.3\n",
            (NET, b"\2\0\0\0\0\1", ""),
        ),
        ({"addr": "fd00::1"}, "Static IPv6 addressing (fd00::1) not yet supported.\n", (NET, None, "fd00::1")),
        ({"networkId": NET2}, f"{LABEL}: Can't find {NET2} in network instances.\n", (NIL_UUID, None, "")),
    ],
)
def test_the_first_error_ends_an_interface_and_others_stay(
    nic: dict[str, Any], text: str, kept: tuple[Any, ...]
) -> None:
    good = {"name": "good", "networkId": NET, "acls": [{"id": 1}]}
    record = parse_app(
        app(interfaces=[{"name": "bad", "networkId": NET, "acls": [{"id": 1}], **nic}, good]), instance()
    )
    assert record.Errors == (text,)
    bad, fine = record.UnderlayNetworkList or ()
    assert (bad.Error, bad.ACLs, (bad.Network, bad.AppMacAddr, bad.AppIPAddr)) == (text, None, kept)
    assert (fine.Error, len(fine.ACLs or ())) == ("", 1)


def test_an_unknown_network_instance_is_one_error() -> None:
    record = parse_app(app(interfaces=[{"name": "a", "networkId": NET.upper()}]), instance())
    assert record.Errors == (f"{LABEL}: Can't find {NET.upper()} in network instances.\n",)
    assert record.OverlayNetworkList is None


def test_a_malformed_network_id_that_the_config_has_too() -> None:
    record = parse_app(app(interfaces=[{"networkId": "lan"}]), instance("lan"))
    assert record.Errors == (f"{LABEL}: Malformed Network UUID lan. Err: uuid: incorrect UUID length: lan\n",)


def test_the_drop_action_arrives() -> None:
    acl = {
        "id": -1,
        "name": "cut",
        "dir": "EGRESS",
        "matches": [{"type": "ip", "value": "0.0.0.0/0"}],
        "actions": [{"drop": True}],
    }
    record = parse_app(app(interfaces=[{"networkId": NET, "acls": [acl]}]), instance())
    (ace,) = (record.UnderlayNetworkList or ())[0].ACLs or ()
    assert [action.Drop for action in ace.Actions or ()] == [True]
    assert (ace.RuleID, ace.Dir) == (-1, 2)


@pytest.mark.parametrize(
    ("nic", "eid", "address"),
    [
        ({"addr": "10.0.0.9"}, "10.0.0.9", "10.0.0.9"),
        ({"cryptoEid": "fd00::5"}, "fd00::5", "fd00::5"),
        ({"cryptoEid": "fd00::5", "addr": "10.0.0.9"}, "fd00::5", "10.0.0.9"),
        ({}, "", ""),
    ],
)
def test_an_overlays_address_is_its_eid_unless_it_has_one(nic: dict[str, Any], eid: str, address: str) -> None:
    secret = {"lispsignature": "sig", "pemcert": base64.b64encode(b"c").decode()}
    record = parse_app(app(interfaces=[{"networkId": NET, **secret, **nic}]), MESH)
    assert record.UnderlayNetworkList is None
    (overlay,) = record.OverlayNetworkList or ()
    assert (overlay.EID, overlay.AppIPAddr, overlay.Network, overlay.ACLs) == (eid, address, NET, ())
    assert (overlay.LispSignature, overlay.PemCert, overlay.PemPrivateKey, overlay.IID) == ("sig", b"c", None, 0)


@pytest.mark.parametrize(
    ("nic", "text"),
    [
        ({"macAddress": "02"}, "bad MAC 02: address 02: invalid MAC address\n"),
        ({"cryptoEid": "e"}, "bad CryptoEid e\n"),
        ({"cryptoEid": "fd00::5", "addr": "a"}, "bad Addr a\n"),
        ({"addr": "a"}, "bad Addr a\n"),
    ],
)
def test_an_overlays_error_comes_after_those_of_underlays(nic: dict[str, Any], text: str) -> None:
    underlay = {"networkId": NET2, "addr": "x"}
    record = parse_app(app(interfaces=[{"networkId": NET, **nic}, underlay]), MESH, instance(NET2))
    assert record.Errors == (f"{LABEL}: bad AppIPAddr:x\n", f"parseOverlayNetworkConfigEntry: {text}")


def allocating(**lisp: Any) -> dict[str, Any]:
    """A mesh whose EIDs the device makes."""
    return {**MESH, "cfg": {"type": "ZNetOConfigLisp", "lispConfig": {"LispInstanceId": 5, "allocate": True, **lisp}}}


def test_an_interface_without_an_eid_gets_one_made_where_the_mesh_says_so() -> None:
    prefix = base64.b64encode(bytes([0xFD, 0x10]) + bytes(14)).decode()
    nics = [{"networkId": NET, "lispsignature": "sig"}, {"networkId": NET, "cryptoEid": "fd00::5"}]
    mesh = allocating(allocationprefix=prefix, allocationprefixlen=16, exportprivate=True)
    made, given = parse_app(app(interfaces=nics), mesh).OverlayNetworkList or ()
    assert (made.Allocate, made.IID, made.ExportPrivate, made.EID, made.AppIPAddr) == (True, 5, True, "", "")
    assert (made.AllocationPrefix, made.AllocationPrefixLen, made.LispSignature) == (b"\xfd\x10", 16, "")
    assert (given.Allocate, given.IID, given.EID) == (False, 0, "fd00::5")
    (default,) = parse_app(app(interfaces=nics[:1]), allocating()).OverlayNetworkList or ()
    assert (default.Allocate, default.AllocationPrefix, default.AllocationPrefixLen) == (True, None, 0)


@pytest.mark.parametrize("bits", [12, 16])
def test_a_prefix_that_is_no_whole_bytes_of_the_meshs_is_an_error_of_the_app(bits: int) -> None:
    mesh = allocating(allocationprefix=base64.b64encode(b"\xfd").decode(), allocationprefixlen=bits)
    (error,) = parse_app(app(interfaces=[{"networkId": NET}]), mesh).Errors or ()
    assert f"allocationprefixlen is {bits}, expected whole bytes of its allocationprefix, which has 8 bits" in error
