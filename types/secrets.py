"""Which members of a record are secrets, read off the annotations (Secret and SecretBytes in scalars.py).

For commands that show records, and for whoever is tempted to log one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

MASK = "********"

_type_info = cache(inspect.type_info)  # 5 ms for a large record


def secret_paths(record_type: type[msgspec.Struct]) -> tuple[str, ...]:
    """The paths of a type's secrets, such as `FixedResources.VncPasswd` or `OverlayNetworkList[].PemPrivateKey`.

    `[]` stands for any element of a list or value of a map; sorted.
    """
    return tuple(sorted(_paths(inspect.type_info(record_type), "", ())))


def mask(record_type: type[msgspec.Struct], tree: Any) -> Any:
    """A record's JSON, as json.loads gives it, with every secret that is not empty replaced by MASK.

    The tree need not be a good record: members of another case are masked as well, because agents read them as the
    secret, and what does not fit the type stays as it is. The tree itself is not changed.
    """
    node = _type_info(record_type)
    root = getattr(record_type, "json_root", "")
    if root and isinstance(node, inspect.StructType):
        node = next(field.type for field in node.fields if field.name == root)
    return _mask(node, tree)


def _mask(node: inspect.Type, tree: Any) -> Any:
    match node:
        case inspect.Metadata():
            if (node.extra or {}).get("secret"):
                return tree if tree in (None, "", [], {}) else MASK
            return _mask(node.type, tree)
        case inspect.StructType() if isinstance(tree, dict):
            fields = {field.encode_name.casefold(): field.type for field in node.fields}
            return {
                name: _mask(fields[name.casefold()], member) if name.casefold() in fields else member
                for name, member in tree.items()
            }
        case inspect.DictType() if isinstance(tree, dict):
            return {name: _mask(node.value_type, member) for name, member in tree.items()}
        case inspect.VarTupleType() | inspect.ListType() if isinstance(tree, list):
            return [_mask(node.item_type, item) for item in tree]
        case inspect.UnionType():
            for inner in node.types:
                tree = _mask(inner, tree)
            return tree
        case _:
            return tree


def _paths(node: inspect.Type, path: str, inside: tuple[int, ...]) -> set[str]:
    match node:
        case inspect.Metadata():
            if (node.extra or {}).get("secret"):
                return {path}
            return _paths(node.type, path, inside)
        case inspect.StructType() if id(node) not in inside:
            below = [
                _paths(field.type, f"{path}.{field.encode_name}" if path else field.encode_name, (*inside, id(node)))
                for field in node.fields
            ]
            return set().union(*below)
        case inspect.DictType():
            return _paths(node.value_type, f"{path}[]", inside)
        case inspect.VarTupleType() | inspect.ListType():
            return _paths(node.item_type, f"{path}[]", inside)
        case inspect.UnionType():
            return set().union(*(_paths(inner, path, inside) for inner in node.types))
        case _:
            return set()
