"""The one codec: records to EVE's JSON and back, byte for byte what Go's encoding/json writes and accepts.

    encode    msgspec, then what Go does to the text: HTML escapes, sorted map keys, U+FFFD for lone surrogates
    decode    first strictly with msgspec, which is fast and takes everything this codec writes; what that
              refuses is read again by Go's lenient rules (lenient.py); only what fails both is a bad record

Everything is read off the annotations of the record's class: any msgspec.Struct will do, and this module
knows no record by name. A class whose JSON is not an object of its fields but the value of one of them
(EVE has one such topic, a bare map) names that field in a class attribute `json_root`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pillar.pubsub.depth import MAX_DEPTH, too_deep
from pillar.pubsub.errors import BadRecord, EncodeFailed
from pillar.pubsub.gofloat import floats_as_text
from pillar.pubsub.shape import overflow_check, shape_of

if TYPE_CHECKING:
    from pillar.pubsub.lenient import LenientDecoder

T = TypeVar("T")

_encoder = msgspec.json.Encoder(order="deterministic")  # sorts the keys of maps, keeps the order of fields
_plain_encoder = msgspec.json.Encoder()

# Go writes these as \u00XX; msgspec has the short escapes. A pair of backslashes is consumed as one match.
_ESCAPE = re.compile(rb"\\(.)")
_GO_ESCAPES = {b"b": b"\\u0008", b"f": b"\\u000c"}


def encode(record: object) -> bytes:
    """The bytes EVE's Go encoder writes for this record; they go into `<key>.json` as they are.

    Raises EncodeFailed when the record holds what JSON cannot carry (NaN, an object of no known kind).
    Values that JSON can carry but the field's type forbids (a uint8 of 300) are not looked for here:
    that is what the type checker is for.
    """
    shape = shape_of(type(record))
    value = getattr(record, shape.root) if shape.root else record
    try:
        data = _encode_floats(value) if shape.floats else _encoder.encode(value)
    except UnicodeEncodeError:
        data = _encode_again(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as err:
        raise EncodeFailed(f"{type(record).__name__} cannot be written as JSON: {err}") from err
    return _go_text(data)


def encode_tree(value: Any, *, floats: bool = True) -> bytes:
    """The bytes Go writes for plain JSON values, members sorted by name: what EVE sends on its sockets.

    Without `floats` in the value it is a tenth of the work. Raises EncodeFailed.
    """
    try:
        return _go_text(_encode_floats(value) if floats else _encoder.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as err:
        raise EncodeFailed(f"cannot be written as JSON: {err}") from err


def _encode_again(value: Any) -> bytes:
    """The JSON of a value holding lone surrogates: each becomes U+FFFD, as Go replaces what is not UTF-8."""
    from pillar.pubsub.lenient import without_surrogates  # rare, and a start must not pay for it

    return _encode_floats(_rebuild(value, without_surrogates))


def decode(record_type: type[T], data: bytes) -> T:
    """The record of this type that Go would read from these bytes.

    Members may be missing (zero), unknown (ignored), null (zero), in any order and any case; the exact
    name wins over another case, the last of several wins. The root must be an object: null, which Go would
    read as a record of zeros, is refused, because a file holding `null` is a mistake of its writer.

    Raises BadRecord, naming the place as `$.Path` and the reason but never the value of a secret, when the bytes
    are no JSON, go deeper than MAX_DEPTH, or hold a value that the field cannot take.
    """
    return decoder(record_type)(data)


def decoder(record_type: type[T]) -> Callable[[bytes], T]:
    """`decode` for one type, for whoever reads many records of it."""
    codec = _codecs.get(record_type)
    if codec is None:
        codec = _codecs[record_type] = _Codec(record_type)
    return codec.decode


class _Codec:
    """How one type is decoded; made once per type."""

    def __init__(self, record_type: type) -> None:
        self.record_type = record_type
        self.shape = shape_of(record_type)
        self.bounded = self.shape.bounded
        self.strict = msgspec.json.Decoder(self.shape.target)
        self.overflows = overflow_check(self.shape.target)
        self.lenient: LenientDecoder | None = None  # made when first needed: most types never do

    def decode(self, data: bytes) -> Any:
        """See the function of that name. What this codec itself wrote passes through the first few lines."""
        if self.bounded:
            try:
                value = self.strict.decode(data)
                if self.overflows is None or not self.overflows(value):
                    return self.record_type(**{self.shape.root: value}) if self.shape.root else value
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MemoryError):
                pass  # said better below
        name = self.record_type.__name__
        if too_deep(data):
            raise BadRecord(f"{name}: nested deeper than {MAX_DEPTH} levels")
        try:
            value = self._decode_with_care(data)
        except UnicodeDecodeError as err:
            raise BadRecord(f"{name}: not UTF-8 at byte {err.start}: {err.reason}") from None
        except RecursionError:
            raise BadRecord(f"{name}: nested too deeply to be read") from None
        except MemoryError:
            raise BadRecord(f"{name}: too large to be read ({len(data)} bytes)") from None
        return self.record_type(**{self.shape.root: value}) if self.shape.root else value

    def _decode_with_care(self, data: bytes) -> Any:
        """Raises BadRecord, or UnicodeDecodeError."""
        if not self.bounded:
            try:
                value = self.strict.decode(data)
                if self._sure(value, data):
                    return value
            except (msgspec.MsgspecError, UnicodeDecodeError):
                pass  # said better below
        return self._decode_leniently(data)

    def _decode_leniently(self, data: bytes) -> Any:
        """Raises BadRecord, or UnicodeDecodeError."""
        from pillar.pubsub.lenient import LenientDecoder, Rejected  # rare, and a start must not pay for it

        if self.lenient is None:
            self.lenient = LenientDecoder(self.shape.target)
        try:
            return self.lenient.decode(data)
        except Rejected as err:
            raise BadRecord(f"{self.record_type.__name__}: {err}") from None

    def _sure(self, value: Any, data: bytes) -> bool:
        """Whether the strict reading is the one Go has.

        It may not be when a member of another case was passed over as unknown (only in types that do not
        forbid unknown members), or when a 64-bit field got more than 64 bits.
        """
        if self.shape.ignores_unknown and encode(value) != data:
            return False
        return self.overflows is None or not self.overflows(value)


_codecs: dict[type, _Codec] = {}


def _go_text(data: bytes) -> bytes:
    """What Go does to its JSON text: no character that would be special in HTML or JavaScript.

    Searching one byte is five times as fast as searching two, and naming it by its number five times as fast again:
    together these searches cost a quarter of an encode, not a whole one.
    """
    if 0x5C in data and (b"\\b" in data or b"\\f" in data):
        data = _ESCAPE.sub(lambda found: _GO_ESCAPES.get(found[1], found[0]), data)
    if 0x3C in data:
        data = data.replace(b"<", b"\\u003c")
    if 0x3E in data:
        data = data.replace(b">", b"\\u003e")
    if 0x26 in data:
        data = data.replace(b"&", b"\\u0026")
    if 0xE2 in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def _encode_floats(value: Any) -> bytes:
    """The JSON of a value that may hold floats: as plain values, keys sorted, each float in Go's text."""
    return _plain_encoder.encode(floats_as_text(msgspec.to_builtins(value, order="deterministic")))


def _rebuild(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same value made anew down to its leaves, which `change` may replace."""
    if isinstance(value, msgspec.Struct):
        fields = {name: _rebuild(getattr(value, name), change) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **fields)
    if isinstance(value, dict):
        return {_rebuild(key, change): _rebuild(item, change) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(_rebuild(item, change) for item in value)
    if isinstance(value, (list, set, frozenset)):
        return type(value)(_rebuild(item, change) for item in value)
    if isinstance(value, bytearray):
        return bytearray(value)
    return change(value)
