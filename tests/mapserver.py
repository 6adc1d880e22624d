"""A LISP map server for tests, from RFC 9301 and not from the project's own code: it checks and confirms."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import struct
import threading
from typing import Any

PORT = 4342


class MapServer:
    """Listens inside a namespace. `registered`: (IID, EID) -> locators. A wrong key is refused in silence."""

    def __init__(self, space: Any, address: str, key: str, *, answer_with: str = "") -> None:
        self.registered: dict[tuple[int, str], list[str]] = {}
        self.refused = 0
        self._closing = threading.Event()
        self._key, self._answer_key = key.encode(), (answer_with or key).encode()

        def listen() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((address, PORT))
            return made

        self._socket: socket.socket = space.call(listen)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        self._socket.settimeout(0.1)
        while not self._closing.is_set():
            try:
                data, sender = self._socket.recvfrom(65536)
            except TimeoutError:
                continue
            self._register(data, sender)

    def _register(self, data: bytes, sender: Any) -> None:
        kind, count = data[0] >> 4, data[3]
        key_id, length = struct.unpack(">HH", data[12:16])
        signature, records = data[16 : 16 + length], data[16 + length :]
        unsigned = data[:16] + bytes(length) + records
        right = hmac.new(self._key, unsigned, hashlib.sha256).digest()
        if (kind, count, key_id) != (3, 1, 2) or not hmac.compare_digest(right, signature):
            self.refused += 1
            return
        locator_count = records[4]
        place = 10
        (family,) = struct.unpack(">H", records[place : place + 2])
        iid = 0
        if family == 16387:  # LCAF, type 2: an instance id before the address
            assert records[place + 4] == 2
            iid, family = struct.unpack(">IH", records[place + 8 : place + 14])
            place += 12
        size = {1: 4, 2: 16}[family]
        eid = str(ipaddress.ip_address(records[place + 2 : place + 2 + size]))
        place += 2 + size
        locators = []
        for _ in range(locator_count):
            (family,) = struct.unpack(">H", records[place + 6 : place + 8])
            size = {1: 4, 2: 16}[family]
            locators.append(str(ipaddress.ip_address(records[place + 8 : place + 8 + size])))
            place += 8 + size
        assert place == len(records)
        self.registered[iid, eid] = locators
        head = bytes([4 << 4, 0, 0, 1]) + data[4:16]
        answer = hmac.new(self._answer_key, head + bytes(length) + records, hashlib.sha256).digest()
        self._socket.sendto(head + answer + records, sender)
