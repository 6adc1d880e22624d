"""What the codec must know about a record's class, read off its annotations once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect


@dataclass
class Shape:
    """Facts about one class and everything its records can hold."""

    root: str = ""  # the field whose value is the whole JSON; "" for an ordinary record
    target: Any = None  # the annotation of what the JSON holds: the class, or that field's
    ignores_unknown: bool = False  # some struct in it passes over unknown members
    floats: bool = False  # it may hold a float
    recursive: bool = False  # some struct in it holds itself, or seems to

    @property
    def bounded(self) -> bool:
        """Strict reading can go no deeper than the type itself, whatever the text."""
        return not (self.ignores_unknown or self.recursive)

    def look(self, node: inspect.Type, seen: set[int]) -> None:
        """Take in one type and those it is made of."""
        if id(node) in seen:
            self.recursive |= isinstance(node, inspect.StructType)
            return
        seen.add(id(node))
        match node:
            case inspect.StructType():
                self.ignores_unknown |= not node.forbid_unknown_fields
                for field in node.fields:
                    self.look(field.type, seen)
            case inspect.UnionType():
                for inner in node.types:
                    self.look(inner, seen)
            case inspect.Metadata():
                self.look(node.type, seen)
            case inspect.VarTupleType() | inspect.FrozenSetType():
                self.look(node.item_type, seen)
            case inspect.TupleType():
                for inner in node.item_types:
                    self.look(inner, seen)
            case inspect.DictType():
                self.look(node.key_type, seen)
                self.look(node.value_type, seen)
            case inspect.ListType() | inspect.SetType():
                self.look(node.item_type, seen)
            case inspect.FloatType():
                self.floats = True
            case inspect.IntType() | inspect.StrType() | inspect.BoolType() | inspect.BytesType() | inspect.NoneType():
                pass
            case inspect.EnumType() | inspect.LiteralType():
                pass
            case _:  # Any, Raw, dates, foreign classes: assume everything of them
                self.ignores_unknown = self.floats = True


_shapes: dict[type, Shape] = {}


def shape_of(record_type: type) -> Shape:
    """The shape of a class; of anything that is no msgspec.Struct, the most careful one."""
    shape = _shapes.get(record_type)
    if shape is None:
        shape = _shapes[record_type] = _read(record_type)
    return shape


def _read(record_type: type) -> Shape:
    if not issubclass(record_type, msgspec.Struct):
        return Shape(target=record_type, ignores_unknown=True, floats=True)
    shape = Shape(root=getattr(record_type, "json_root", ""), target=record_type)
    shape.look(inspect.type_info(record_type), set())
    if shape.root:
        shape.target = get_type_hints(record_type, include_extras=True)[shape.root]
    return shape


Check = Callable[[Any], bool]

UINT64_MAX = 2**64 - 1


def overflow_check(target: Any) -> Check | None:
    """Tells whether a decoded value holds an integer beyond 64 bits, which msgspec lets pass in an unsigned field.

    None when the type has no such field. A bound of 2**64 - 1 is the one thing msgspec cannot check itself; looking
    at just those fields costs less than searching the text for long numbers.
    """
    return _overflow(inspect.type_info(target), {})


def _overflow(node: inspect.Type, structs: dict[int, Check | None]) -> Check | None:
    match node:
        case inspect.Metadata():
            return _overflow(node.type, structs)
        case inspect.IntType(ge=low, le=None) if low is not None:
            return UINT64_MAX.__lt__
        case inspect.StructType():
            if id(node) not in structs:
                structs[id(node)] = None  # a struct inside itself: its own fields are enough
                structs[id(node)] = _struct_overflow(node, structs)
            return structs[id(node)]
        case inspect.UnionType():
            checks = [check for inner in node.types if (check := _overflow(inner, structs))]
            if not checks:
                return None
            check = checks[0]
            return lambda value: value is not None and check(value)
        case inspect.VarTupleType() | inspect.ListType():
            return _any(_overflow(node.item_type, structs), iter)
        case inspect.DictType():
            return _any(_overflow(node.value_type, structs), dict.values)
        case _:
            return None


def _any(check: Check | None, parts: Callable[[Any], Iterable[Any]]) -> Check | None:
    return None if check is None else lambda value: any(map(check, parts(value)))


def _struct_overflow(node: inspect.StructType, structs: dict[int, Check | None]) -> Check | None:
    """Numbers are compared in one go; a look-up per field would cost as much as decoding it."""
    numbers = []
    parts = []
    for field in node.fields:
        check = _overflow(field.type, structs)
        if check is not None and isinstance(_bare(field.type), inspect.IntType):
            numbers.append(field.name)
        elif check is not None:
            parts.append((attrgetter(field.name), check))
    if not numbers and not parts:
        return None
    largest = attrgetter(*numbers, numbers[0]) if numbers else None  # twice the first: always a tuple

    if largest is not None and not parts:  # nearly every record: nothing but plain numbers
        return lambda value: max(largest(value)) > UINT64_MAX

    def overflows(value: Any) -> bool:
        if largest is not None and max(largest(value)) > UINT64_MAX:
            return True
        return any(check(part(value)) for part, check in parts)

    return overflows


def _bare(node: inspect.Type) -> inspect.Type:
    return _bare(node.type) if isinstance(node, inspect.Metadata) else node
