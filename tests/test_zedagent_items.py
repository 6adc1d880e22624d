"""The rules about datastores, base OS, config items, reboots; whatever else is sent; and notations."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from msgspec import UNSET
from zedagent_cases import APP, APP2, IMAGE, LATER, NET, NET2, NETWORK, NOW, STORE, app, items, parse

from pillar.cmd.zedagent import reboot
from pillar.cmd.zedagent.parse import Published, deactivated, parse_config
from pillar.cmd.zedagent.reboot import Reboot
from pillar.controller import config_pb2 as wire
from pillar.controller import notation
from pillar.pubsub import decode, encode
from pillar.types.scalars import NIL_UUID

# ---- datastores, base OS


def test_datastores() -> None:
    stores = [{"id": STORE, "dType": "DsHttp"}, {"id": f"{{{IMAGE}}}", "dType": 7, "region": "eu", "password": "p"}]
    records = parse({"datastores": stores}).datastores
    assert (records[STORE].DsType, records[STORE].Region) == ("DsHttp", "us-west-2")
    assert (records[IMAGE].DsType, records[IMAGE].Region, records[IMAGE].Password) == ("7", "eu", "p")


def test_base_os_parameters_are_copied() -> None:
    params = {"baseOSParams": [{"OSVerKey": "k", "OSVerValue": "v"}]}
    entry = {"uuidandversion": {"uuid": APP2}, "baseOSVersion": "9", "baseOSDetails": params, "drives": [{}]}
    parsed = parse({"base": [entry, {"uuidandversion": {"uuid": APP}, "activate": True}]})
    assert list(parsed.base) == [APP2]  # the other one is an empty slot
    assert [(p.OSVerKey, p.OSVerValue) for p in parsed.base[APP2].OsParams or ()] == [("k", "v")]
    assert parsed.problems == ("base OS 9: drive 1 has no image.",)


# ---- config items


def test_the_signature_policy_is_ours_and_only_its_two_words_are_taken() -> None:

    assert items().SignaturePolicy is UNSET
    assert items(verifier_signature_policy="strict").SignaturePolicy == "strict"
    assert items(verifier_signature_policy="permissive").SignaturePolicy == "permissive"
    assert items(verifier_signature_policy="lax").SignaturePolicy is UNSET


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("+120", 120),
        ("007200", 7200),
        ("1", 60),
        ("0", 600),
        ("-1", 4294967295),
        ("-2147483648", 2147483648),
    ]
    + [
        (bad, 600)
        for bad in ("2147483648", "-2147483649", " 120", "120 ", "1_000", "0x78", "", "12.0", "١٢٠", "9" * 5000)
    ],
)
def test_numbers(value: str, seconds: int) -> None:
    settings = items(timer_download_retry=value)
    assert (settings.DownloadRetryTime, settings.Errors) == (seconds, None)


def test_a_better_interval_of_zero_is_off() -> None:
    assert items(timer_port_testbetterinterval="0").NetworkTestBetterInterval == 0
    assert items(timer_port_testbetterinterval="7").NetworkTestBetterInterval == 7


@pytest.mark.parametrize("value", ["0", "f", "F", "FALSE", "false", "False"])
def test_spellings_of_no(value: str) -> None:
    settings = items(debug_enable_usb=value, debug_enable_ssh=value)
    assert (settings.UsbAccess, settings.SshAccess) == (False, False)


@pytest.mark.parametrize("value", ["1", "t", "T", "TRUE", "true", "True"])
def test_spellings_of_yes(value: str) -> None:
    settings = items(app_allow_vnc=value, storage_apps_ignore_disk_check=value)
    assert (settings.AllowAppVnc, settings.IgnoreDiskCheckForApps) == (True, True)


@pytest.mark.parametrize("value", ["no", "off", "fAlse", "", " false"])
def test_other_spellings_leave_the_default(value: str) -> None:
    settings = items(debug_enable_usb=value)
    assert (settings.UsbAccess, settings.Errors) == (True, None)


def test_an_ssh_key_opens_the_access_and_stays_whole() -> None:
    settings = items(debug_enable_ssh="ssh-rsa AAAA me@home")
    assert (settings.SshAccess, settings.SshAuthorizedKeys) == (True, "ssh-rsa AAAA me@home")


@pytest.mark.parametrize(
    ("value", "state"),
    [
        ("disabled", 1),
        ("disable", 1),
        ("off", 1),
        ("enabled", 2),
        ("enable", 2),
        ("on", 2),
        ("none", 2),
        ("OFF", 2),
        ("maybe", 2),
    ],
)
def test_three_states(value: str, state: int) -> None:
    settings = items(network_allow_wwan_app_download=value)
    assert (settings.AllowNonFreeAppImages, settings.Errors) == (state, None)


@pytest.mark.parametrize(
    ("value", "percent", "error"),
    [
        ("50", 50, None),
        ("3", 20, None),
        ("0", 20, None),
        ("80", 80, None),
        ("81", 80, "dom0MinDiskUsagePercent (81) > maxAllowed (80). Setting it to 80."),
        ("-1", 20, 'bad int value -1 for {key}: strconv.ParseUint: parsing "-1": invalid syntax\n'),
        (
            "4294967296",
            20,
            'bad int value 4294967296 for {key}: strconv.ParseUint: parsing "4294967296": value out of range\n',
        ),
    ],
)
def test_the_error_of_the_last_config_item_is_kept(value: str, percent: int, error: str | None) -> None:
    key = "storage.dom0.disk.minusage.percent"
    settings = items(**{key: value})
    assert settings.Dom0MinDiskUsagePercent == percent
    assert settings.Errors == ((error.format(key=key),) if error else None)


def test_unknown_items_are_errors_in_their_order() -> None:
    settings = items(colour="red", timer_config_interval="7", debug_a_b_loglevel="info", sound="off")
    assert settings.ConfigInterval == 7
    assert settings.Errors == (
        "Unknown configItem colour value red\n",
        "Unknown configItem debug.a.b.loglevel value info\n",
        "Unknown configItem sound value off\n",
    )


def test_log_levels() -> None:
    settings = items(
        debug_nim_loglevel="WARN",
        debug_nim_remote_loglevel="trace",
        debug_x_loglevel="loud",
        debug_default_loglevel="odd",
    )
    agents = settings.AgentSettings or {}
    assert {name: (s.LogLevel, s.RemoteLogLevel) for name, s in agents.items()} == {"nim": ("WARN", "trace")}
    assert (settings.DefaultLogLevel, settings.DefaultRemoteLogLevel, settings.Errors) == ("odd", "info", None)


# ---- reboot


@pytest.mark.parametrize(
    ("wanted", "kept", "then"),
    [
        (None, None, Reboot.NOTHING),
        (None, 3, Reboot.FORGET),
        (3, None, Reboot.REMEMBER),
        (3, 3, Reboot.NOTHING),
        (4, 3, Reboot.NOW),
    ],
)
def test_a_changed_counter_means_reboot(wanted: int | None, kept: int | None, then: Reboot) -> None:
    assert reboot.decide(None if wanted is None else wire.DeviceOpsCmd(counter=wanted), kept) is then


def test_a_reboot_deactivates_every_app() -> None:
    apps = deactivated(parse({"apps": [app(activate=True), app(APP2)]}).apps)
    assert [record.Activate for record in apps.values()] == [False, False]


# ---- anything at all


def scramble(message: Message, random: Random, depth: int = 0) -> None:
    """Fill `message` with values that are good, odd and wrong."""
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.4:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value[random.choice(["Ifname", "slot"])] = "x"
        elif field.message_type is not None:
            for _ in range(random.randint(1, 2) if field.is_repeated else 1):
                part = value.add() if field.is_repeated else value
                part.SetInParent()
                scramble(part, random, depth + 1)
        elif field.is_repeated:
            value.extend(scalar(field, random) for _ in range(random.randint(0, 2)))
        else:
            setattr(message, field.name, scalar(field, random))


def scalar(field: FieldDescriptor, random: Random) -> Any:
    texts = [
        APP,
        NET,
        NET2,
        NETWORK,
        NET.upper(),
        NIL_UUID,
        "",
        "10.0.0.1",
        "10.0.0.0/8",
        "fd00::1",
        "::/0",
        "1:0:0:2:0:0:0:3",
    ]
    texts += [
        "02:00:00:00:00:01",
        "eth0",
        "ssh x",
        "\u2028<&>",
        "\x00",
        "-1",
        "timer.gc.vdisk",
        "debug.nim.loglevel",
        "info",
    ]
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return random.choice(texts)
        case FieldDescriptor.TYPE_BYTES:
            return random.choice([b"", b"\xff", bytes(16)])
        case FieldDescriptor.TYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.TYPE_UINT32:
            return random.choice([0, 1, 2**32 - 1])
        case FieldDescriptor.TYPE_INT64:
            return random.choice([0, 1, -1, 2**63 - 1, -(2**63)])
        case FieldDescriptor.TYPE_INT32:
            return random.choice([0, 1, -1, 2**31 - 1, -(2**31)])
        case FieldDescriptor.TYPE_ENUM:
            numbers = [*field.enum_type.values_by_number, 3, 9, 255, 260, -1, 2**31 - 1, -(2**31)]
            return random.choice(numbers)
    raise AssertionError(field.full_name)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_controller_sends_comes_out_as_records_that_can_be_published(seed: int) -> None:
    random = Random(seed)
    for _ in range(60):
        message = wire.EdgeDevConfig()
        scramble(message, random)
        parsed = parse_config(message, Published(networks={}, ports=None), NOW)
        tables = (parsed.apps, parsed.base, parsed.certs, parsed.datastores, parsed.instances, parsed.networks)
        records = [record for table in tables for record in table.values()]
        for record in [*records, parsed.settings, parsed.physical, *([parsed.ports] if parsed.ports else [])]:
            assert decode(type(record), encode(record)) == record
        again = parse_config(message, Published(networks=parsed.networks, ports=parsed.ports), LATER)
        assert again == parsed


# ---- notations


@pytest.mark.parametrize(
    "form",
    [APP, APP.upper(), APP.replace("-", ""), f"{{{APP}}}", f"urn:uuid:{APP}", f"urn:uuid:{APP.replace('-', '')}"],
)
def test_ways_to_write_a_uuid(form: str) -> None:
    assert notation.read_uuid(form) == APP


@pytest.mark.parametrize(
    "form", ["", APP[1:], f"({APP})", f"URN:UUID:{APP}", APP.replace("f", "g"), APP[:-1] + "ü", "-" * 36]
)
def test_what_is_no_uuid(form: str) -> None:
    with pytest.raises(notation.Malformed, match=r"uuid: incorrect UUID|invalid byte"):
        notation.read_uuid(form)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("010.001.2.3", "10.1.2.3"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::", "::"),
        ("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"),
    ],
)
def test_ways_to_write_an_address(text: str, address: str) -> None:
    assert notation.read_ip(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3",
        "1.2.3.256",
        "1.2.3.4.5",
        "fe80::1%eth0",
        "1::2::3",
        ":::",
        "a",
        "1.2.3.4/8",
        "٣.1.1.1",
        "1.2.3." + "9" * 5000,
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(notation.Malformed):
        notation.read_ip(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("02:00:5e:00:00:01", 6), ("02-00-5E-00-00-01", 6), ("0200.5e00.0001", 6), ("02:00:5e:10:00:00:00:01", 8)],
)
def test_ways_to_write_a_mac(text: str, size: int) -> None:
    assert len(notation.read_mac(text)) == size
