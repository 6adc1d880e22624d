"""Do the tests bite? Take each line that a promise hangs on out of the code, one at a time, and run its tests.

    scripts/mutate                    all of them; prints the score and the survivors
    scripts/mutate --list             what would be taken out
    scripts/mutate --only pubsub/     those of one file or directory

Found by pattern in the syntax tree, so new code is in it at once: calls that make something durable (fsync), visible
(rename, link) or exclusive (flock), that clean up what a kill left (sweep), that look at everything again (re-list),
and that write down what was done (ledger). The name of the call is replaced by a function that does nothing; its
arguments are still evaluated. A mutant is killed when a test fails or does not end in a copy of the tree that has it.

exit status: 0 all were killed   1 some survived   2 the tests fail without any mutation, or wrong usage
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

CHECKOUT: Final = Path(__file__).resolve().parent.parent
NOTHING: Final = "(lambda *_, **__: None)"
MOST_S: Final = 400.0  # for the tests of one file

SOURCES: Final = (
    "pubsub/*.py", "pillar/transports/partfile.py", "pillar/transports/pieces.py", "pillar/durable.py",
    "pillar/pidfile.py", "pillar/hypervisors/process.py", "pillar/ociimage.py", "cmd/baseosmgr/install.py",
    "cmd/domainmgr/*.py", "cmd/downloader/*.py", "cmd/identitymanager/*.py", "cmd/verifier/*.py",
    "cmd/zedagent/source.py", "cmd/zedrouter/ledger.py", "cmd/zedmanager/*.py",
)  # fmt: skip

# What is taken out, by the end of the call's name; the first that fits gives the kind.
PATTERNS: Final = (
    ("fsync", re.compile(r"(^|\.)(fsync|fdatasync|_?sync|_?sync_directory)$")),
    ("rename", re.compile(r"^os\.(rename|replace|link)$|(^|\.)(staged|path|arrived)\.(rename|replace)$")),
    ("rename", re.compile(r"^replace_file$")),
    ("flock", re.compile(r"(^|\.)(flock|lockf)$")),
    ("sweep", re.compile(r"(^|\.)_?sweep\w*$|\._tidy$|^staged\.unlink$")),
    ("re-list", re.compile(r"(^|\.)_?(re_?list\w*|list_again|mark_all|mark_everything)$")),
    ("ledger", re.compile(r"(^|[._])(ledger|journal|counters|statuses|store)\.(write|publish|finish|save)$")),
    ("ledger", re.compile(r"(^|\.)(_write_record|store_purge_counter|_add|_write_anew|_table\.publish)$")),
)

# Which tests cover a source, quick ones first.
COVERED_BY: Final = (
    ("pubsub/*socket*", ("test_pubsub_socket",)),
    ("pubsub/memorydriver.py", ("test_pubsub_socket", "test_pubsub_machine")),
    ("pubsub/ledger.py", ("test_pubsub_durable", "test_durability")),
    ("pubsub/*", ("test_pubsub_publish", "test_pubsub_subscribe", "test_pubsub_durable", "test_durability",
                  "test_pubsub_limits", "test_pubsub_hostile", "test_pubsub_powercut", "test_pubsub_machine")),
    ("pillar/transports/*", ("test_leftovers", "test_transports_engine", "test_durability", "test_transports_kills",
                             "test_transports_http", "test_downloader_agent")),
    ("pillar/durable.py", ("test_durability", "test_leftovers", "test_identitymanager", "test_deploy")),
    ("pillar/pidfile.py", ("test_runtime", "test_supervisor")),
    ("pillar/hypervisors/*", ("test_durability", "test_leftovers", "test_hypervisor_process", "test_domainmgr_agent")),
    ("pillar/ociimage.py", ("test_durability", "test_transports_oci")),
    ("cmd/baseosmgr/*", ("test_leftovers", "test_baseosmgr", "test_durability")),
    ("cmd/domainmgr/*", ("test_leftovers", "test_domainmgr_disks", "test_durability", "test_domainmgr_agent")),
    ("cmd/downloader/*", ("test_downloader_decide", "test_downloader_agent", "test_downloader_stores",
                          "test_durability")),
    ("cmd/identitymanager/*", ("test_identitymanager", "test_durability")),
    ("cmd/verifier/*", ("test_leftovers", "test_verifier_agent", "test_durability", "test_verifier_*")),
    ("cmd/zedagent/*", ("test_leftovers", "test_zedagent_agent", "test_durability")),
    ("cmd/zedrouter/*", ("test_zedrouter_agent",)),
    ("cmd/zedmanager/*", ("test_zedmanager_decide", "test_zedmanager_agent", "test_end_to_end_kills")),
)  # fmt: skip


class Mutant(NamedTuple):
    """One call that does nothing."""

    source: str  # path below the checkout
    line: int
    begin: int  # of the call's name in that line, in bytes
    end: int
    kind: str
    text: str  # the call's name

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.kind} {self.text}"

    @property
    def key(self) -> str:
        """For the memory of what killed it: lines move."""
        return f"{self.source} {self.kind} {self.text}"


def find_mutants(source: str, text: str) -> list[Mutant]:
    """Every call in a source that is to be taken out, in its order. Pure."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        handed = [*node.args, *(keyword.value for keyword in node.keywords)]  # pool.submit(os.fsync, fd)
        for name in (node.func, *(value for value in handed if isinstance(value, ast.Attribute))):
            called = ast.unparse(name)
            kind = next((kind for kind, pattern in PATTERNS if pattern.search(called)), "")
            if kind and name.lineno == name.end_lineno and name.end_col_offset is not None:
                found.append(Mutant(source, name.lineno, name.col_offset, name.end_col_offset, kind, called))
    return sorted(set(found))


def mutate(text: str, mutant: Mutant) -> str:
    """The source with that call doing nothing. Pure."""
    lines = text.encode().split(b"\n")
    line = lines[mutant.line - 1]
    lines[mutant.line - 1] = line[: mutant.begin] + NOTHING.encode() + line[mutant.end :]
    return b"\n".join(lines).decode()


def covering(source: str, kind: str, tests: Sequence[str]) -> list[str]:
    """The test modules that cover such a line, in the order in which they are to be tried. Pure."""
    for pattern, names in COVERED_BY:
        if fnmatch.fnmatch(source, pattern):
            if kind == "fsync" and "test_durability" in names:
                names = ("test_durability", *names)
            return list(dict.fromkeys(test for name in names for test in tests if fnmatch.fnmatch(test, f"{name}.py")))
    return list(tests)


def all_mutants(checkout: Path) -> Iterator[Mutant]:
    """Every mutant of the tree."""
    for pattern in SOURCES:
        for path in sorted(checkout.glob(pattern)):
            yield from find_mutants(path.relative_to(checkout).as_posix(), path.read_text())


class Copy:
    """A copy of the checkout in which tests run, with one call taken out at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", ".*cache", ".hypothesis")
        shutil.copytree(CHECKOUT, directory, symlinks=True, ignore=skipped)

    def run(self, test: str) -> str:
        """What failed in one test module, or test; "" when all passed."""
        environment = {**os.environ, "PYTHONPATH": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]
        command += [f"tests/{name}" for name in test.split(" ")]
        try:
            done = subprocess.run(
                command,
                cwd=self.directory,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=MOST_S,
            )
        except subprocess.TimeoutExpired:
            return f"{test} (does not end)"
        if done.returncode in (0, 5):
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
        return failed[1] if failed else test

    def try_out(self, mutant: Mutant, tests: Sequence[str], first: str) -> str:
        """The test that kills the mutant, "" when it survives."""
        path = self.directory / mutant.source
        text = path.read_text()
        path.write_text(mutate(text, mutant))
        try:
            for test in dict.fromkeys([*([first] if first else []), *tests]):
                if killer := self.run(test):
                    return killer
            return ""
        finally:
            path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only show what would be taken out")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose description holds this")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--memory", type=Path, default=CHECKOUT / ".venv/mutants.json", help="which test killed what")
    parser.add_argument("--quick", action="store_true", help="run only the test that killed the mutant last time")
    parser.add_argument("--json", action="store_true", help="print one object at the end")
    options = parser.parse_args()
    mutants = [mutant for mutant in all_mutants(CHECKOUT) if options.only in str(mutant)]
    if options.list:
        print("\n".join(map(str, mutants)))
        return 0
    return _run(mutants, options)


def _run(mutants: Sequence[Mutant], options: argparse.Namespace) -> int:
    tests = sorted(path.name for path in (CHECKOUT / "tests").glob("test_*.py"))
    memory: dict[str, str] = json.loads(options.memory.read_text()) if options.memory.exists() else {}
    killed: dict[Mutant, str] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pillar-mutate-") as place, ThreadPoolExecutor(options.jobs) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(options.jobs):
            copies.put(Copy(Path(place) / str(number)))

        def work(mutant: Mutant) -> tuple[Mutant, str]:
            copy = copies.get()
            try:
                others = [] if options.quick else covering(mutant.source, mutant.kind, tests)
                return mutant, copy.try_out(mutant, others, memory.get(mutant.key, ""))
            finally:
                copies.put(copy)

        for mutant, killer in pool.map(work, mutants):
            killed[mutant] = killer
            print(f"{'killed  ' if killer else 'SURVIVED'}  {mutant}  {killer}", file=sys.stderr, flush=True)
            if killer and not options.quick:
                memory[mutant.key] = killer.removesuffix(" (does not end)")
                options.memory.write_text(json.dumps(memory, indent=1))
    survivors = [mutant for mutant in mutants if not killed[mutant]]
    score = 100.0 * (len(mutants) - len(survivors)) / max(1, len(mutants))
    if options.json:
        print(json.dumps({"mutants": len(mutants), "score": score, "survivors": list(map(str, survivors))}))
    else:
        took_s = time.monotonic() - begin
        print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed ({score:.1f} %), {took_s:.0f} s")
        print("".join(f"survived: {mutant}\n" for mutant in survivors), end="")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
