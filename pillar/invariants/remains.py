"""What should not be left: half-made files, parts of downloads nobody asks for, unreadable records, bad counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pillar.invariants.facts import Problem, Tree
from pillar.types.enums import SwState

_KIND = "left-over"
_OWNERS: Final = (  # whose directory is it? the longest beginning counts
    ("persist/downloads/", "downloader"),
    ("persist/certs/", "baseosmgr"),
    ("persist/checkpoint/", "zedagent"),
    ("persist/identitymanager/", "identitymanager"),
    ("persist/img/", "domainmgr"),
    ("persist/process/", "domainmgr"),
    ("persist/verifier/", "verifier"),
    ("config/", "zedagent"),
)


def remains(tree: Tree) -> Iterator[Problem]:
    """Files that are nobody's."""
    for path in sorted(tree.staged):
        agent = owner(path)
        mend = (
            f"{agent} removes it when it is started" if agent else "remove it, once you are sure that nobody writes it"
        )
        yield Problem(_KIND, path, "was being written when its writer was killed", mend, agent)
    yield from _parts(tree)


def owner(path: str) -> str:
    """The agent that writes there, "" when that cannot be told from the path."""
    for beginning, agent in _OWNERS:
        if path.startswith(beginning):
            stage = path.removeprefix(beginning).split("/")[1:2]
            return "verifier" if agent == "downloader" and stage in (["verifier"], ["verified"]) else agent
    parts = path.split("/")
    if parts[0] == "run" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ["persist", "status"] and len(parts) > 3:
        return parts[2]
    if parts[:2] == ["persist", "log"]:
        return parts[2].split(".")[0]
    return ""


def _parts(tree: Tree) -> Iterator[Problem]:
    """Bytes of downloads that are over, or that nobody asks for any more."""
    for path in sorted(tree.files):
        parts = path.split("/")
        if parts[:2] != ["persist", "downloads"] or parts[3:4] != ["pending"] or not path.endswith(".part"):
            continue
        if len(parts) == 4 or "/blobs/" in path:
            continue
        table = f"downloader/{parts[2]}/DownloaderStatus"
        name = parts[-1].removesuffix(".part")
        status = tree.table(table).get(name)
        shortened = len(name) == 64 and name.isalnum()  # of a name too long for its suffixes
        if table not in tree.tables or shortened:
            continue
        if status is None:
            mend = "downloader removes it after DownloadGCTime"
            yield Problem(_KIND, path, "is part of a download that nobody asks for", mend, "downloader", "note")
        elif status.State == SwState.DOWNLOADED:
            mend = "downloader removes it when it looks again"
            yield Problem(
                _KIND, path, f"the download {name} is complete, and this part of it is left", mend, "downloader"
            )


def unreadable(tree: Tree) -> Iterator[Problem]:
    """Records that no reader takes."""
    for path, why in sorted(tree.unreadable.items()):
        mend = "write it anew, or remove it: subscribers keep the last good value meanwhile"
        yield Problem("unreadable record", path, why, mend)


def counters(tree: Tree) -> Iterator[Problem]:
    """Restart counters that are no numbers: subscribers cannot tell that the publisher has begun again."""
    for path, text in sorted(tree.counters.items()):
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            agent = owner(path)
            what = f"holds {text!r}, expected a number from 1"
            yield Problem("restart counter", path, what, f"restart {agent}, it counts on", agent)
