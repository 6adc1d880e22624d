"""Write the fuzzer's first inputs: EVE's golden vectors under each type, and a few texts of each kind of trouble."""

import hashlib
import sys
from pathlib import Path

from conftest import CHECKOUT
from fuzz_target import TYPES

TROUBLE = (
    b"", b"{}", b"null", b"[]", b'{"a":1}', b'{"UUID":null}', b'{"Size":1e3}', b'{"Size":18446744073709551616}',
    b'{"children":[{"name":"\\ud800"}]}', b'{"counts":{"1":2},"data":"AA==","number":-0.0,"flags":[true]}',
    b'{"anything":[1.5,{"b":null}]}', b'\xef\xbb\xbf{}', b'{"safename":"x","SAFENAME":"y"}',
)  # fmt: skip
LARGEST = 8192


def main() -> None:
    """The folder to write to is the only argument."""
    place = Path(sys.argv[1])
    vectors = [path.read_bytes() for path in sorted((CHECKOUT / "tests/golden/2019").rglob("*.json"))]
    for number in range(len(TYPES)):
        for text in (*TROUBLE, *vectors):
            if len(text) < LARGEST:
                data = bytes([number]) + text
                (place / hashlib.sha1(data).hexdigest()).write_bytes(data)


if __name__ == "__main__":
    main()
