"""One tree, found the same way as a wheel, an editable install and a plain checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import CHECKOUT

HEAVY = ("boto3", "azure.storage.blob", "requests", "pyroute2", "google.protobuf", "cryptography", "paramiko")
WHERE = (
    "import pillar, pillar.types.downloader as records, pillar.pubsub, pillar.cmd.downloader;"
    " print(pillar.__file__); print(records.__file__)"
)


def python(interpreter: Path | str, *words: str, cwd: Path) -> str:
    """What this Python prints, run without the test's own PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(interpreter), *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree to build from, so that building leaves nothing in the checkout."""
    target = tmp_path_factory.mktemp("tree") / "checkout"
    shutil.copytree(
        CHECKOUT,
        target,
        symlinks=True,
        ignore=shutil.ignore_patterns(".venv", ".git", "*.egg-info", "build", "*cache*"),
    )
    return target


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The Python of a new environment that has the dependencies, but no Pillar."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = next(environment.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment / "bin/python"


def pip(interpreter: Path, *words: object, cwd: Path) -> None:
    python(interpreter, "-m", "pip", "--quiet", *map(str, words), cwd=cwd)


def test_a_wheel_holds_the_whole_tree(copy: Path, fresh: Path, tmp_path: Path) -> None:
    pip(fresh, "wheel", copy, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, cwd=tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    pip(fresh, "install", "--no-deps", "--target", tmp_path / "installed", wheel, cwd=tmp_path)
    found = python(fresh, "-c", f"import sys; sys.path.insert(0, 'installed'); {WHERE}", cwd=tmp_path).split()
    assert all(str(tmp_path / "installed/pillar") in str(tmp_path / path) for path in found)
    # The rooms stand in the wheel once, under pillar: a top-level `types` or `cmd` would hide Python's.
    assert not {"types", "cmd", "pubsub"} & {path.name for path in (tmp_path / "installed").iterdir()}


def test_an_editable_install_sees_the_checkout(copy: Path, fresh: Path, tmp_path: Path) -> None:
    pip(fresh, "install", "--no-deps", "--no-build-isolation", "--editable", copy, cwd=tmp_path)
    found = python(fresh, "-c", WHERE, cwd=tmp_path).split()
    assert [Path(path).resolve() for path in found] == [copy / "pillar/__init__.py", copy / "types/downloader.py"]


def test_a_plain_checkout_works_from_its_own_folder(copy: Path, fresh: Path) -> None:
    found = python(fresh, "-c", WHERE, cwd=copy).split()
    assert [Path(path).resolve() for path in found] == [copy / "pillar/__init__.py", copy / "types/downloader.py"]


def test_the_rooms_do_not_hide_pythons_own_modules(copy: Path) -> None:
    standard = sysconfig.get_paths()["stdlib"]
    found = python(
        sys.executable, "-c", "import enum, types, cmd; print(types.__file__); print(cmd.__file__)", cwd=copy
    )
    assert all(path.startswith(standard) for path in found.split())
    assert python(sys.executable, "-m", "pip", "--version", cwd=copy).startswith("pip ")


def test_the_library_refuses_a_second_copy_of_itself(copy: Path) -> None:
    code = "import sys; sys.path.insert(0, '.')\ntry: import pubsub\nexcept ImportError as err: print(err)"
    assert python(sys.executable, "-c", code, cwd=copy).startswith("import pillar.pubsub, not pubsub")


@pytest.mark.parametrize(
    "modules",
    ["pillar.cmd.zedmanager.__main__", "pillar.command.main, pillar.command.watch, pillar.command.ls", "pillar.pubsub"],
)
def test_who_does_not_download_does_not_pay_for_it(modules: str) -> None:
    code = f"import sys, {modules}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    assert python(sys.executable, "-c", code, cwd=CHECKOUT).strip() == "[]"


def test_the_import_contract_bites(copy: Path) -> None:
    """A planted import from the records into an agent's room fails the check that the whole suite runs."""
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed: scripts/test installs it")
    planted = copy / "types/downloader.py"
    original = planted.read_text()
    try:
        clean = subprocess.run([linter, "--no-cache"], cwd=copy, capture_output=True, check=False)
        planted.write_text(original + "\nimport pillar.cmd.downloader\n")
        broken = subprocess.run([linter, "--no-cache"], cwd=copy, capture_output=True, check=False)
    finally:
        planted.write_text(original)
    assert clean.returncode == 0, clean.stdout
    assert broken.returncode != 0
