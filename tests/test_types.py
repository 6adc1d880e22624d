"""The records: every value of every type survives the file, secrets are found, names and scalars follow EVE's rules."""

import datetime
import inspect as python_inspect
import ipaddress
import json
import pkgutil
import random
import subprocess
import sys
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

import pillar.types
from pillar.pubsub.codec import decode, encode
from pillar.topics import find_type
from pillar.types import common, scalars
from pillar.types.baseos import BaseOsStatus
from pillar.types.domainmgr import DomainConfig
from pillar.types.downloader import DatastoreConfig, DownloaderStatus
from pillar.types.eid import EIDConfig, EIDStatus
from pillar.types.enums import NetworkInstanceType, OpenEnum, SwState
from pillar.types.globalconfig import GlobalConfig
from pillar.types.metrics import metricsMap
from pillar.types.networkinstance import NetworkInstanceConfig
from pillar.types.record import Record
from pillar.types.secrets import MASK, mask, secret_paths
from pillar.types.zedmanager import AppInstanceConfig


def all_types() -> list[type[Record]]:
    """Every record of every module, our own included."""
    found = {}
    for module_info in pkgutil.iter_modules(pillar.types.__path__):
        module = __import__(f"pillar.types.{module_info.name}", fromlist=["*"])
        for _, value in python_inspect.getmembers(module, python_inspect.isclass):
            if issubclass(value, Record) and value is not Record:
                found[value.__name__] = value
    return sorted(found.values(), key=lambda value: value.__name__)


TYPES = all_types()
each_type = pytest.mark.parametrize("record_type", TYPES, ids=lambda value: value.__name__)


# Values of a type, made from its annotations

texts = st.text(max_size=6) | st.text(alphabet='<>&\u2028\u2029\\/"\b\f\n\t\x00\x7f\u00e9\U0001f600bf', max_size=8)
addresses = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: scalars.parse_ip(str(address)))
moments = st.builds(
    lambda moment, fraction, offset: moment.isoformat() + (f".{fraction:09}".rstrip("0") if fraction else "") + offset,
    st.datetimes(min_value=datetime.datetime(1, 1, 1)).map(lambda moment: moment.replace(microsecond=0)),
    st.just(0) | st.integers(1, 10**9 - 1),
    st.sampled_from(["Z", "Z", "+05:30", "-09:30", "+14:00", "-00:30"]),
)
FORMS = {"uuid": st.uuids().map(str), "ip": st.just("") | addresses, "time": moments}
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)


def values(node: inspect.Type, form: str = "") -> st.SearchStrategy[Any]:
    match node:
        case inspect.Metadata():
            return values(node.type, (node.extra or {}).get("form", form))
        case inspect.StructType(cls=cls):
            return st.builds(cls, **{field.name: values(field.type) for field in node.fields})
        case inspect.UnionType():
            return st.one_of([values(inner, form) for inner in node.types])
        case inspect.VarTupleType():
            return st.lists(values(node.item_type), max_size=2).map(tuple)
        case inspect.DictType():
            return st.dictionaries(values(node.key_type), values(node.value_type), max_size=2)
        case inspect.EnumType(cls=cls):
            numbers = cls._numbers()
            return (st.sampled_from(list(cls)) | st.integers(numbers[0], numbers[-1])).map(cls)
        case inspect.IntType():
            return st.integers(node.ge, 2**64 - 1 if node.le is None else node.le)
        case inspect.StrType():
            return FORMS[form] if form else texts
        case inspect.BytesType():
            return st.binary(max_size=20)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.AnyType():
            return anything
    raise AssertionError(f"no values for {node}")


relaxed = settings(
    max_examples=5, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck), database=None
)


@each_type
@relaxed
@given(data=st.data())
def test_every_value_of_every_type_is_read_as_it_was_written(record_type, data):
    record = data.draw(values(inspect.type_info(record_type)))
    written = encode(record)
    read = decode(record_type, written)
    assert read == record
    assert encode(read) == written
    assert not any(special in written for special in (b"<", b">", b"&", "\u2028".encode(), "\u2029".encode()))
    json.loads(written)


@each_type
@relaxed
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_order_case_and_unknown_members_make_no_difference(record_type, data, seed):
    node = inspect.type_info(record_type)
    record = data.draw(values(node))
    if getattr(record_type, "json_root", ""):
        node = node.fields[0].type
    disguised = disguise(node, json.loads(encode(record)), random.Random(seed))
    assert decode(record_type, json.dumps(disguised).encode()) == record


def disguise(node: inspect.Type, tree: Any, chance: random.Random) -> Any:
    """The same record as another program might write it."""
    match node:
        case inspect.Metadata():
            return disguise(node.type, tree, chance)
        case inspect.UnionType():
            return tree if tree is None else disguise(node.types[0], tree, chance)
        case inspect.StructType():
            kinds = {field.encode_name: field.type for field in node.fields}
            members = [(name, disguise(kinds[name], member, chance)) for name, member in tree.items()]
            members = [(chance.choice([name, name.upper(), name.lower()]), member) for name, member in members]
            members.append(("a newer agent's", {"field": [None]}))
            chance.shuffle(members)
            return dict(members)
        case inspect.VarTupleType():
            return [disguise(node.item_type, item, chance) for item in tree]
        case inspect.DictType():
            return {name: disguise(node.value_type, item, chance) for name, item in tree.items()}
        case _:
            return tree


@each_type
def test_no_two_members_differ_in_case_only(record_type):
    names = [name.lower() for name in record_type.__struct_fields__]
    assert len(names) == len(set(names))


@each_type
def test_every_field_has_a_default_and_the_zero_record_is_one_file(record_type):
    assert decode(record_type, encode(record_type())) == record_type()
    assert record_type.__struct_config__.frozen


@each_type
def test_every_record_says_what_it_is(record_type):
    assert record_type.__doc__ and record_type.__doc__ != Record.__doc__


# Topics


def test_a_type_is_found_by_its_topic():
    assert find_type("DownloaderStatus") is DownloaderStatus
    assert find_type("metricsMap") is metricsMap
    assert find_type("NoSuchTopic") is None
    assert find_type("Record") is None
    assert find_type("../x") is None


def test_looking_for_topics_imports_nothing_heavy():
    script = (
        "import sys; from pillar.topics import find_type; find_type('EIDStatus')\n"
        "heavy = {'boto3', 'requests', 'pyroute2', 'google.protobuf', 'cryptography'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# Secrets


def test_secrets_are_known_by_their_path():
    assert secret_paths(DatastoreConfig) == ("ApiKey", "Password")
    assert secret_paths(EIDStatus) == ("PemPrivateKey",)
    assert secret_paths(DomainConfig) == ("CloudInitUserData", "VncPasswd")
    assert secret_paths(AppInstanceConfig) == (
        "CloudInitUserData",
        "FixedResources.VncPasswd",
        "OverlayNetworkList[].PemPrivateKey",
    )
    assert secret_paths(NetworkInstanceConfig) == ("LispConfig.MapServers[].Credential", "OpaqueConfig")
    assert secret_paths(BaseOsStatus) == ()


@pytest.mark.parametrize("record_type", [value for value in TYPES if secret_paths(value)], ids=lambda v: v.__name__)
@relaxed
@given(data=st.data())
def test_no_secret_is_left_after_masking(record_type, data):
    node = inspect.type_info(record_type)
    tree = json.loads(encode(data.draw(values(node))))
    before = json.dumps(tree)
    masked = mask(record_type, tree)
    assert json.dumps(tree) == before
    hidden = [secret for path in secret_paths(record_type) for secret in at(masked, path)]
    assert all(secret in (None, "", MASK) for secret in hidden)
    assert len(hidden) == len([secret for path in secret_paths(record_type) for secret in at(tree, path)])
    assert decode(record_type, json.dumps(tree).encode()) is not None


def at(tree: Any, path: str) -> list[Any]:
    found = [tree]
    for part in path.replace("[]", ".[]").split("."):
        below: list[Any] = []
        for item in found:
            if part == "[]":
                below += list(item.values()) if isinstance(item, dict) else item or []
            elif item is not None:
                below.append(item[part])
        found = below
    return found


def test_a_secret_in_another_case_or_of_a_wrong_kind_is_masked_too():
    tree = {"password": "x", "APIKEY": ["y"], "Password": "", "Region": "z", "Other": {"Password": "kept"}}
    assert mask(DatastoreConfig, tree) == {
        "password": MASK,
        "APIKEY": MASK,
        "Password": "",
        "Region": "z",
        "Other": {"Password": "kept"},
    }
    assert mask(DatastoreConfig, None) is None
    assert mask(AppInstanceConfig, {"FixedResources": [], "OverlayNetworkList": {"a": 1}}) == {
        "FixedResources": [],
        "OverlayNetworkList": {"a": 1},
    }
    assert mask(metricsMap, {"eth0": {"FailureCount": 1}}) == {"eth0": {"FailureCount": 1}}


# Names and keys


def test_names_follow_eve_s_rules():
    name = common.safename("https://ds.example.com/eve/images/alpine.img", "ab12")
    assert name == "https:  ds.example.com eve images alpine.img.ab12"
    assert common.filename_from_safename(name) == "alpine.img"
    assert common.safename("certs/ca.pem", "") == "certs ca.pem.sha"
    assert common.filename_from_safename("certs ca.pem.sha") == "ca.pem"
    assert common.filename_from_url("https://ds.example.com/eve/images/alpine.img") == "alpine.img"
    assert common.filename_from_url("alpine.img") == "alpine.img"
    with pytest.raises(ValueError, match="no dot"):
        common.filename_from_safename("no dot at all")


def test_kib_rounds_up():
    assert [common.kib(size) for size in (0, 1, 1024, 1025, 2**64 - 1)] == [0, 1, 1, 2, 2**54]


def test_an_eid_s_key_is_the_app_and_the_instance_id():
    config = EIDConfig(UUIDandVersion=common.UUIDandVersion(UUID=scalars.NIL_UUID), IID=4294967295)
    assert config.key() == common.eid_key(scalars.NIL_UUID, 4294967295) == f"{scalars.NIL_UUID}:4294967295"


# Enumerations


def test_a_number_without_a_name_is_kept():
    assert SwState(255) == 255 and SwState(255).name == "255"
    assert f"{SwState.RUNNING.name} {SwState(200).value}" == "RUNNING 200"
    assert SwState(77) == SwState(77) and hash(SwState(77)) == hash(77)
    assert NetworkInstanceType(2**31 - 1) == 2**31 - 1
    assert decode(DownloaderStatus, b'{"State":77}').State.name == "77"


@pytest.mark.parametrize("number", [-1, 256, 2**31])
def test_a_number_the_go_type_cannot_hold_is_refused(number):
    with pytest.raises(ValueError, match="from 0 to 255"):
        SwState(number)


def test_numbers_without_a_name_do_not_pile_up():
    for number in range(1000, 2000):
        NetworkInstanceType(number)
    assert len(NetworkInstanceType) == len(NetworkInstanceType._value2member_map_) == 8
    assert issubclass(NetworkInstanceType, OpenEnum)


# Scalars


def test_now_is_a_canonical_time_of_this_moment():
    before = datetime.datetime.now(datetime.UTC)
    text = scalars.now()
    after = datetime.datetime.now(datetime.UTC)
    assert scalars.parse_rfc3339(text) == text
    second = datetime.timedelta(microseconds=1)
    assert before - second <= scalars.parse_time(text) <= after + second
    assert not scalars.is_zero(text) and scalars.is_zero(scalars.ZERO_TIME)
    assert scalars.time_from_ns(0) == "1970-01-01T00:00:00Z"
    assert scalars.time_from_ns(1_574_319_459_000_000_120) == "2019-11-21T06:57:39.00000012Z"


def test_a_time_becomes_a_datetime_with_its_offset():
    parsed = scalars.parse_time("2019-11-30T06:57:39.123456789+14:00")
    assert parsed.isoformat() == "2019-11-30T06:57:39.123456+14:00"
    assert scalars.parse_time(scalars.ZERO_TIME).year == 1
    with pytest.raises(ValueError, match="expected a time"):
        scalars.parse_time("yesterday")


class OneOfEach(Record):
    """Each scalar that has a form."""

    Address: scalars.IpAddr = ""
    Id: scalars.Uuid = scalars.NIL_UUID
    Moment: scalars.Time = scalars.ZERO_TIME


@settings(max_examples=100, deadline=None, database=None)
@given(
    groups=st.lists(st.sampled_from(["0", "0", "0", "1", "ffff", "db8", "00a"]), min_size=8, max_size=8),
)
def test_an_address_is_stored_in_the_one_form_go_writes(groups):
    text = ":".join(groups)
    wanted = ipaddress.ip_address(text)
    expected = str(wanted.ipv4_mapped or wanted)
    assert decode(OneOfEach, encode(OneOfEach(Address=text))).Address == expected
    canonical = encode(OneOfEach(Address=expected))
    assert encode(decode(OneOfEach, canonical)) == canonical


def test_only_canonical_text_passes_the_strict_patterns():
    strict = msgspec.json.Decoder(OneOfEach)
    for field, good, bad in (
        (
            "Address",
            "10.0.0.1 fd00::1 :: ::1 1:2:3:4:5:6:7:8 2001:db8:0:1::2e fe80::",
            "::ffff:102:304 0:0::1 FD00::1 1::2::3",
        ),
        ("Address", "0.0.0.0 255.255.255.255", "01.2.3.4 1.2.3 1.2.3.4.5 1.2.3.4/8 1:2:3:4:5:6:7::8 1:2:3:4:5:6:7"),
        ("Id", str(uuid.uuid4()), f"{str(uuid.uuid4()).upper()}x 12345678123456781234567812345678"),
        ("Moment", "2020-02-29T23:59:59Z 2000-02-29T00:00:00.1+01:00", "2100-02-29T00:00:00Z 2019-04-31T00:00:00Z"),
        ("Moment", "0000-01-01T00:00:00Z", "2019-01-01T00:00:00.10Z 2019-01-01T00:00:00+00:00 2019-01-01T00:00:60Z"),
    ):
        for text in good.split():
            strict.decode(json.dumps({field: text}))
        for text in bad.split():
            with pytest.raises(msgspec.ValidationError):
                strict.decode(json.dumps({field: text}))
        with pytest.raises(msgspec.ValidationError):
            strict.decode(json.dumps({field: good.split()[0] + "\n"}))


def test_macs_and_networks_have_their_texts():
    assert scalars.mac_text(b"\x00\x16\x3e\x00\x00\x01") == "00:16:3e:00:00:01"
    assert scalars.mac_text(None) == scalars.mac_text(b"") == ""
    assert scalars.mac_from_text("00:16:3E:00:00:01") == b"\x00\x16\x3e\x00\x00\x01"
    assert scalars.mac_from_text("") is None
    with pytest.raises(ValueError, match="expected a MAC"):
        scalars.mac_from_text("00:16:3e")
    net = scalars.ip_net("10.1.0.0/24")
    assert encode(net) == b'{"IP":"10.1.0.0","Mask":"////AA=="}'
    assert scalars.ip_network(net) == ipaddress.ip_network("10.1.0.0/24")
    assert scalars.ip_network(scalars.IpNet()) is None
    with pytest.raises(ValueError, match="does not fit"):
        scalars.ip_network(scalars.IpNet(IP="10.1.0.0", Mask=b"\xff\x00\xff\x00"))


def test_global_config_reads_with_only_what_a_person_wrote():
    assert decode(GlobalConfig, b'{"downloadretrytime": 5}') == GlobalConfig(DownloadRetryTime=5)
