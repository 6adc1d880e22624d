"""nftables: tables as values, read back from the kernel, and the script of one transaction that makes them so.

A rule carries a hash of its text as comment, so reading back tells whether each chain still has its rules, in their
order. Chains, sets and maps are replaced one by one: counters, elements that dnsmasq added, and everything that did not
change stay as they are. One script is one transaction; a packet sees the old rules or the new ones.

The `nft` command is used: libnftables has no package on PyPI.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

_TIMEOUT_S: Final = 60
_COUNTER: Final = re.compile(r'counter name "([^"]*)"')
_LINE: Final = re.compile(r":(\d+):\d+")


class NftError(Exception):
    """nft refused; the transaction changed nothing. `line` counts from 1, 0 when it did not say which."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


class Rule(NamedTuple):
    """One rule; `owner` is who is told when the kernel refuses it."""

    text: str
    owner: str = ""


class Hook(NamedTuple):
    """Where a base chain sees packets."""

    type: str
    hook: str
    priority: int

    def __str__(self) -> str:
        return f"type {self.type} hook {self.hook} priority {self.priority}; policy accept;"


@dataclass(frozen=True)
class Chain:
    """Rules in their order; with a hook, a base chain."""

    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """What the comments of its rules say; the same object each time, so that comparing is cheap."""
        return tuple(hashlib.sha256(rule.text.encode()).hexdigest()[:16] for rule in self.rules)

    @cached_property
    def counters(self) -> frozenset[str]:
        """The counters that its rules name."""
        return frozenset(name for rule in self.rules for name in _COUNTER.findall(rule.text))


@dataclass(frozen=True)
class Elements:
    """A set or map. `elements` None: somebody else fills it."""

    kind: str  # "set" or "map"
    type: str
    elements: frozenset[str] | None = None


@dataclass(frozen=True)
class Table:
    """One table as it should be."""

    family: str
    name: str
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, Elements] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    wanted: bool = True  # False: there should be none


@dataclass(frozen=True)
class Found:
    """One table as the kernel has it; `exists` False: it has none."""

    exists: bool = False
    chains: Mapping[str, tuple[Hook | None, tuple[str, ...]]] = field(default_factory=dict)  # hook, marks of rules
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    counters: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # packets, bytes


class Line(NamedTuple):
    """One line of a script."""

    text: str
    owner: str = ""


def as_found(table: Table, before: Found) -> Found:
    """What reading back gives after the table was made; counters and others' elements are as they were."""
    if not table.wanted:
        return Found()
    return Found(
        True,
        {name: (chain.hook, chain.marks) for name, chain in table.chains.items()},
        {
            name: one.elements if one.elements is not None else before.sets.get(name, frozenset())
            for name, one in table.sets.items()
        },
        {name: before.counters.get(name, (0, 0)) for name in table.counters},
    )


def changes(table: Table, found: Found) -> list[Line]:
    """The script from what was found to what should be; empty when nothing differs."""
    if not table.wanted:
        return [Line(f"delete table {table.family} {table.name}")] if found.exists else []
    lines: list[Line] = []
    changed = {name for name, chain in table.chains.items() if found.chains.get(name) != (chain.hook, chain.marks)}
    gone = set(found.chains) - set(table.chains)
    rehooked = {name for name in changed & set(found.chains) if found.chains[name][0] != table.chains[name].hook}
    prefix = f"{table.family} {table.name}"
    if not found.exists:
        lines.append(Line(f"add table {prefix}"))
    lines += [Line(f"add counter {prefix} {name}") for name in sorted(table.counters - set(found.counters))]
    for name, one in sorted(table.sets.items()):
        if name not in found.sets:
            lines.append(Line(f"add {one.kind} {prefix} {name} {{ type {one.type}; }}"))
    lines += [Line(f"flush chain {prefix} {name}") for name in sorted((changed & set(found.chains)) | gone)]
    lines += [Line(f"delete chain {prefix} {name}") for name in sorted(rehooked)]
    for name in sorted(changed):
        if name not in found.chains or name in rehooked:
            hook = table.chains[name].hook
            lines.append(Line(f"add chain {prefix} {name}" + (f" {{ {hook} }}" if hook else "")))
    for name, one in sorted(table.sets.items()):
        if one.elements is not None and (dropped := found.sets.get(name, frozenset()) - one.elements):
            keys = ", ".join(sorted(element.partition(" : ")[0] for element in dropped))
            lines.append(Line(f"delete element {prefix} {name} {{ {keys} }}"))
    for name in sorted(changed):
        chain = table.chains[name]
        lines += [
            Line(f'add rule {prefix} {name} {rule.text} comment "{mark}"', rule.owner)
            for rule, mark in zip(chain.rules, chain.marks, strict=True)
        ]
    for name, one in sorted(table.sets.items()):
        if one.elements is not None and (added := one.elements - found.sets.get(name, frozenset())):
            lines.append(Line(f"add element {prefix} {name} {{ {', '.join(sorted(added))} }}"))
    lines += [Line(f"delete chain {prefix} {name}") for name in sorted(gone)]
    for name in sorted(set(found.sets) - set(table.sets)):
        lines.append(Line(f"delete set {prefix} {name}"))
    lines += [Line(f"delete counter {prefix} {name}") for name in sorted(set(found.counters) - table.counters)]
    return lines


def rebuild(table: Table) -> list[Line]:
    """The script that makes the table anew, whatever is there."""
    name = f"{table.family} {table.name}"
    if not table.wanted:
        return [Line(f"add table {name}"), Line(f"delete table {name}")]
    return [Line(f"add table {name}"), Line(f"delete table {name}"), *changes(table, Found())]


def run(lines: list[Line]) -> None:
    """One transaction. Raises NftError, and OSError when there is no nft."""
    done = subprocess.run(
        ["nft", "-f", "-"],
        input="".join(f"{line.text}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        where = _LINE.search(done.stderr)
        text = " ".join(word for word in done.stderr.split("\n")[0].split(" ") if word)
        raise NftError(f"nft: {text or f'status {done.returncode}'}", int(where[1]) if where else 0)


def read(family: str, name: str) -> Found:
    """The table as it is. Raises NftError and OSError."""
    done = subprocess.run(
        ["nft", "-j", "list", "table", family, name], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode:
        if "No such file" in done.stderr or "does not exist" in done.stderr:
            return Found()
        raise NftError(f"nft cannot list the table {family} {name}: {done.stderr.strip()}")
    return parse(json.loads(done.stdout))


def counters(family: str, name: str) -> dict[str, tuple[int, int]]:
    """(packets, bytes) of every named counter of the table, {} when there is no such table."""
    done = subprocess.run(
        ["nft", "-j", "list", "counters", "table", family, name],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    return dict(parse(json.loads(done.stdout)).counters) if not done.returncode else {}


def parse(listing: dict[str, Any]) -> Found:
    """What `nft -j list table` printed."""
    hooks: dict[str, Hook | None] = {}
    rules: dict[str, list[str]] = {}
    sets: dict[str, frozenset[str]] = {}
    found: dict[str, tuple[int, int]] = {}
    for entry in listing.get("nftables", ()):
        for kind, one in entry.items():
            match kind:
                case "chain":
                    hooks[one["name"]] = Hook(one["type"], one["hook"], one["prio"]) if "hook" in one else None
                case "rule":
                    rules.setdefault(one["chain"], []).append(one.get("comment", ""))
                case "set" | "map":
                    sets[one["name"]] = frozenset(_elements(one.get("elem", ())))
                case "counter":
                    found[one["name"]] = (one["packets"], one["bytes"])
    return Found(True, {name: (hook, tuple(rules.get(name, ()))) for name, hook in hooks.items()}, sets, found)


def _elements(listed: Any) -> Iterator[str]:
    for element in listed:
        if isinstance(element, list):  # of a map
            key, verdict = element
            (word, target), *_ = verdict.items() if isinstance(verdict, dict) else ((str(verdict), None),)
            yield f"{_key(key)} : {word} {target['target']}" if target else f"{_key(key)} : {word}"
        else:
            yield _key(element)


def _key(key: Any) -> str:
    if isinstance(key, dict) and "elem" in key:
        return _key(key["elem"]["val"])
    if isinstance(key, dict) and "concat" in key:
        return " . ".join(_key(part) for part in key["concat"])
    return f'"{key}"' if isinstance(key, str) and re.fullmatch(r"[a-z]+[a-z0-9.-]*", key) else str(key)
