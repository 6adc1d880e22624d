"""How long a domain has to end when it is asked to: its backend says, unless somebody says otherwise."""

import time
from pathlib import Path

import pytest
from support import wait_for

from pillar.agent import parser_of
from pillar.cmd.domainmgr import work
from pillar.cmd.domainmgr.agent import DomainMgr
from pillar.cmd.domainmgr.passthrough import Passthrough
from pillar.hardware import Hardware
from pillar.hypervisors import DomainSpec, Hypervisors, Phase, names
from pillar.hypervisors.process import ProcessHypervisor
from pillar.locations import Locations
from pillar.types.domainmgr import DiskStatus, DomainConfig

DEAF = b"#!/bin/sh\ntrap '' TERM\necho up\nwhile :; do sleep 600; done\n"


@pytest.mark.parametrize(("own_s", "given_s", "waited_s"), [(0.3, None, 0.3), (600.0, 0.2, 0.2)])
def test_a_domain_that_does_not_listen_is_ended_after_its_backends_time_or_the_one_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_s: float, given_s: float | None, waited_s: float
) -> None:
    monkeypatch.setattr(ProcessHypervisor, "grace_s", own_s)
    where = Locations(tmp_path)
    image = tmp_path / "image"
    image.write_bytes(DEAF)
    spec = DomainSpec("app", DomainConfig(), (DiskStatus(Format="raw", ActiveFileLocation=str(image)),))
    tools = work.Tools(Hypervisors(where, "process"), where, Passthrough(tmp_path / "adapters", Hardware()), given_s)
    (backend,) = tools.hypervisors.backends
    backend.prepare(spec)
    backend.start(spec)
    try:
        wait_for(lambda: where.log("app").read_bytes() == b"up\n", "the trap is set", 60)
        asked = time.monotonic()
        work.stop("app", tools)
        assert waited_s <= time.monotonic() - asked < 60
        assert backend.status("app").phase is Phase.GONE
    finally:
        work.end("app", tools)


def test_the_help_names_the_times_that_the_backends_state(tmp_path: Path) -> None:
    given = {backend.name: backend.grace_s for backend in Hypervisors(Locations(tmp_path), "auto").backends}
    assert given == {"process": 10, "qemu": 60, "runc": 10, "xen": 60}
    said = " ".join(parser_of(DomainMgr).format_help().split())
    assert "60 for virtual machines, 10 for containers and programs" in said
    table = Path(__file__).parent.parent.joinpath("docs", "domains.md").read_text()
    for name, grace_s in given.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.endswith(f"in {grace_s:.0f} s |")
    assert set(given) == set(names())
