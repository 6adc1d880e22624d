"""EVE's packets: written as EVE writes them, read as tolerantly as EVE reads them, refused with the reason."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillar.pubsub import wire

at_any_speed = settings(deadline=None)  # a busy machine may leave any of these alone for a while


@pytest.mark.parametrize(
    ("packet", "meaning"),
    [
        (b"request Item", wire.Request("Item")),
        (b"hello Item", wire.Hello("Item", None)),
        (b"hello Item true", wire.Hello("Item", True)),
        (b"hello Item false", wire.Hello("Item", False)),
        (b"update Item azE= e30=", wire.Update("Item", "k1", b"{}")),
        (b"delete Item azE=", wire.Delete("Item", "k1")),
        (b"delete Item azE= more", wire.Delete("Item", "k1")),
        (b"complete Item", wire.Complete("Item")),
        (b"restarted Item", wire.Restarted("Item", None)),
        (b"restarted Item 12", wire.Restarted("Item", 12)),
        (b"delete Item 0LrQu9GO0Yct5pel5pysLcOp", wire.Delete("Item", "ключ-日本-é")),
    ],
)
def test_each_message_is_understood(packet: bytes, meaning: wire.Packet) -> None:
    assert wire.parse(packet) == meaning


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "starts with '', which is no message"),
        (b"nonsense Item", "starts with 'nonsense'"),
        (b"update", "`update` has 1 words, wanted 4"),
        (b"update Item azE=", "`update` has 3 words, wanted 4"),
        (b"update Item azE= e30= more", "`update` has 5 words, wanted 4"),
        (b"complete ", "names no topic"),
        (b"request  Item", "names no topic"),
        (b"delete Item", "`delete` has 2 words, wanted 3"),
        (b"delete Item az!E=", "its key is not base64"),
        (b"delete Item /w==", "its key is not UTF-8"),
        (b"update Item azE= e3", "its record is not base64"),
        (b"hello Item maybe", "'maybe', wanted true or false"),
        (b"restarted Item -1", "'-1' is no decimal number"),
        (b"restarted Item " + b"9" * 400, "is no decimal number"),
        (b"update \xff", "byte 0xff, which is not ASCII"),
    ],
)
def test_a_bad_packet_is_refused_with_the_reason(packet: bytes, reason: str) -> None:
    with pytest.raises(wire.BadPacket) as caught:
        wire.parse(packet)
    assert reason in str(caught.value)


def test_a_bad_record_names_its_key() -> None:
    with pytest.raises(wire.BadPacket) as caught:
        wire.parse(b"update Item azE= ?")
    assert caught.value.key == "k1"


@pytest.mark.parametrize("packet", [b"request Item extra", b"request  Item", b"hello Item", b"request"])
def test_a_publisher_takes_a_request_of_exactly_two_words(packet: bytes) -> None:
    with pytest.raises(wire.BadPacket):
        wire.parse_request(packet)


@at_any_speed
@given(st.binary(max_size=200))
def test_no_packet_ends_the_reader(packet: bytes) -> None:
    try:
        wire.parse(packet)
    except wire.BadPacket:
        return


@at_any_speed
@given(key=st.text(min_size=1), data=st.binary())
def test_what_is_written_is_read_back(key: str, data: bytes) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    packet = wire.update("Item", key, data)
    assert wire.parse(packet) == wire.Update("Item", key, data)
    assert len(packet) == wire.update_bytes("Item", key, len(data))
    assert wire.parse(wire.delete("Item", key)) == wire.Delete("Item", key)


def test_the_dialects_differ_in_hello_and_restarted_only() -> None:
    assert wire.hello("Item", 2019, persistent=True) == b"hello Item"
    assert wire.hello("Item", 2026, persistent=True) == b"hello Item true"
    assert wire.restarted("Item", 2019, 7) == b"restarted Item"
    assert wire.restarted("Item", 2026, 7) == b"restarted Item 7"


def test_a_record_travels_sorted_with_exact_integers_and_go_s_floats() -> None:
    data = b'{"z":18446744073709551615,"a":[{"y":1e+21,"b":1e-7}],"m":"\\u003cb\\u003e","e":[]}'
    assert wire.record(data, 2019) == (
        b'{"a":[{"b":1e-7,"y":1e+21}],"e":[],"m":"\\u003cb\\u003e","z":18446744073709551615}'
    )


def test_the_2026_publisher_sends_an_empty_list_as_null_at_every_depth() -> None:
    assert wire.record(b'{"a":[],"b":[[],{"c":[]}],"d":{}}', 2026) == b'{"a":null,"b":[null,{"c":null}],"d":{}}'


@at_any_speed
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
        max_leaves=20,
    )
)
def test_sorting_for_the_wire_changes_no_value(value: object) -> None:
    assert msgspec.json.decode(wire.record(msgspec.json.encode({"v": value}), 2019)) == {"v": value}
