"""Processes that fetch, hundreds of them: a warm parent forks each, so that a kill -9 costs milliseconds.

    forker = Forker(); pid = forker.start(source, target, streams); os.kill(pid, SIGKILL); forker.ended()

Run as a program it is the parent: one JSON request per line in, a pid, then how it ended, out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pillar.transports import Limits, Route, Source, open_transport
from pillar.transports.fetch import Fetch
from pillar.transports.throttle import Throttle


class Forker:
    """The warm parent, and at most one child of it at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, source: Source, target: Path, streams: int = 1, bytes_per_s: int = 0) -> int:
        """Fork a process that fetches, with `bytes_per_s` no faster than that; returns its pid."""
        assert self._process.stdin is not None
        request = {"source": dataclasses.asdict(source), "target": str(target), "streams": streams}
        request["bytes_per_s"] = bytes_per_s
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._read())

    def ended(self) -> tuple[int, dict[str, Any]]:
        """Wait for the child; its status (negative: the signal) and what it fetched, or {}."""
        answer = json.loads(self._read())
        return answer["status"], answer["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the forker ended; see its standard error"
        return line


def serve() -> None:
    warm = Source(
        "DsS3", "http://127.0.0.1:1/b/k", dpath="b", name="k", fqdn="http://127.0.0.1:1", api_key="a", password="b"
    )
    open_transport(warm, Route(), Limits()).close()  # everything is imported before the first fork
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            status = 1
            try:
                os.write(writing, json.dumps(fetch(request)).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        print(pid, flush=True)
        with os.fdopen(reading, "rb") as pipe:
            result = pipe.read()
        _, status = os.waitpid(pid, 0)
        ended = {"status": os.waitstatus_to_exitcode(status), "result": json.loads(result or b"{}")}
        print(json.dumps(ended), flush=True)


def fetch(request: dict[str, Any]) -> dict[str, Any]:
    source = Source(**request["source"])
    limits = Limits(connect_s=10, stall_s=60)
    whole = Fetch(
        lambda: open_transport(source, Route(), limits),
        source,
        Path(request["target"]),
        streams=request["streams"],
        throttle=Throttle(request["bytes_per_s"]),
    )
    return dataclasses.asdict(whole.run())


if __name__ == "__main__":
    serve()
