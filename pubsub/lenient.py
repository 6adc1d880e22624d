"""Go's rules for reading JSON into a struct, for the records that strict reading refuses.

People write records by hand, other programs write them with other tools; EVE's agents read all of them with
encoding/json, so these do too:

    a member belongs to the field of exactly that name, else to the first that differs in case only
    unknown members are ignored; of several for one field the last wins
    null leaves the field zero; a list element or map value that is null is that type's zero
    a number with a fraction or an exponent is no integer; an integer must fit its field
    bytes are base64 (line breaks allowed) or a list of numbers; half a surrogate pair is U+FFFD

A scalar with a form of its own (UUID, IP address, time) is a string whose annotation carries
`Meta(extra={"parse": function})`: the function returns the canonical text or raises ValueError.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect

INT64 = range(-(2**63), 2**63)
UINT64 = range(2**64)

Reader = Callable[[Any, str], Any]  # (JSON value, its path) -> the field's value, or raises Rejected


class Rejected(Exception):
    """The text is no JSON, or a value in it does not fit; str() is `$.Path: reason`."""


class Members(list[tuple[str, Any]]):
    """A JSON object as it was written: members in order, doubled names included."""


class LenientDecoder:
    """Reads one type by Go's rules; slower than msgspec by a factor of about fifty."""

    def __init__(self, target: Any) -> None:
        self._readers: dict[int, Reader] = {}
        self._read = self._reader(inspect.type_info(target))

    def decode(self, data: bytes) -> Any:
        """The value read; raises Rejected or UnicodeDecodeError."""
        return self._read(parse(data), "$")

    def _reader(self, node: inspect.Type, extra: dict[str, Any] | None = None) -> Reader:
        match node:
            case inspect.Metadata():
                return self._reader(node.type, {**(extra or {}), **(node.extra or {})})
            case inspect.StructType():
                return self._struct(node)
            case inspect.UnionType():
                return self._union(node, extra)
            case inspect.VarTupleType() | inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
                return self._sequence(node)
            case inspect.DictType():
                return self._map(node)
            case inspect.StrType():
                return _string(node, (extra or {}).get("parse"))
            case inspect.IntType():
                return _integer(node)
            case inspect.BytesType():
                return _bytes
            case inspect.BoolType():
                return _bool
            case inspect.FloatType():
                return _float
            case inspect.EnumType(cls=cls):
                return _enum(cls)
            case inspect.AnyType():
                return lambda value, path: plain(value)
            case _:
                return _foreign(node)

    def _struct(self, node: inspect.StructType) -> Reader:
        if id(node) in self._readers:
            return self._readers[id(node)]
        fields: dict[str, tuple[inspect.Field, Reader, bool]] = {}
        folded: dict[str, str] = {}

        def read(value: Any, path: str) -> Any:
            if not isinstance(value, Members):
                raise _expected("an object", value, path)
            found: dict[str, Any] = {}
            for name, member in value:
                exact = name if name in fields else folded.get(fold(name))
                if exact is None:
                    continue
                field, reader, nullable = fields[exact]
                if member is None and not nullable:
                    continue
                found[field.name] = reader(member, f"{path}.{exact}")
            missing = [name for name, (field, _, _) in fields.items() if field.required and field.name not in found]
            if missing:
                raise Rejected(f"{path}.{missing[0]}: is required and missing")
            return node.cls(**found)

        self._readers[id(node)] = read  # before the fields: a struct may hold itself
        for field in node.fields:
            fields[field.encode_name] = (field, self._reader(field.type), _nullable(field.type))
            folded.setdefault(fold(field.encode_name), field.encode_name)
        return read

    def _union(self, node: inspect.UnionType, extra: dict[str, Any] | None) -> Reader:
        choices = [self._reader(inner, extra) for inner in node.types if not isinstance(inner, inspect.NoneType)]
        nullable = len(choices) < len(node.types)

        def read(value: Any, path: str) -> Any:
            if value is None and nullable:
                return None
            for reader in choices[:-1]:
                try:
                    return reader(value, path)
                except Rejected:
                    continue
            return choices[-1](value, path)

        return read

    def _sequence(
        self, node: inspect.VarTupleType | inspect.ListType | inspect.SetType | inspect.FrozenSetType
    ) -> Reader:
        make = {
            inspect.VarTupleType: tuple,
            inspect.ListType: list,
            inspect.SetType: set,
            inspect.FrozenSetType: frozenset,
        }[type(node)]
        item = self._element(node.item_type)

        def read(value: Any, path: str) -> Any:
            if isinstance(value, Members) or not isinstance(value, list):
                raise _expected("an array", value, path)
            return make(item(part, f"{path}[{index}]") for index, part in enumerate(value))

        return read

    def _map(self, node: inspect.DictType) -> Reader:
        key = self._reader(node.key_type)
        item = self._element(node.value_type)
        number_keys = isinstance(_bare(node.key_type), inspect.IntType)

        def read(value: Any, path: str) -> Any:
            if not isinstance(value, Members):
                raise _expected("an object", value, path)
            result = {}
            for name, member in value:
                place = f"{path}[{name!r}]"
                try:
                    raw = int(name) if number_keys else name
                except ValueError:
                    raise Rejected(f"{place}: the key is not a number") from None
                result[key(raw, place)] = item(member, place)
            return result

        return read

    def _element(self, node: inspect.Type) -> Reader:
        """A reader of list elements and map values: null is the zero of the type."""
        reader = self._reader(node)
        if _nullable(node):
            return reader
        zero = _zero(node)
        return lambda value, path: zero() if value is None else reader(value, path)


def parse(data: bytes) -> Any:
    """The JSON value in these bytes, objects as Members; raises Rejected or UnicodeDecodeError."""
    text = data.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=Members, parse_float=_finite, parse_constant=_no_constant)
    except json.JSONDecodeError as err:
        raise Rejected(f"not JSON: {err.msg} at line {err.lineno}, column {err.colno}") from None
    except ValueError as err:  # an integer of more digits than Python converts
        raise Rejected(f"not JSON: {err}") from None
    return value


_FOLDED = str.maketrans({"ſ": "s"})  # the long s; Go folds it, and the Kelvin sign that lower() knows
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def fold(name: str) -> str:
    """The name without its case, as Go compares member names."""
    return name.translate(_FOLDED).lower()


def without_surrogates(value: Any) -> Any:
    """A string with each half of a surrogate pair replaced by U+FFFD; anything else as it is."""
    return _HALF_PAIR.sub("\ufffd", value) if type(value) is str else value


def plain(value: Any) -> Any:
    """A parsed value as ordinary dicts and lists; of doubled names the last wins."""
    if isinstance(value, Members):
        return {without_surrogates(name): plain(member) for name, member in value}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return without_surrogates(value)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Rejected(f"not a 64-bit float: {text[:40]}")
    return number


def _no_constant(text: str) -> Any:
    raise Rejected(f"not JSON: {text} is no JSON number")


def _string(node: inspect.StrType, parse_text: Callable[[str], str] | None) -> Reader:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, str):
            raise _expected("a string", value, path)
        text = without_surrogates(value)
        if parse_text is not None:
            try:
                return parse_text(text)
            except ValueError as err:
                raise Rejected(f"{path}: {err}") from None
        if node.pattern is not None and not re.search(node.pattern, text):
            raise Rejected(f"{path}: does not match {node.pattern}")
        if len(text) < (node.min_length or 0) or (node.max_length is not None and len(text) > node.max_length):
            raise Rejected(f"{path}: has {len(text)} characters, outside the limits")
        return text

    return read


def _integer(node: inspect.IntType) -> Reader:
    low = node.ge if node.ge is not None else node.gt + 1 if node.gt is not None else INT64[0]
    high = node.le if node.le is not None else node.lt - 1 if node.lt is not None else None
    if high is None:
        high = UINT64[-1] if low >= 0 else INT64[-1]

    def read(value: Any, path: str) -> Any:
        if type(value) is not int:
            raise _expected("an integer", value, path)
        if not low <= value <= high:
            raise Rejected(f"{path}: is {value}, expected an integer from {low} to {high}")
        return value

    return read


def _bytes(value: Any, path: str) -> Any:
    if isinstance(value, list) and not isinstance(value, Members):
        try:
            return bytes(value)
        except (TypeError, ValueError):
            raise Rejected(f"{path}: expected base64 text, or numbers from 0 to 255") from None
    if not isinstance(value, str):
        raise _expected("base64 text", value, path)
    try:
        return base64.b64decode(value.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(f"{path}: is not base64") from None


def _bool(value: Any, path: str) -> Any:
    if not isinstance(value, bool):
        raise _expected("true or false", value, path)
    return value


def _float(value: Any, path: str) -> Any:
    if type(value) not in (int, float):
        raise _expected("a number", value, path)
    return float(value)


def _enum(cls: Any) -> Reader:
    def read(value: Any, path: str) -> Any:
        if type(value) not in (int, str):
            raise _expected(f"a value of {cls.__name__}", value, path)
        try:
            return cls(value)
        except ValueError as err:
            raise Rejected(f"{path}: {err}") from None

    return read


def _foreign(node: inspect.Type) -> Reader:
    """A kind that Go does not have (a date, a dataclass): msgspec's own rules."""
    target = _FOREIGN.get(type(node)) or getattr(node, "cls", None)

    def read(value: Any, path: str) -> Any:
        if target is None:
            raise Rejected(f"{path}: {type(node).__name__} is read strictly only")
        try:
            return msgspec.convert(plain(value), target)
        except msgspec.ValidationError as err:
            raise Rejected(f"{path}: {err}") from None

    return read


_FOREIGN: dict[type, type] = {
    inspect.DateTimeType: datetime.datetime,
    inspect.DateType: datetime.date,
    inspect.TimeType: datetime.time,
    inspect.TimeDeltaType: datetime.timedelta,
    inspect.DecimalType: decimal.Decimal,
    inspect.UUIDType: uuid.UUID,
}


def _bare(node: inspect.Type) -> inspect.Type:
    return _bare(node.type) if isinstance(node, inspect.Metadata) else node


def _nullable(node: inspect.Type) -> bool:
    bare = _bare(node)
    if isinstance(bare, inspect.UnionType):
        return any(isinstance(inner, inspect.NoneType) for inner in bare.types)
    return isinstance(bare, inspect.AnyType | inspect.NoneType)


def _zero(node: inspect.Type) -> Callable[[], Any]:
    """Makes Go's zero value of a type; of a string with a form, what its annotation calls zero."""
    extra = node.extra or {} if isinstance(node, inspect.Metadata) else {}
    if "zero" in extra:
        return lambda: extra["zero"]
    match _bare(node):
        case inspect.StructType(cls=cls) | inspect.EnumType(cls=cls):
            return lambda: cls(0) if not issubclass(cls, msgspec.Struct) else cls()
        case inspect.IntType():
            return int
        case inspect.FloatType():
            return float
        case inspect.BoolType():
            return bool
        case inspect.StrType():
            return str
        case inspect.BytesType():
            return bytes
        case inspect.DictType():
            return dict
        case _:
            return tuple


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number with a fraction or exponent",
    str: "a string",
    list: "an array",
    Members: "an object",
    type(None): "null",
}


def _expected(wanted: str, value: Any, path: str) -> Rejected:
    """The error of a value of the wrong kind; it names the kind found, never the value, which may be a secret."""
    return Rejected(f"{path}: expected {wanted}, found {_KINDS[type(value)]}")
