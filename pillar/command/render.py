"""Records for eyes and for programs: secrets masked, JSON laid out, one value compared with another.

Secrets are known from the record's type; in every topic, a user's own too, members whose name says so are masked as
well. What goes to a terminal can do nothing to it.
"""

from __future__ import annotations

import enum
import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

from msgspec import inspect

from pillar.terminal import Palette
from pillar.topics import find_type
from pillar.types.secrets import MASK, mask

_SECRET_NAME: Final = re.compile(
    r"passw|secret|api_?key|private_?key|credential|token|pre_?shared|\bpsk", re.IGNORECASE
)
_LONGEST: Final = 160  # characters of one value in a line of changes


class FieldChange(NamedTuple):
    """One member that differs; `old` or `new` is ABSENT when it was not there."""

    field: str  # "Ports[0].Error"
    old: Any
    new: Any


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = _Absent()


def masked(topic: str, record: Any) -> Any:
    """`record` without its secrets."""
    record_type = find_type(topic)
    if record_type is not None:
        record = mask(record_type, record)
    return _mask_names(record)


def _mask_names(value: Any) -> Any:
    """For topics without a type of ours, and for members that a newer agent added."""
    if isinstance(value, dict):
        return {
            name: MASK if _SECRET_NAME.search(name) and member not in (None, "", [], {}, False) else _mask_names(member)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [_mask_names(member) for member in value]
    return value


def parse(data: bytes) -> Any:
    """JSON as Python objects, numbers exact. Raises ValueError (also for what is not UTF-8) and RecursionError."""
    return json.loads(data)


def compact(value: Any) -> str:
    """One line for programs: valid JSON, ASCII only."""
    return json.dumps(value, separators=(",", ":"))


def pretty(value: Any, palette: Palette) -> str:
    """Several lines, coloured, still valid JSON when the palette is plain."""
    return "".join(_laid_out(value, palette, 0))


def _laid_out(value: Any, palette: Palette, depth: int) -> Iterator[str]:
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict) and value:
        yield "{\n"
        for position, (name, member) in enumerate(value.items()):
            yield f"{inner}{palette.cyan(text_of(name))}: "
            yield from _laid_out(member, palette, depth + 1)
            yield "\n" if position == len(value) - 1 else ",\n"
        yield f"{outer}}}"
    elif isinstance(value, list) and value:
        yield "[\n"
        for position, member in enumerate(value):
            yield inner
            yield from _laid_out(member, palette, depth + 1)
            yield "\n" if position == len(value) - 1 else ",\n"
        yield f"{outer}]"
    elif isinstance(value, str):
        yield palette.green(text_of(value)) if value else text_of(value)
    elif value in (None, False, 0) or value in ([], {}):
        yield palette.dim(text_of(value))
    else:
        yield palette.yellow(text_of(value))


def text_of(value: Any) -> str:
    """JSON of a value in one line, readable, with everything a terminal would obey written as \\uXXXX."""
    if value is ABSENT:
        return repr(value)
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(char if _visible(char) else _escaped(char) for char in text)


def _visible(char: str) -> bool:
    return char == " " or unicodedata.category(char)[0] not in "CZ" or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def changes(old: Any, new: Any, path: str = "") -> Iterator[FieldChange]:
    """The members that differ, deepest first named: `StorageStatusList[0].Progress`. Lists are compared by position."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            where = f"{path}.{name}" if path else name
            yield from changes(old.get(name, ABSENT), new.get(name, ABSENT), where)
    elif isinstance(old, list) and isinstance(new, list):
        for position in range(max(len(old), len(new))):
            before = old[position] if position < len(old) else ABSENT
            after = new[position] if position < len(new) else ABSENT
            yield from changes(before, after, f"{path}[{position}]")
    elif type(old) is not type(new) or old != new:
        yield FieldChange(path, old, new)


def name_of(topic: str, field: str, value: Any) -> str:
    """What a number in this member is called (`DOWNLOADED`), "" when it has no name."""
    if type(value) is not int:
        return ""
    node = _type_info(topic)
    for part in _STEP.findall(field):
        node = _below(node, part)
    node = _bare(node)
    if not isinstance(node, inspect.EnumType) or not issubclass(node.cls, enum.IntEnum):
        return ""
    names = {int(member): member.name for member in node.cls}
    return names.get(value, "")


_STEP: Final = re.compile(r"\[\d+\]|[^.\[\]]+")


@cache
def _type_info(topic: str) -> inspect.Type | None:
    record_type = find_type(topic)
    return None if record_type is None else inspect.type_info(record_type)


def _below(node: inspect.Type | None, part: str) -> inspect.Type | None:
    node = _bare(node)
    if isinstance(node, inspect.VarTupleType | inspect.ListType) and part[0] == "[":
        return node.item_type
    if isinstance(node, inspect.StructType):
        return next((field.type for field in node.fields if field.encode_name == part), None)
    return node.value_type if isinstance(node, inspect.DictType) else None


def _bare(node: inspect.Type | None) -> inspect.Type | None:
    """Without annotations, and without the None of an optional member."""
    while True:
        if isinstance(node, inspect.Metadata):
            node = node.type
        elif isinstance(node, inspect.UnionType):
            node = next((inner for inner in node.types if not isinstance(inner, inspect.NoneType)), None)
        else:
            return node


def short(value: Any) -> str:
    """A value in a line of changes: cut when it is long."""
    text = text_of(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"
