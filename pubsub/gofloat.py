"""Floats in Go's JSON text, which differs from Python's in where the exponent starts."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import msgspec


def floats_as_text(tree: Any) -> Any:
    """Plain JSON values with every float replaced by the text Go writes for it.

    Raises ValueError for NaN and the infinities, which JSON cannot carry.
    """
    if isinstance(tree, float):
        return msgspec.Raw(go_float(tree))
    if isinstance(tree, dict):
        return {key: floats_as_text(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [floats_as_text(item) for item in tree]
    return tree


def go_float(number: float) -> bytes:
    """The shortest decimal that reads back as this number; with an exponent below 1e-6 and from 1e21 on."""
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a JSON number")
    shortest = repr(number)
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        return format(Decimal(shortest), "f").removesuffix(".0").encode()
    return shortest.replace("e-0", "e-").encode()
