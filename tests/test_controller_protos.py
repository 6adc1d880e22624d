"""The checked-in protobuf code is what its source compiles to, and keeps what it does not know."""

import subprocess
import sys
from pathlib import Path

import pytest

from pillar.controller import config_pb2 as wire
from pillar.controller.device import ConfigRefused, decode, decode_binary, decode_json, encode_binary, encode_json

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = sorted((ROOT / "tests/golden/controller").glob("*.json"))


def test_the_checked_in_code_is_a_fresh_compile(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is needed to compile protos")
    script = ROOT / "scripts/compile-protos"
    subprocess.run(
        [script, str(tmp_path)], check=True, timeout=60, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    )
    fresh = sorted((tmp_path / "pillar/controller").iterdir())
    assert [path.name for path in fresh] == ["config_pb2.py", "config_pb2.pyi"]
    for path in fresh:
        assert path.read_text() == (ROOT / "pillar/controller" / path.name).read_text(), f"run {script}"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_both_forms_of_a_sample_are_one_config(sample: Path) -> None:
    config = decode_json(sample.read_bytes())
    assert config == decode_binary(sample.with_suffix(".pb").read_bytes())
    assert decode_json(encode_json(config)) == config
    assert decode_binary(encode_binary(config)) == config


def test_unknown_numbers_of_enumerations_are_kept() -> None:
    config = decode_json(b'{"id":{"uuid":"5d0b7c1e-3a64-4f0e-9c58-2f4c7a1be901"},"datastores":[{"dType":77}]}')
    assert config.datastores[0].dType == 77
    assert decode_binary(encode_binary(config)).datastores[0].dType == 77
    assert decode_json(encode_json(config)).datastores[0].dType == 77


def test_unknown_fields_are_ignored_in_json_and_kept_in_binary() -> None:
    identity = '"id":{"uuid":"5d0b7c1e-3a64-4f0e-9c58-2f4c7a1be901","colour":"blue"}'
    assert decode_json(f'{{{identity},"volumes":[{{"uuid":"x"}}]}}'.encode()).id.uuid.startswith("5d0b7c1e")
    newer = encode_binary(wire.EdgeDevConfig(id=wire.UUIDandVersion(uuid="5d0b7c1e-3a64-4f0e-9c58-2f4c7a1be901")))
    newer += bytes([20 << 3 & 0x7F | 0x82, 1, 2, 8, 1])  # field 20, two bytes: apps became volumes later
    assert encode_binary(decode_binary(newer)) == newer


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "names no device"),
        (b"{}", "names no device"),
        (b'{"id":{"uuid":"nonsense"}}', "incorrect UUID length: nonsense"),
        (b'{"id":{"uuid":', "protobuf-JSON"),
        (b'{"apps":7}', "protobuf-JSON"),
        (b'{"id":{"uuid":"\xff"}}', "not UTF-8"),
        (b'{"a":' + b"[" * 100_000, "protobuf-JSON|nested too deeply"),
        (b"hello world", "binary protobuf"),
        (SAMPLES[0].with_suffix(".pb").read_bytes()[:200], "binary protobuf"),
    ],
    ids=["empty", "no id", "bad id", "cut json", "wrong type", "not text", "deep", "garbage", "cut binary"],
)
def test_what_is_no_device_config_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ConfigRefused, match=why):
        decode(data)


def test_a_binary_config_may_begin_like_json() -> None:
    identity = wire.UUIDandVersion(uuid="5d0b7c1e-3a64-4f0e-9c58-2f4c7a1be901", version="x" * 83)
    data = encode_binary(wire.EdgeDevConfig(id=identity))
    assert data[:2] == b"\n{"
    assert decode(data)[1] == "pb"
