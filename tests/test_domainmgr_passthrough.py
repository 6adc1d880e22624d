"""Devices that a guest has to itself: handed over and given back on recorded machines, whatever dies in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_hardware import RecordedHardware, lines, machine, snapshot

from pillar.cmd.domainmgr.passthrough import Passthrough
from pillar.hypervisors import CannotRun, HypervisorError

CARD = ("0000:01:00.0", "0000:01:00.1")
RECORDED = ((*CARD, "0000:00:04.0"), ("1:2",))  # what the recorded machine's own kernel handed over
KEYBOARD = "1-2:1.0"
PINNED = "sys/devices/pci0000:00/0000:00:04.0/driver_override"


@pytest.fixture
def box(tmp_path: Path) -> RecordedHardware:
    return RecordedHardware(machine(tmp_path / "hardware", "q35"))


@pytest.fixture
def passthrough(tmp_path: Path, box: RecordedHardware) -> Passthrough:
    return Passthrough(tmp_path / "adapters", box)


def drivers(box: RecordedHardware, *addresses: str) -> list[str]:
    found = box.pci()
    return [found[address].driver for address in addresses]


def test_the_stand_in_changes_what_the_recorded_kernel_changed(box: RecordedHardware, passthrough: Passthrough) -> None:
    before = snapshot(box.root)
    passthrough.take("app", *RECORDED)
    after = snapshot(box.root)
    told = {line[1:] for line in lines("q35.handed") if not line.endswith("/")}
    shown = set()
    for path in before.keys() | after.keys():
        if path.startswith("sys/") and before.get(path) != after.get(path):
            sign = " -> " if path.endswith("/driver") else " = "
            shown |= {f"{path}{sign}{tree[path].strip()}" for tree in (before, after) if path in tree}
    assert shown == told
    assert [device.interface for device in (box.pci()[address] for address in CARD)] == ["", ""]


def test_what_was_taken_comes_back_as_it_was(tmp_path: Path, box: RecordedHardware, passthrough: Passthrough) -> None:
    before = snapshot(box.root)
    passthrough.take("app", *RECORDED)
    assert drivers(box, *RECORDED[0]) == ["vfio-pci"] * 3
    assert passthrough.holders() == {"app"}
    later = Passthrough(tmp_path / "adapters", RecordedHardware(box.root))  # another process
    later.give_back("app")
    assert snapshot(box.root) == before
    assert later.holders() == set()
    later.give_back("app")


class Killed(BaseException):
    """Nobody catches it: the process is gone."""


class DyingHardware(RecordedHardware):
    """A kernel that is told `lives` things; then the process that told it is dead, and runs no handler either."""

    lives = 0
    after = False  # it dies when the kernel has done the last one

    def write(self, path: Path, text: str) -> None:
        if self.lives == 0 and not self.after:
            self.lives = -1
        if self.lives < 0:
            raise Killed
        self.lives -= 1
        super().write(path, text)
        if self.lives == 0 and self.after:
            self.lives = -1
            raise Killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_step_the_next_one_gives_all_back_or_takes_all(tmp_path: Path, after: bool) -> None:
    root, ledger = machine(tmp_path / "hardware", "q35"), tmp_path / "adapters"
    before = snapshot(root)
    steps = 3 * len(RECORDED[0])  # of taking; and of giving back
    for lives in range(1, 2 * steps + 1):
        dying = DyingHardware(root)
        dying.lives, dying.after = lives, after
        victim = Passthrough(ledger, dying)
        try:
            victim.take("app", *RECORDED)
            assert lives >= steps
            victim.give_back("app")
            assert (lives, after) == (2 * steps, False)
        except Killed:
            pass
        box = RecordedHardware(root)
        heir = Passthrough(ledger, box)
        if lives % 2:
            heir.take("app", *RECORDED)
            assert drivers(box, *RECORDED[0]) == ["vfio-pci"] * 3
        heir.give_back("app")
        assert snapshot(root) == before, f"killed {'after' if after else 'before'} step {lives}"


def test_a_record_of_another_boot_is_dropped_and_nothing_touched(
    tmp_path: Path, box: RecordedHardware, passthrough: Passthrough
) -> None:
    passthrough.take("app", CARD, ())
    record = tmp_path / "adapters" / "app.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"boot": "another"}))
    before = snapshot(box.root)
    passthrough.give_back("app")
    assert snapshot(box.root) == before
    assert passthrough.holders() == set()


def test_what_the_administrator_gave_to_vfio_stays_there(box: RecordedHardware, passthrough: Passthrough) -> None:
    box.unbind("0000:00:04.0")
    box._bind(box.pci_path("0000:00:04.0"), "vfio-pci")
    before = snapshot(box.root)
    passthrough.take("app", ("0000:00:04.0",), ())
    passthrough.give_back("app")
    assert snapshot(box.root) == before


def test_a_device_without_driver_has_none_again_afterwards(box: RecordedHardware, passthrough: Passthrough) -> None:
    box.unbind("0000:00:04.0")
    before = snapshot(box.root)
    passthrough.take("app", ("0000:00:04.0",), ())
    assert drivers(box, "0000:00:04.0") == ["vfio-pci"]
    passthrough.give_back("app")
    assert snapshot(box.root) == before


def test_usb_drivers_come_back_when_qemu_was_killed(box: RecordedHardware, passthrough: Passthrough) -> None:
    before = snapshot(box.root)
    passthrough.take("app", (), ("1:2",))
    (box.usb_path(KEYBOARD) / "driver").unlink()  # as the kernel does for QEMU
    passthrough.give_back("app")
    assert snapshot(box.root) == before


def test_a_device_that_was_pulled_out_is_forgotten(box: RecordedHardware, passthrough: Passthrough) -> None:
    passthrough.take("app", ("0000:00:04.0",), ("1:2",))
    box.pci_path("0000:00:04.0").unlink()
    box.usb_path(KEYBOARD).unlink()
    passthrough.give_back("app")
    assert passthrough.holders() == set()


def test_when_vfio_refuses_one_device_none_is_kept(box: RecordedHardware, passthrough: Passthrough) -> None:
    before = snapshot(box.root)
    box.refusing = frozenset({CARD[1]})
    with pytest.raises(HypervisorError, match=r"0000:01:00\.1 did not go to vfio-pci, it has no driver now"):
        passthrough.take("app", CARD, ())
    assert snapshot(box.root) == before
    assert passthrough.holders() == set()


def test_a_device_that_is_still_held_for_another_app_is_refused(
    box: RecordedHardware, passthrough: Passthrough
) -> None:
    passthrough.take("app", CARD, ("1:2",))
    for pci, usb in ((CARD[:1], ()), ((), ("1:2",))):
        with pytest.raises(HypervisorError, match="is still held for app app"):
            passthrough.take("other", pci, usb)
    assert drivers(box, *CARD) == ["vfio-pci"] * 2


def remove_vfio(root: Path) -> None:
    (root / "sys/bus/pci/drivers/vfio-pci").rmdir()


def pin(root: Path) -> None:
    (root / PINNED).write_text("pci-stub\n")


def mount(number: str, place: str) -> Callable[[Path], None]:
    def made(root: Path) -> None:
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text(f"22 1 {number} / {place} rw - ext4 /dev/x rw\n")

    return made


def swap(root: Path) -> None:
    (root / "proc").mkdir()
    (root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/nvme0n1 partition 1 0 -2\n")


def nothing(root: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("happens", "pci", "usb", "reason"),
    [
        (nothing, ("0000:09:00.0",), (), "PCI device 0000:09:00.0 cannot be passed through: it is not there"),
        (nothing, ("0000:00:1c.0",), (), "it is a bridge; list the devices behind it"),
        (nothing, ("0000:00:1f.2",), (), "0000:00:1f.0 in the same IOMMU group 7 is used by this machine (lpc_ich)"),
        (nothing, ("0000:04:01.0",), (), "0000:04:02.0 in the same IOMMU group 10 is used by this machine (e1000)"),
        (remove_vfio, CARD, (), "this kernel has no vfio-pci; load it: modprobe vfio-pci"),
        (pin, ("0000:00:04.0",), (), "it is pinned to the driver pci-stub; clear its driver_override"),
        (mount("259:0", "/data"), ("0000:00:03.0",), (), "nvme0n1 is mounted at /data"),
        (swap, ("0000:00:03.0",), (), "nvme0n1 is swap space"),
        (mount("8:16", "/stick"), ("0000:02:00.0",), (), "sdb is mounted at /stick"),
        (
            mount("8:16", "/stick"),
            (),
            ("1:3.1",),
            "USB device 1:3.1 cannot be passed through: sdb is mounted at /stick",
        ),
        (nothing, (), ("1:4",), "USB device 1:4 cannot be passed through: nothing is plugged in there"),
        (nothing, (), ("1:3",), "it is a hub; list the devices at it"),
    ],
)
def test_what_cannot_be_had_is_said_and_nothing_is_touched(
    box: RecordedHardware,
    passthrough: Passthrough,
    happens: Callable[[Path], None],
    pci: tuple[str, ...],
    usb: tuple[str, ...],
    reason: str,
) -> None:
    happens(box.root)
    before = snapshot(box.root)
    with pytest.raises(CannotRun) as refused:
        passthrough.take("app", pci, usb)
    assert reason in str(refused.value)
    assert snapshot(box.root) == before
    assert passthrough.holders() == set()


def test_a_group_that_another_process_has_open_is_refused(
    box: RecordedHardware, passthrough: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    passthrough.take("app", CARD, ())
    passthrough._record("app").unlink()  # somebody else's QEMU, then
    monkeypatch.setattr(box, "group_in_use", lambda group: group == "8")
    with pytest.raises(CannotRun, match="another process has its IOMMU group 8"):
        passthrough.take("other", CARD, ())


def test_without_an_iommu_there_is_nothing_to_hand_over(tmp_path: Path) -> None:
    box = RecordedHardware(machine(tmp_path / "hardware", "pc"))
    with pytest.raises(CannotRun, match="this machine has no IOMMU in use; switch it on in the firmware"):
        Passthrough(tmp_path / "adapters", box).take("app", ("0000:00:04.0",), ())


def test_a_damaged_record_is_said_with_its_name(tmp_path: Path, passthrough: Passthrough) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "app.json").write_text("{")
    with pytest.raises(HypervisorError, match=r"adapters/app\.json is damaged"):
        passthrough.give_back("app")
