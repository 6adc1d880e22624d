"""Every record that EVE's own encoder wrote is read, and written again to the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from pillar.pubsub.codec import decode, encode
from pillar.topics import find_type

GOLDEN = Path(__file__).parent / "golden" / "2019"
FILES = sorted(GOLDEN.glob("*.json"))


def vectors(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["vectors"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_type_of_eve_has_a_record_of_its_name(path):
    topic = json.loads(path.read_text())["topic"]
    assert find_type(topic) is not None, f"no record {topic} in pillar.types"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_eve_wrote_is_read_and_written_to_the_same_bytes(path):
    record_type = find_type(path.stem)
    for vector in vectors(path):
        data = vector["json"].encode()
        record = decode(record_type, data)
        assert encode(record) == data, vector["name"]
        assert decode(record_type, encode(record)) == record, vector["name"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_keys_are_those_of_eve(path):
    keyed = [vector for vector in vectors(path) if "key" in vector]
    record_type = find_type(path.stem)
    assert bool(keyed) == hasattr(record_type, "key")
    for vector in keyed:
        assert decode(record_type, vector["json"].encode()).key() == vector["key"], vector["name"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fields_stand_in_eve_s_order_and_start_as_go_s_zero(path):
    record_type = find_type(path.stem)
    zero, *others = vectors(path)
    assert zero["name"] == "zero"
    assert encode(record_type()) == zero["json"].encode()
    if not getattr(record_type, "json_root", ""):
        fullest = max((json.loads(vector["json"]) for vector in others), key=len)
        ours = sum(default is UNSET for default in record_type.__struct_defaults__)  # not written unless set
        fields = list(record_type.__struct_fields__)
        assert fields[: len(fields) - ours] == list(fullest)


def test_the_golden_vectors_are_there():
    assert len(FILES) == 131
    assert sum(len(vectors(path)) for path in FILES) == 1419
