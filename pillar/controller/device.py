"""A device config as bytes: protobuf-JSON or binary EdgeDevConfig, read and checked. Loads protobuf."""

import re

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from pillar.controller.config_pb2 import EdgeDevConfig
from pillar.controller.notation import Malformed, read_uuid

MAX_CONFIG_BYTES = 64 * 1024 * 1024  # far above any real one; a larger file is something else


class ConfigRefused(ValueError):
    """These bytes are not a device config that a device can go by; str() says why."""


def decode_json(data: bytes) -> EdgeDevConfig:
    """Read protobuf-JSON. Unknown fields are ignored, as a newer controller may send them. Raises ConfigRefused."""
    try:
        return _checked(json_format.Parse(data.decode(), EdgeDevConfig(), ignore_unknown_fields=True))
    except UnicodeDecodeError as err:
        raise ConfigRefused(f"not UTF-8: byte {err.start} is {err.object[err.start]:#04x}") from err
    except RecursionError as err:
        raise ConfigRefused("nested too deeply") from err
    except json_format.ParseError as err:
        raise ConfigRefused(f"not a device config in protobuf-JSON: {_line(err)}") from err


def ignored_in_json(data: bytes) -> str:
    """The first thing in a good protobuf-JSON config that `decode_json` ignores, for people; "" when there is none.

    It may be a newer controller's, or a person's slip of the pen.
    """
    try:
        json_format.Parse(data.decode(), EdgeDevConfig())
    except json_format.ParseError as err:
        text = _line(err)
        field = re.search(r'has no field named "([^"]*)" at "([^"]*)"', text)
        if field is not None:
            return f"{field[2]} has no field {field[1]!r}"
        name = re.search(r"Invalid enum value (.*) for enum type \S+ at (\S+?)\.*$", text)
        return f"{name[2]} has no value {name[1]!r}" if name is not None else text
    return ""


def decode_binary(data: bytes) -> EdgeDevConfig:
    """Read binary protobuf. Raises ConfigRefused.

    A message cut between two fields still decodes: without its id it is refused, but a cut behind the id cannot be
    seen here. So nobody reads a file that is still being written.
    """
    try:
        return _checked(EdgeDevConfig.FromString(data))
    except DecodeError as err:
        raise ConfigRefused(f"not a device config in binary protobuf: {_line(err)}") from err


def decode(data: bytes) -> tuple[EdgeDevConfig, str]:
    """Read either form; the second value is the suffix of a file for it: json or pb. Raises ConfigRefused."""
    if data.lstrip()[:1] != b"{":
        return decode_binary(data), "pb"
    try:
        return decode_json(data), "json"
    except ConfigRefused as json_error:
        # Binary may begin with a newline and a brace: tag 10 (the id) and a length of 123.
        try:
            return decode_binary(data), "pb"
        except ConfigRefused:
            raise json_error from None


def encode_json(config: EdgeDevConfig) -> bytes:
    """The config as people read it, unknown numbers of enumerations included."""
    return (json_format.MessageToJson(config, indent=2) + "\n").encode()


def encode_binary(config: EdgeDevConfig) -> bytes:
    """The same bytes for an equal config."""
    return config.SerializeToString(deterministic=True)


def _checked(config: EdgeDevConfig) -> EdgeDevConfig:
    if not config.HasField("id"):
        raise ConfigRefused("it names no device: id is missing (the file may be cut)")
    try:
        read_uuid(config.id.uuid)
    except Malformed as why:
        raise ConfigRefused(f"it names no device: id.uuid: {why}") from why
    return config


def _line(err: Exception) -> str:
    return " ".join(str(err).split())
