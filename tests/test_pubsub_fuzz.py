"""The fuzzer's kept inputs (`scripts/fuzz` finds new ones), and that its check can fail at all."""

from __future__ import annotations

from collections import Counter

import pytest
from conftest import CHECKOUT
from fuzz_target import TYPES, DownloaderStatus, check

from pillar.pubsub import codec

KEPT = sorted((CHECKOUT / "tests/corpus/decode").iterdir())


def test_every_kept_input_ends_in_a_record_that_survives_or_in_bad_record() -> None:
    ends = Counter(check(path.read_bytes()) for path in KEPT)
    print(dict(ends))
    assert ends["taken"] >= 30
    assert ends["refused"] >= 30


def test_the_check_notices_a_decoder_that_reads_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    text = bytes([TYPES.index(DownloaderStatus)]) + b'{"Size":18446744073709551616}'
    assert check(text) == "refused"
    monkeypatch.setattr(codec, "_go_text", lambda data: data.replace(b'"RefCount":0', b'"RefCount":1'))
    with pytest.raises(AssertionError, match="is read back as"):
        check(bytes([TYPES.index(DownloaderStatus)]) + b"{}")
