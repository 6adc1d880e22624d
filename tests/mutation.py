"""Do the tests bite? Take each line that a promise hangs on out of the code, one at a time, and run its tests.

    scripts/mutate                    all of them; prints the score and the survivors
    scripts/mutate --list             what would be taken out
    scripts/mutate --only pubsub/ fsync    those of some files or directories, or kinds

Found by pattern in the syntax tree, so new code is in it at once: calls that make something durable (fsync), visible
(rename, link) or exclusive (flock), that clean up what a kill left (sweep), that look at everything again (re-list),
and that write down what was done (ledger). The name of the call is replaced by a function that does nothing; its
arguments are still evaluated. A mutant is killed when a test fails in a copy of the tree that has it, and passes there
without it; what made it fail is printed. A test that its time limit ends has shown nothing: the next one is tried.

exit status: 0 all were killed   1 some survived   2 wrong usage
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
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

CHECKOUT: Final = Path(__file__).resolve().parent.parent
NOTHING: Final = "(lambda *_, **__: None)"
MOST_S: Final = 400.0  # for the tests of one file

SOURCES: Final = ("pubsub/*.py", "pillar/*.py", "pillar/*/*.py", "cmd/*/*.py")
# No promise hangs on these: they measure, test and show.
LEFT_OUT: Final = ("pillar/pubsub/*", "pillar/types/*", "pillar/cmd/*", "pillar/bench/*", "pillar/crash*/*",
                   "pillar/killmatrix/*", "pillar/demo/*", "pillar/invariants/*")  # fmt: skip

# What is taken out, by the end of the call's name; the first that fits gives the kind.
PATTERNS: Final = (
    ("fsync", re.compile(r"(^|\.)(fsync|fdatasync|_?sync|_?sync_directory)$")),
    ("rename", re.compile(r"^os\.(rename|replace|link)$|(^|\.)(staged|path|arrived)\.(rename|replace)$")),
    ("rename", re.compile(r"^replace_file$")),
    ("flock", re.compile(r"(^|\.)(flock|lockf)$")),
    ("sweep", re.compile(r"(^|\.)_?sweep\w*$|\._?tidy$|^(staged|left)\.unlink$|\.(record|spans)_path\.unlink$")),
    (
        "re-list",
        re.compile(r"(^|\.)_?(re_?list\w*|list_again|mark_(all|everything|scope|waiting\w*|affected|users_of))$"),
    ),
    (
        "ledger",
        re.compile(r"(^|[._])(ledger|journal|counters|statuses(\[\w+\])?|store|list)\.(write|publish|finish|save)$"),
    ),
    ("ledger", re.compile(r"(^|\.)(_write_record|store_purge_counter|_add|_write_anew|_table\.(un)?publish)$")),
)
# What the name alone does not tell: these are looked for in the whole call.
WHOLE_CALLS: Final = (
    ("sweep", re.compile(r"^os\.unlink\(.*\b(_RECORD|_BACKUP|ours|dir_fd=self\._staging)\b")),
    ("ledger", re.compile(r"^_put\(tables\.retries\b")),
    ("sweep", re.compile(r"^shutil\.rmtree\((staged|old)\b")),
)

# Which tests cover a source, quick ones first.
COVERED_BY: Final = (
    ("pubsub/*socket*", ("test_pubsub_socket", "test_pubsub_drivers")),
    ("pubsub/memorydriver.py", ("test_pubsub_drivers", "test_pubsub_socket")),
    ("pubsub/ledger.py", ("test_pubsub_durable", "test_durability")),
    ("pubsub/*", ("test_pubsub_publish", "test_pubsub_subscribe", "test_pubsub_durable", "test_durability",
                  "test_pubsub_limits", "test_pubsub_hostile", "test_pubsub_powercut", "test_pubsub_machine",
                  "test_pubsub_faults")),
    ("pillar/transports/*", ("test_leftovers", "test_transports_engine", "test_durability", "test_transports_kills",
                             "test_transports_http", "test_downloader_agent", "test_download_command")),
    ("pillar/durable.py", ("test_durability", "test_leftovers", "test_identitymanager", "test_deploy")),
    ("pillar/pidfile.py", ("test_runtime", "test_supervisor")),
    ("pillar/log.py", ("test_runtime",)),
    ("pillar/quarantine.py", ("test_verifier_seal", "test_downloader_agent", "test_verifier_agent")),
    ("pillar/ociimage.py", ("test_durability", "test_leftovers", "test_transports_oci")),
    ("pillar/command/*", ("test_console_command",)),
    ("pillar/controller/*", ("test_durability", "test_deploy")),
    ("pillar/supervisor/*", ("test_supervisor",)),
    ("pillar/netplan/*", ("test_netplan", "test_netlab", "test_zedrouter_kernel", "test_zedrouter_kernel_steps")),
    ("pillar/hypervisors/process.py", ("test_durability", "test_leftovers", "test_hypervisor_process",
                                       "test_domainmgr_agent")),
    ("pillar/hypervisors/_launched.py", ("test_hypervisor_process", "test_hypervisor_qemu", "test_domainmgr_agent")),
    ("pillar/hypervisors/xen.py", ("test_durability", "test_leftovers", "test_hypervisor_xen")),
    ("pillar/hypervisors/_unpack.py", ("test_hypervisor_unpack",)),
    ("pillar/hypervisors/_bundle.py", ("test_leftovers", "test_durability", "test_hypervisor_runc",
                                       "test_hypervisor_unpack")),
    ("pillar/hypervisors/*qemu*", ("test_hypervisor_qemu", "test_domainmgr_sweep", "test_domainmgr_vm")),
    ("pillar/hypervisors/_kvm.py", ("test_hypervisor_qemu", "test_domainmgr_vm")),
    ("pillar/hypervisors/*", ("test_leftovers", "test_durability", "test_hypervisor_runc", "test_hypervisor_runc_net")),
    ("cmd/baseosmgr/*", ("test_leftovers", "test_baseosmgr", "test_durability")),
    ("cmd/domainmgr/agent.py", ("test_leftovers", "test_second_looks", "test_agents_after_errors",
                                "test_domainmgr_sweep", "test_domainmgr_agent")),
    ("cmd/domainmgr/passthrough.py", ("test_leftovers", "test_domainmgr_passthrough")),
    ("cmd/domainmgr/*", ("test_leftovers", "test_domainmgr_disks", "test_durability", "test_domainmgr_agent")),
    ("cmd/downloader/agent.py", ("test_second_looks", "test_agents_after_errors", "test_downloader_agent",
                                 "test_transports_oci")),
    ("cmd/downloader/*", ("test_durability", "test_downloader_agent", "test_downloader_stores")),
    ("cmd/identitymanager/*", ("test_identitymanager", "test_durability")),
    ("cmd/nim/*", ("test_nim_decide", "test_nim", "test_nim_ports", "test_leftovers")),
    ("cmd/verifier/*", ("test_leftovers", "test_second_looks", "test_verifier_agent", "test_durability",
                        "test_agents_after_errors", "test_verifier_*", "test_transports_oci")),
    ("cmd/zedagent/*", ("test_leftovers", "test_zedagent_agent", "test_durability")),
    ("cmd/zedrouter/*", ("test_zedrouter_agent", "test_zedrouter_apps", "test_zedrouter_instances",
                         "test_zedrouter_numbers", "test_zedrouter_addresses", "test_zedrouter_rules",
                         "test_zedrouter_kernel")),
    ("cmd/zedmanager/*", ("test_second_looks", "test_zedmanager_agent*", "test_zedmanager_*", "test_end_to_end_kills")),
)  # fmt: skip


class Mutant(NamedTuple):
    """One call that does nothing."""

    source: str  # path below the checkout
    line: int
    begin: int  # of the call's name in that line, in bytes
    end: int
    kind: str
    text: str  # the call's name
    within: str = ""  # the function that has it, with its class; "" for a module's own lines
    number: int = 1  # which call of that name in that function

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.kind} {self.text}"

    @property
    def key(self) -> str:
        """For the memory of what killed it: lines move, functions stay."""
        return f"{self.source} {self.within} {self.text} {self.number}"


class Killing(NamedTuple):
    """What a mutation made fail."""

    test: str  # its node id below tests/
    how: str  # pytest's own line about it

    @property
    def by_time_limit(self) -> bool:
        """It was ended, it did not fail: that shows nothing, a slow machine does it too."""
        return not self.test or self.how.startswith("Failed: Timeout")


def find_mutants(source: str, text: str) -> list[Mutant]:
    """Every call in a source that is to be taken out, in its order. Pure."""
    found = [
        Mutant(source, name.lineno, name.col_offset, name.end_col_offset, kind, ast.unparse(name), within)
        for name, call, within in _called(ast.parse(text), "")
        if name.lineno == name.end_lineno and name.end_col_offset is not None and (kind := _kind(name, call))
    ]
    numbers: Counter[tuple[str, str]] = Counter()
    numbered = []
    for mutant in sorted(set(found)):
        numbers[mutant.within, mutant.text] += 1
        numbered.append(mutant._replace(number=numbers[mutant.within, mutant.text]))
    return numbered


def _called(tree: ast.AST, within: str) -> Iterator[tuple[ast.expr, ast.Call, str]]:
    """Each name that is called or handed to a call, the call, and the function that does it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            handed = [*node.args, *(keyword.value for keyword in node.keywords)]  # pool.submit(os.fsync, fd)
            for name in (node.func, *(value for value in handed if isinstance(value, ast.Attribute))):
                yield name, node, within
        scope = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from _called(node, f"{within}.{node.name}".lstrip(".") if scope else within)


def _kind(name: ast.expr, call: ast.Call) -> str:
    called = ast.unparse(name)
    if kind := next((kind for kind, pattern in PATTERNS if pattern.search(called)), ""):
        return kind
    whole = ast.unparse(call) if name is call.func else ""
    return next((kind for kind, pattern in WHOLE_CALLS if pattern.search(whole)), "")


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
            source = path.relative_to(checkout).as_posix()
            if not any(fnmatch.fnmatch(source, left_out) for left_out in LEFT_OUT):
                yield from find_mutants(source, path.read_text())


class Copy:
    """A copy of the checkout in which tests run, with one call taken out at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", ".*cache", ".hypothesis")
        shutil.copytree(CHECKOUT, directory, symlinks=True, ignore=skipped)
        if (CHECKOUT / ".venv").is_dir():  # else a launcher of the copy makes its own first, which takes a minute
            (directory / ".venv").symlink_to(CHECKOUT / ".venv")
        self._passed: dict[str, bool] = {}  # tests without any mutation

    def run(self, test: str, without: Sequence[str] = ()) -> Killing | None:
        """What failed first in one test module, or test; None when all passed, those `without` apart."""
        environment = {**os.environ, "PYTHONPATH": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["COLUMNS"] = "400"  # the line about a failure whole
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]
        command += [f"tests/{test}", *(f"--deselect=tests/{name}" for name in without)]
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
            return Killing("", f"{test} does not end")
        if done.returncode in (0, 5):
            return None
        failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+(?:\[.*?\])?)(?: - (.*))?$", done.stdout, re.MULTILINE)
        if failed is None:
            last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
            return Killing(test, f"pytest's exit status is {done.returncode}: {''.join(last)}")
        return Killing(failed[1], failed[2] or "")

    def try_out(self, mutant: Mutant, tests: Sequence[str], first: str) -> tuple[Killing | None, list[str]]:
        """What killed the mutant, None when it survives; and what looked like it and was nothing."""
        nothing: list[str] = []
        for test in dict.fromkeys([*([first] if first else []), *tests]):
            without: list[str] = []  # of this module: what fails anyway must not hide those after it
            while (killing := self._run_mutated(mutant, test, without)) is not None:
                if not killing.by_time_limit and self._passes_unmutated(killing.test):
                    return killing, nothing
                why = "time limit" if killing.by_time_limit else "fails without the mutation as well"
                nothing.append(f"{why}: {killing.test} {killing.how}")
                if not killing.test or killing.test == test or killing.test in without:
                    break
                without.append(killing.test)
        return None, nothing

    def _run_mutated(self, mutant: Mutant, test: str, without: Sequence[str]) -> Killing | None:
        path = self.directory / mutant.source
        text = path.read_text()
        path.write_text(mutate(text, mutant))
        try:
            return self.run(test, without)
        finally:
            path.write_text(text)

    def _passes_unmutated(self, test: str) -> bool:
        if test not in self._passed:
            self._passed[test] = (
                self.run(test) is None or self.run(test) is None
            )  # a busy machine fails one now and then
        return self._passed[test]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only show what would be taken out")
    parser.add_argument("--only", nargs="*", default=[""], metavar="TEXT", help="mutants whose description holds one")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--memory", type=Path, default=CHECKOUT / ".venv/mutants.json", help="which test killed what")
    parser.add_argument(
        "--quick", action="store_true", help="run only the test that killed the mutant last time, where there is one"
    )
    parser.add_argument("--json", action="store_true", help="print one object at the end")
    options = parser.parse_args()
    mutants = [mutant for mutant in all_mutants(CHECKOUT) if any(text in str(mutant) for text in options.only)]
    if options.list:
        print("\n".join(map(str, mutants)))
        return 0
    return _run(mutants, options)


def _run(mutants: Sequence[Mutant], options: argparse.Namespace) -> int:
    tests = sorted(path.name for path in (CHECKOUT / "tests").glob("test_*.py"))
    memory: dict[str, str] = json.loads(options.memory.read_text()) if options.memory.exists() else {}
    survivors: list[Mutant] = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pillar-mutate-") as place, ThreadPoolExecutor(options.jobs) as pool:
        Path(place).chmod(0o755)  # some tests are another user for a while
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(options.jobs):
            copies.put(Copy(Path(place) / str(number)))

        def work(mutant: Mutant) -> tuple[Mutant, Killing | None, list[str]]:
            copy = copies.get()
            try:
                known = options.quick and mutant.key in memory
                others = [] if known else covering(mutant.source, mutant.kind, tests)
                return mutant, *copy.try_out(mutant, others, memory.get(mutant.key, ""))
            finally:
                copies.put(copy)

        for mutant, killing, nothing in pool.map(work, mutants):
            print(f"{'killed  ' if killing else 'SURVIVED'}  {mutant}", file=sys.stderr)
            for line in [*nothing, *([f"{killing.test}: {killing.how}"] if killing else [])]:
                print(f"          {line}", file=sys.stderr, flush=True)
            if killing is None:
                survivors.append(mutant)
            elif not options.quick:
                memory[mutant.key] = killing.test
                options.memory.write_text(json.dumps(memory, indent=1))
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
