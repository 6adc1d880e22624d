"""The codec: what people and other programs may write into a record's file, and what they read there."""

import math
import subprocess
import sys

import msgspec
import pytest

from pillar.pubsub.codec import decode, encode
from pillar.pubsub.errors import BadRecord, EncodeFailed
from pillar.types.baseos import ZbootConfig
from pillar.types.common import DnsNameToIP, UUIDandVersion, VmConfig
from pillar.types.downloader import DatastoreConfig, DownloaderConfig, DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.globalconfig import ConfigItem, GlobalConfig, PerAgentSettings
from pillar.types.metrics import InterfaceMetrics, metricsMap
from pillar.types.nim import DeviceNetworkStatus, NetworkPortStatus
from pillar.types.scalars import NIL_UUID
from pillar.types.verifier import VerifyImageConfig
from pillar.types.zedmanager import AppInstanceConfig, StorageConfig

UUID = "7b026db8-a1ea-4bcd-9329-4b73a3101175"


# What is written


def test_html_characters_and_line_separators_are_escaped_as_go_escapes_them():
    data = encode(UUIDandVersion(Version="a<b>&c\u2028\u2029\x7f"))
    assert data.endswith(b'"Version":"a\\u003cb\\u003e\\u0026c\\u2028\\u2029\x7f"}')


def test_every_control_character_is_written_as_go_1_12_writes_it():
    data = encode(ZbootConfig(PartitionLabel="".join(map(chr, range(32))) + '"\\'))
    expected = "".join({9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\u{code:04x}") for code in range(32))
    assert data == f'{{"PartitionLabel":"{expected}\\"\\\\","TestComplete":false}}'.encode()


def test_a_backslash_before_b_or_f_is_not_taken_for_a_control_character():
    assert b'"C:\\\\boot\\\\\\\\flat"' in encode(ZbootConfig(PartitionLabel="C:\\boot\\\\flat"))


def test_half_a_surrogate_pair_is_written_as_the_replacement_character():
    assert '"a\ufffdb\ufffd"'.encode() in encode(ZbootConfig(PartitionLabel="a\ud800b\udfff"))
    errors = GlobalConfig(Errors=("\ud800",), AgentSettings={"\udc00": PerAgentSettings(LogLevel="\ud801")})
    assert encode(errors).count("\ufffd".encode()) == 3


def test_keys_of_maps_are_sorted_and_fields_are_not():
    record = GlobalConfig(AgentSettings={"b": PerAgentSettings(), "": PerAgentSettings(), "a<": PerAgentSettings()})
    text = encode(record)
    assert text.index(b'"":') < text.index(b'"a\\u003c":') < text.index(b'"b":') < text.index(b'"Errors"')
    assert text.startswith(b'{"ConfigInterval":')


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, b"0"),
        (-0.0, b"-0"),
        (1.0, b"1"),
        (0.1, b"0.1"),
        (1e-6, b"0.000001"),
        (1.5e-5, b"0.000015"),
        (1e-7, b"1e-7"),
        (1.25e-10, b"1.25e-10"),
        (1e20, b"100000000000000000000"),
        (123456789012345678901.0, b"123456789012345680000"),
        (1e21, b"1e+21"),
        (-1.7976931348623157e308, b"-1.7976931348623157e+308"),
        (5e-324, b"5e-324"),
    ],
)
def test_floats_have_go_s_text(number, text):
    data = encode(ConfigItem(Value=number))
    assert data == b'{"Key":"","Value":' + text + b"}"
    assert float(decode(ConfigItem, data).Value) == number


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_json_cannot_carry_are_refused(number):
    with pytest.raises(EncodeFailed, match="ConfigItem"):
        encode(ConfigItem(Value={"a": [number]}))


def test_objects_json_cannot_carry_are_refused():
    with pytest.raises(EncodeFailed, match="ConfigItem"):
        encode(ConfigItem(Value=object()))


def test_a_topic_that_is_a_bare_map_is_written_and_read_without_a_struct_around_it():
    record = metricsMap(Interfaces={"eth1": InterfaceMetrics(FailureCount=2), "eth0": InterfaceMetrics()})
    data = encode(record)
    assert data.startswith(b'{"eth0":{"FailureCount":0,') and b'"eth1":{"FailureCount":2,' in data
    assert decode(metricsMap, data) == record
    assert encode(metricsMap()) == b"null"
    assert decode(metricsMap, b"null") == metricsMap()
    assert decode(metricsMap, b'{"eth1":{"failurecount":2}, "eth0":null}') == record


# What is read leniently, as Go reads it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", DownloaderStatus()),
        ('  {\n"State" : 3 }\r\n\t', DownloaderStatus(State=SwState.DOWNLOADED)),
        ('{"state":3,"REFCOUNT":2}', DownloaderStatus(State=SwState.DOWNLOADED, RefCount=2)),
        ('{"\u017ftate":3,"\u212aind":1}', DownloaderStatus(State=SwState.DOWNLOADED)),
        ('{"State":7,"State":3}', DownloaderStatus(State=SwState.DOWNLOADED)),
        ('{"State":7,"state":3}', DownloaderStatus(State=SwState.DOWNLOADED)),
        ('{"State":3,"state":7,"State":3}', DownloaderStatus(State=SwState.DOWNLOADED)),
        ('{"State":null,"Name":null,"LastUse":null,"ImageID":null,"Expired":null}', DownloaderStatus()),
        ('{"State":3,"State":null}', DownloaderStatus(State=SwState.DOWNLOADED)),
        ('{"Newer":{"than":[1,2.5,{}]},"State":3}', DownloaderStatus(State=SwState.DOWNLOADED)),
        ('{"State":200}', DownloaderStatus(State=SwState(200))),
        ('{"RefCount":18446744073709551615}', DownloaderStatus(RefCount=2**64 - 1)),
        ('{"RetryCount":-0}', DownloaderStatus()),
        (f'{{"ImageID":"{UUID.upper()}"}}', DownloaderStatus(ImageID=UUID)),
        (f'{{"ImageID":"{{{UUID}}}"}}', DownloaderStatus(ImageID=UUID)),
        (f'{{"ImageID":"urn:uuid:{UUID}"}}', DownloaderStatus(ImageID=UUID)),
        (f'{{"ImageID":"{UUID.replace("-", "")}"}}', DownloaderStatus(ImageID=UUID)),
        ('{"LastUse":"2019-11-30T06:57:39.120+00:00"}', DownloaderStatus(LastUse="2019-11-30T06:57:39.12Z")),
        ('{"LastUse":"2020-02-29T00:00:00.000Z"}', DownloaderStatus(LastUse="2020-02-29T00:00:00Z")),
        ('{"Name":"\\ud800\\u0041\\ud83d\\ude00"}', DownloaderStatus(Name="\ufffdA\U0001f600")),
        ('{"Name":"\\u003c\\/<"}', DownloaderStatus(Name="</<")),
    ],
)
def test_a_record_is_read_as_go_reads_it(text, expected):
    assert decode(DownloaderStatus, text.encode()) == expected


def test_nested_structs_lists_and_maps_are_read_leniently_too():
    text = b"""{"ports":[null,{"GATEWAY":"FD00:0::1","dnsservers":["10.0.0.1",null,"::ffff:1.2.3.4"],
        "Subnet":{"ip":"10.1.0.0","mask":"////\\nAA=="},"proxy":null,"Proxies":[]}],"extra":0}"""
    status = decode(DeviceNetworkStatus, text)
    assert status.Ports is not None
    assert status.Ports[0] == NetworkPortStatus()
    port = status.Ports[1]
    assert (port.Gateway, port.DnsServers) == ("fd00::1", ("10.0.0.1", "", "1.2.3.4"))
    assert (port.Subnet.IP, port.Subnet.Mask) == ("10.1.0.0", b"\xff\xff\xff\x00")
    assert (port.Proxy, port.Proxies, port.DnsNameToIPList) == (None, (), None)
    settings = decode(GlobalConfig, b'{"agentsettings":{"nim":{"loglevel":"debug"},"a":null}}').AgentSettings
    assert settings == {"nim": PerAgentSettings(LogLevel="debug"), "a": PerAgentSettings()}


def test_bytes_may_be_a_list_of_numbers():
    assert decode(VerifyImageConfig, b'{"ImageSignature":[1,2,255]}').ImageSignature == b"\x01\x02\xff"


def test_empty_and_nil_stay_different():
    for text in (b'{"HostName":"","IPs":null}', b'{"HostName":"","IPs":[]}'):
        assert encode(decode(DnsNameToIP, text)) == text
    assert decode(VerifyImageConfig, b'{"ImageSignature":""}').ImageSignature == b""
    assert decode(VerifyImageConfig, b'{"ImageSignature":null}').ImageSignature is None


# What is refused


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"null", r"\$: expected an object, found null"),
        (b"[]", r"\$: expected an object, found an array"),
        (b'"x"', r"\$: expected an object, found a string"),
        (b"{", "not JSON"),
        (b'{"State":3', "not JSON"),
        (b'{"State":3}x', "not JSON"),
        (b"{}{}", "not JSON"),
        (b"{}\x00", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"{\x00}", "not JSON"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b'{"Name":"\xff"}', "not UTF-8 at byte 9"),
        (b'{"Other":"\xff"}', "UTF-8"),
        (b'{"Name":"a\nb"}', "not JSON"),
        (b'{"Size":NaN}', "NaN"),
        (b'{"Unknown":Infinity}', "Infinity"),
        (b'{"Unknown":1e999}', "float"),
        (b'{"Unknown":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"Size":1.0}', r"\$\.Size: expected an integer, found a number with a fraction"),
        (b'{"Size":1e3}', r"\$\.Size: expected an integer"),
        (b'{"Size":"1"}', r"\$\.Size: expected an integer, found a string"),
        (b'{"Size":true}', r"\$\.Size: expected an integer, found true or false"),
        (b'{"size":-1}', r"\$\.Size: is -1, expected an integer from 0 to 18446744073709551615"),
        (b'{"Size":18446744073709551616}', r"\$\.Size: is 18446744073709551616"),
        (b'{"RetryCount":9223372036854775808}', r"\$\.RetryCount: is 9223372036854775808"),
        (b'{"State":256}', r"\$\.State: is 256, expected SwState, a number from 0 to 255"),
        (b'{"State":-1}', r"\$\.State"),
        (b'{"State":3.5}', r"\$\.State"),
        (b'{"State":true}', r"\$\.State"),
        (b'{"Expired":1}', r"\$\.Expired: expected true or false, found a number"),
        (b'{"Name":3}', r"\$\.Name: expected a string, found a number"),
        (b'{"Name":{}}', r"\$\.Name: expected a string, found an object"),
        (b'{"ImageID":""}', r"\$\.ImageID: is '', expected a UUID"),
        (b'{"ImageID":"7b026db8-a1ea-4bcd-9329-4b73a310117"}', r"\$\.ImageID"),
        (b'{"LastUse":""}', r"\$\.LastUse"),
        (b'{"LastUse":"2019-02-29T00:00:00Z"}', r"\$\.LastUse: is '2019-02-29T00:00:00Z', expected a time"),
        (b'{"LastUse":"2019-11-30 06:57:39Z"}', r"\$\.LastUse"),
        (b'{"LastUse":"2019-11-30T24:00:00Z"}', r"\$\.LastUse"),
        (b'{"LastUse":"2019-11-30T06:57:39"}', r"\$\.LastUse"),
        (b'{"LastUse":1574319459}', r"\$\.LastUse"),
    ],
)
def test_what_is_no_record_is_refused_with_place_and_reason(text, reason):
    with pytest.raises(BadRecord, match=reason) as refused:
        decode(DownloaderStatus, text)
    assert "DownloaderStatus" in str(refused.value)


@pytest.mark.parametrize(
    ("record_type", "text", "place"),
    [
        (DeviceNetworkStatus, '{"Ports":[{},{"Gateway":"10.0.0.256"}]}', r"\$\.Ports\[1\]\.Gateway: is '10.0.0.256'"),
        (DeviceNetworkStatus, '{"Ports":[{"Gateway":"10.0.0.01"}]}', r"\$\.Ports\[0\]\.Gateway"),
        (DeviceNetworkStatus, '{"Ports":[{"Gateway":"fe80::1%eth0"}]}', r"\$\.Ports\[0\]\.Gateway"),
        (DeviceNetworkStatus, '{"Ports":[{"Subnet":{"Mask":"AAA"}}]}', r"\$\.Ports\[0\]\.Subnet\.Mask: is not base64"),
        (DeviceNetworkStatus, '{"Ports":{}}', r"\$\.Ports: expected an array, found an object"),
        (GlobalConfig, '{"AgentSettings":{"nim":{"LogLevel":1}}}', r"\$\.AgentSettings\['nim'\]\.LogLevel"),
        (GlobalConfig, '{"AgentSettings":[]}', r"\$\.AgentSettings: expected an object"),
        (VmConfig, '{"IRQs":[1,2,"3"]}', r"\$\.IRQs\[2\]"),
    ],
)
def test_the_place_of_a_bad_value_is_named_down_to_the_element(record_type, text, place):
    with pytest.raises(BadRecord, match=place):
        decode(record_type, text.encode())


def test_an_error_never_shows_a_secret():
    for text in (b'{"Password":["hunter2"]}', b'{"password":12345678}', b'{"Password":"hunter2","UUID":"x"}'):
        with pytest.raises(BadRecord) as refused:
            decode(DatastoreConfig, text)
        shown = str(refused.value) + repr(refused.value.__cause__)
        assert "hunter2" not in shown and "12345678" not in shown


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [600, 100_000])
def test_a_deeply_nested_text_is_refused_whoever_nests_it(opening, depth):
    closing = b"]" if opening == b"[" else b"}"
    for text in (opening * depth + b"0" + closing * depth, opening * depth):
        with pytest.raises(BadRecord):
            decode(DownloaderStatus, b'{"Unknown":' + text + b"}")
        with pytest.raises(BadRecord):
            decode(ConfigItem, b'{"Value":' + text + b"}")


def test_many_brackets_that_do_not_nest_are_fine():
    apps = tuple(StorageConfig(Name="[{" * 50 + '\\"]') for _ in range(600))
    config = AppInstanceConfig(StorageConfigList=apps)
    assert decode(AppInstanceConfig, encode(config)) == config
    assert decode(ConfigItem, b'{"Value":' + b"[" * 400 + b"]" * 400 + b"}").Key == ""


# Records of one's own


class Job(msgspec.Struct):
    Name: str
    Count: int = 0
    Tags: list[str] = []


class Tree(msgspec.Struct, frozen=True):
    Name: str = ""
    Children: tuple["Tree", ...] = ()


def test_any_struct_will_do():
    job = Job(Name="a<b", Count=2, Tags=["x"])
    data = encode(job)
    assert data == b'{"Name":"a\\u003cb","Count":2,"Tags":["x"]}'
    assert decode(Job, data) == job
    assert decode(Job, b'{"name":"a<b","COUNT":2,"tags":["x"],"other":1}') == job
    with pytest.raises(BadRecord, match=r"\$\.Name: is required and missing"):
        decode(Job, b"{}")


def test_a_struct_may_hold_itself():
    tree = Tree(Name="root", Children=(Tree(Name="leaf"),))
    assert decode(Tree, encode(tree)) == tree
    assert decode(Tree, b'{"name":"root","children":[{"NAME":"leaf"}]}') == tree


def test_a_script_needs_no_module_of_the_records():
    script = (
        "import sys, msgspec\n"
        "from pillar.pubsub.codec import decode, encode\n"
        "class Job(msgspec.Struct):\n    Name: str = ''\n"
        "assert decode(Job, encode(Job(Name='x'))).Name == 'x'\n"
        "sys.exit(any(name.startswith('pillar.types.') for name in sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# Records handed out


def test_a_record_cannot_be_changed_by_who_gets_it():
    with pytest.raises(AttributeError):
        DownloaderConfig().RefCount = 1  # type: ignore[misc]
    assert DownloaderConfig().ImageID == NIL_UUID
