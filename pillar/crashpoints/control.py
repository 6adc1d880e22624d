"""The files through which a test and the shim in the agents talk, in one directory:

shim.so     compiled from shim.c
agents      name and word: a process that has the word among its arguments is this agent
plan.<n>    what is to happen in epoch n
state       memory shared by all: epoch, faults fired, faults lifted (a bit each), calls lost, seconds that
                the wall clock is off, bytes of trace used, its size, trace
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from pillar.crashpoints.plan import Plan
from pillar.crashpoints.points import Call, parse_trace

T = TypeVar("T")

TRACE_BYTES: Final = 64 * 1024 * 1024  # sparse: only what is used takes memory
_HEAD: Final = struct.Struct("<IIIIqQQ")
_ALL: Final = 0xFFFFFFFF
_EPOCH, _FIRED, _LIFTED, _LOST, _CLOCK, _USED = 0, 4, 8, 12, 16, 24


class NoCompiler(Exception):
    """There is no C compiler here, or it refused."""


class Control:
    """Names calls of the processes that run with `environment()`, and arms faults at them.

    `directory` must exist, be outside of the root, and is best on tmpfs. `agents`: name -> word, see the module.
    Raises NoCompiler.
    """

    def __init__(self, directory: Path, agents: Mapping[str, str] = {}, trace_bytes: int = TRACE_BYTES) -> None:
        self.directory = directory.resolve()
        self.library = compile_shim(self.directory)
        (self.directory / "agents").write_text("".join(f"{name}\t{word}\n" for name, word in agents.items()))
        with open(self.directory / "state", "wb+") as file:
            file.truncate(_HEAD.size + trace_bytes)
            self._state = mmap.mmap(file.fileno(), 0)
        self._state[: _HEAD.size] = _HEAD.pack(0, 0, 0, 0, 0, 0, trace_bytes)
        self.epoch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the shared memory. The files stay; processes that run with them are not disturbed."""
        self._state.close()

    def environment(self, agent: str = "") -> dict[str, str]:
        """What a process needs in its environment. With `agent` it is that one, whatever its arguments are."""
        found = {"LD_PRELOAD": str(self.library), "PILLAR_CRASHPOINTS": str(self.directory)}
        return found | ({"PILLAR_CRASHPOINTS_AGENT": agent} if agent else {})

    def begin(self, plan: Plan) -> None:
        """A new epoch: counts and trace are empty, no fault has fired. Agents that run take the plan up by themselves.

        Call it while the agents rest: what they are in the middle of may still count for the epoch before.
        """
        staged = self.directory / "plan.new"
        staged.write_text(plan.text())
        staged.rename(self.directory / f"plan.{self.epoch + 1}")
        (self.directory / f"plan.{self.epoch - 1}").unlink(missing_ok=True)
        used = min(self._number(_USED, "<Q"), len(self._state) - _HEAD.size)
        for start in range(_HEAD.size, _HEAD.size + used, 1 << 20):  # a record begins with a NUL until it is whole
            end = min(start + (1 << 20), _HEAD.size + used)
            self._state[start:end] = bytes(end - start)
        struct.pack_into("<Q", self._state, _USED, 0)
        struct.pack_into("<IIIq", self._state, _FIRED, 0, 0, 0, 0)
        self.epoch += 1
        struct.pack_into("<I", self._state, _EPOCH, self.epoch)

    def fired(self) -> int:
        """How many of the plan's faults have happened."""
        return self._number(_FIRED).bit_count()

    def happened(self, faults: Sequence[T]) -> tuple[T, ...]:
        """Which of these have; they are those of the plan, or stand for them in their order."""
        bits = self._number(_FIRED)
        return tuple(fault for place, fault in enumerate(faults) if bits >> place & 1)

    def lift(self, place: int | None = None) -> None:
        """End the fault at this place of the plan, which holds for good; without a place, all and those to come."""
        bits = _ALL if place is None else self._number(_LIFTED) | 1 << place
        struct.pack_into("<I", self._state, _LIFTED, bits)

    def set_clock(self, seconds: int) -> None:
        """From now on the agents see the wall clock off by so much, until `begin`; the monotonic one goes on."""
        struct.pack_into("<q", self._state, _CLOCK, seconds)

    def traced_bytes(self) -> int:
        """How long the trace is: it grows with every call, looks included. Costs nothing."""
        return self._number(_USED, "<Q")

    def calls(self) -> list[Call]:
        """All calls of this epoch so far, in their order."""
        used = min(self._number(_USED, "<Q"), len(self._state) - _HEAD.size)
        trace = self._state[_HEAD.size : _HEAD.size + used]
        return [call for call in parse_trace(trace) if call.epoch == self.epoch]

    def lost(self) -> int:
        """Calls that the trace had no room for."""
        return self._number(_LOST)

    def _number(self, offset: int, form: str = "<I") -> int:
        number: int = struct.unpack_from(form, self._state, offset)[0]
        return number


def compile_shim(directory: Path) -> Path:
    """Build shim.c into `directory`, unless it is there; takes a third of a second. Raises NoCompiler."""
    library = directory / "shim.so"
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("crash points need a C compiler, and there is neither cc nor gcc: install gcc and libc6-dev")
    source, staged = Path(__file__).with_name("shim.c"), directory / f"shim.{os.getpid()}"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(staged), str(source), "-ldl", "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoCompiler(f"{compiler} cannot compile {source}: {done.stderr.strip()}")
    staged.rename(library)
    return library
