"""What the codec must know about a record's class, read off its annotations once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect


@dataclass
class Shape:
    """Facts about one class and everything its records can hold."""

    root: str = ""  # the field whose value is the whole JSON; "" for an ordinary record
    target: Any = None  # the annotation of what the JSON holds: the class, or that field's
    immutable: bool = True  # nothing in it can be changed in place
    ignores_unknown: bool = False  # some struct in it passes over unknown members
    uint64: bool = False  # some integer in it is unsigned without an upper bound
    floats: bool = False  # it may hold a float

    def look(self, node: inspect.Type, seen: set[int]) -> None:
        """Take in one type and those it is made of."""
        if id(node) in seen:
            return
        seen.add(id(node))
        match node:
            case inspect.StructType(cls=cls):
                self.immutable &= cls.__struct_config__.frozen
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
                self.immutable = False
                self.look(node.key_type, seen)
                self.look(node.value_type, seen)
            case inspect.ListType() | inspect.SetType():
                self.immutable = False
                self.look(node.item_type, seen)
            case inspect.IntType():
                self.uint64 |= node.ge is not None and node.le is None
            case inspect.FloatType():
                self.floats = True
            case inspect.StrType() | inspect.BoolType() | inspect.BytesType() | inspect.NoneType():
                pass
            case inspect.EnumType() | inspect.LiteralType():
                pass
            case _:  # Any, Raw, dates, foreign classes: assume everything of them
                self.immutable = False
                self.ignores_unknown = self.floats = True


@cache
def shape_of(record_type: type) -> Shape:
    """The shape of a class; of anything that is no msgspec.Struct, the most careful one."""
    if not issubclass(record_type, msgspec.Struct):
        return Shape(target=record_type, immutable=False, ignores_unknown=True, uint64=True, floats=True)
    shape = Shape(root=getattr(record_type, "json_root", ""), target=record_type)
    shape.look(inspect.type_info(record_type), set())
    if shape.root:
        shape.target = get_type_hints(record_type, include_extras=True)[shape.root]
    return shape
