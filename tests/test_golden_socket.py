"""Every recorded conversation of EVE, from both ends: our publisher, and our subscriber, in the place of its own."""

from __future__ import annotations

import base64
import json
import re
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from golden_wire import (
    GOLDEN,
    Item,
    Scenario,
    as_eve_rounds,
    drain,
    key_and_value,
    open_publication,
    run_step,
    scenarios,
    without_paths,
)

from pillar.pubsub import BadRecord, PubSub, decode

STEPPED = [scenario for scenario in scenarios() if not scenario.by_hand]
TALKING = [scenario for scenario in scenarios() if not scenario.header.get("publisher_closes")]
BY_HAND = [scenario for scenario in scenarios() if scenario.by_hand]


def name_of(scenario: Scenario) -> str:
    return scenario.name


def socket_path(root: Path, scenario: Scenario) -> Path:
    header = scenario.header
    return root / "run" / header["agent"] / header["scope"] / f"{header['topic']}.sock"


def connect(pubsub: PubSub, root: Path, scenario: Scenario, *packets: bytes) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(str(socket_path(root, scenario)))
    client.setblocking(False)
    for packet in packets:
        client.send(packet)
    pubsub.wait(0)  # accept
    pubsub.wait(0)  # read the request and answer it
    return client


def told(packets: list[bytes]) -> list[tuple[bytes, str, bytes]]:
    """Packets in a form that can be compared with ours: verb, key, value; other packets whole."""
    found = []
    for packet in packets:
        verb = packet.split(b" ")[0]
        if verb in (b"update", b"delete"):
            key, value = key_and_value(packet)
            if not key.startswith("."):
                found.append((verb, key, without_paths(as_eve_rounds(value) if value else b"")))
        else:
            found.append((packet, "", b""))
    return found


def without_repeats(segments: list[list[bytes]]) -> list[list[tuple[bytes, str, bytes]]]:
    """EVE 2026 sends most records again at every wake-up: an update that says what the last one said is no news."""
    last: dict[str, bytes] = {}
    result = []
    for segment in segments:
        news = []
        for verb, key, value in told(segment):
            if key and last.get(key) == value:
                continue
            if key:
                last[key] = value
            news.append((verb, key, value))
        result.append(news)
    return result


@pytest.mark.parametrize("scenario", STEPPED, ids=name_of)
def test_our_publisher_says_what_eves_said(root: Path, scenario: Scenario) -> None:
    segments: list[list[bytes]] = []
    with PubSub(root, scenario.header["agent"], driver="socket", dialect=scenario.year) as pubsub:
        publication = open_publication(pubsub, scenario)
        client = None
        for step in scenario.steps:
            if step == ["subscriber connects"]:
                client = connect(pubsub, root, scenario, scenario.packets[0][1])
            else:
                run_step(publication, step)
                pubsub.wait(0)
            if client is not None:
                segments.append(drain(client))
        assert client is not None
        if "burst" in scenario.name:  # more than a socket holds: what is left is told when there is room
            while waiting := (pubsub.wait(0), drain(client))[1]:
                segments[-1] += waiting
        client.close()
    ours, eves = without_repeats(segments), without_repeats(scenario.segments())
    if "burst" in scenario.name:  # how many updates a burst makes is a race; they grow, and the last is the last
        numbers = [json.loads(value)["Alpha"] for _, _, value in ours[1]]
        assert numbers == sorted(numbers)
        assert ours[1][-1] == eves[1][-1]
        ours[1:], eves[1:] = [], []
    assert [sorted(segment) for segment in ours] == [sorted(segment) for segment in eves]
    # The records of the first copy come in any order (EVE's walk of a map); everything else stands where EVE has it.
    for our, eve in zip(ours, eves, strict=True):
        assert [verb for verb, *_ in our] == [verb for verb, *_ in eve]


def files_before(root: Path, scenario: Scenario) -> None:
    """What stood in the table's directory before the recorded publisher started."""
    header = scenario.header
    base = "persist/status" if header["persistent"] else "run"
    table = root / base / header["agent"] / header["scope"] / header["topic"]
    table.mkdir(parents=True)
    if "_populate" in scenario.name:
        tree = json.loads((GOLDEN / "disk" / f"{scenario.year}_populate.json").read_text())
        for path, text in tree["files"].items():
            (table / Path(path).name).write_text(text)
    elif "_restarted_file" in scenario.name:
        (table / "a.json").write_text('{"Alpha":1}')
        (table / "restarted").write_text("" if "empty" in scenario.name else "3")


@pytest.mark.parametrize("scenario", BY_HAND, ids=name_of)
def test_our_publisher_answers_a_hand_made_subscriber_as_eves_did(root: Path, scenario: Scenario) -> None:
    files_before(root, scenario)
    with PubSub(root, scenario.header["agent"], driver="socket", dialect=scenario.year) as pubsub:
        publication = open_publication(pubsub, scenario)
        for step in scenario.steps:
            run_step(publication, step)
        sent = [text for who, text in scenario.packets if who == "subscriber"]
        with connect(pubsub, root, scenario, sent[0]) as client:
            packets = drain(client)
            for later in sent[1:]:
                client.send(later)
                pubsub.wait(0)
                packets += drain(client)
    said = [text for who, text in scenario.packets if who == "publisher"]
    if scenario.header["publisher_closes"]:
        assert packets == [*said, b""]
        return
    ours, eves = (sorted(told(each)) for each in (packets, said))
    if "_populate" in scenario.name:
        # EVE cuts a name at its first `.json`, so its key `a` is our `a.json.b`.
        ours = sorted((verb, key.split(".json")[0], value) for verb, key, value in ours)
        if scenario.name == "2019_populate_persistent":
            # The backups are those of 2026: here they are used whatever the dialect.
            ours = [packet for packet in ours if packet[1] not in ("lost", "emptywithbak")]
    assert ours == eves
    assert [packet.split(b" ")[0] for packet in packets[-2:]] == [packet.split(b" ")[0] for packet in said[-2:]]


class RecordedPublisher:
    """Listens where EVE's publisher listened and says what it said."""

    def __init__(self, root: Path, scenario: Scenario) -> None:
        self.scenario = scenario
        path = socket_path(root, scenario)
        path.parent.mkdir(parents=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(5)

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        return connection


def decodes(scenario: Scenario, value: Any) -> bool:
    try:
        decode(scenario.type, json.dumps(value).encode())
    except BadRecord:
        return False
    return True


def with_files(root: Path, scenario: Scenario, packet: bytes, values: list[dict[str, Any]]) -> bytes:
    """The packet with the large fields' files in our root, written as the publisher had written them."""
    if b"update" not in packet or scenario.header["topic"] != "LargeItem":
        return packet
    key, text = key_and_value(packet)
    text = text.replace(scenario.header["publisher_root"].encode(), str(root).encode())
    value = values.pop(0)
    for name, quoted in json.loads(text).items():
        if name.startswith("pubsub-file-"):
            path, member = Path(json.loads(quoted)), name.replace("-file-", "-large-")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({member: value[member]}))
    return b" ".join([*packet.split(b" ")[:2], base64.b64encode(key.encode()), base64.b64encode(text)])


def eves_calls(scenario: Scenario) -> list[tuple[Any, ...]]:
    """What EVE's subscriber called, as ours has to: the differences, each on purpose, are named here."""
    calls: list[tuple[Any, ...]] = []
    for call in scenario.calls:
        op, key, value = call["op"], call["key"], call["value"]
        if op == "sync":
            calls.append(("synchronized",))
        elif op == "restart":
            if value:  # that the counter was cleared (2026: 0) is no restart
                calls.append(("restarted", int(value)))
        elif key.startswith("."):
            continue  # no key here: names with a dot are the table's own
        elif not decodes(scenario, value):
            continue  # rounded on the wire beyond its type (2019's subscriber does not look at types)
        else:
            calls.append((op, key, decode(scenario.type, json.dumps(value).encode())))
    return calls


def counters(scenario: Scenario) -> list[tuple[str, int]]:
    """The restarts our subscriber tells of: EVE 2026's drops one without a counter, EVE 2019's all but the first."""
    said = [text.split(b" ") for _, text in scenario.packets if text.startswith(b"restarted")]
    return [("restarted", int(words[2]) if len(words) > 2 else 1) for words in said]


def as_2026_keeps_it(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """EVE 2026's subscriber makes an empty list null when it keeps a record."""
    if len(call) < 3 or not isinstance(call[2], Item):
        return call
    return (*call[:2], msgspec.structs.replace(call[2], List=call[2].List or None))


@pytest.mark.parametrize("scenario", TALKING, ids=name_of)
def test_our_subscriber_understands_what_eves_publisher_said(root: Path, scenario: Scenario) -> None:
    calls: list[tuple[Any, ...]] = []
    publisher = RecordedPublisher(root, scenario)
    said = [text for who, text in scenario.packets if who == "publisher"]
    values = [call["value"] for call in scenario.calls if call["op"] in ("create", "modify")]
    if scenario.name == "2026_large_unread":
        values = [json.loads(step[2]) for step in scenario.steps]
    with PubSub(root, "reader", driver="socket") as pubsub:
        subscription = pubsub.subscription(
            scenario.header["agent"],
            scenario.type,
            scope=scenario.header["scope"],
            create=lambda key, new: calls.append(("create", key, new)),
            modify=lambda key, new, old: calls.append(("modify", key, new)),
            delete=lambda key, old: calls.append(("delete", key, old)),
            synchronized=lambda: calls.append(("synchronized",)),
            restarted=lambda counter: calls.append(("restarted", counter)),
        )
        pubsub.wait(0)
        with publisher.listener, publisher.accept() as connection:
            assert connection.recv(65536) == scenario.packets[0][1]
            for packet in said:
                connection.send(with_files(root, scenario, packet, values))
                pubsub.wait(1)
            table = subscription.items()
            if scenario.by_hand:
                updates = [key_and_value(packet) for packet in said if packet.startswith(b"update")]
                if "large" not in scenario.name:
                    assert table == {key: decode(scenario.type, value) for key, value in updates}
                else:
                    assert table == {"l1": decode(scenario.type, scenario.steps[0][2].encode())}
                assert ("synchronized",) in calls
            else:
                wanted = eves_calls(scenario)
                if scenario.name.startswith("cross_"):
                    assert [call for call in calls if call[0] == "restarted"] == counters(scenario)
                    calls, wanted = (
                        [as_2026_keeps_it(call) for call in each if call[0] != "restarted"] for each in (calls, wanted)
                    )
                assert calls == wanted
    left = [path for path in root.rglob("pubsub-file-*") if re.search(r"[A-Z]", path.name)]
    assert left == [], "the reader removes the files of large fields"
