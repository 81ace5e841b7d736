"""`mqcore demo` reports what its killed pipelines did, and what it reports is what the store holds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import mqcore as mq
from tests.support.processes import mqcore, mqcore_text

EVENTS, KEYS = 30_000, 7


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "events.jsonl"
    rows = ({"user": f"u{number % KEYS}", "n": number} for number in range(EVENTS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(source: Path, store: Path, kills: int = 4) -> tuple[str | Path, ...]:
    named = ("demo", "--input", source, "--key", "user", "--partitions", "5", "--store", store)
    return (*named, "--kills", str(kills), "--seed", "7", "--durability", "os")


def receipts(store: mq.Store, topic: str) -> Counter[tuple[int, int]]:
    """How many receipts each event of the source has, by its partition and offset."""
    with store.consumer(topic, start="earliest", follow=False) as consumer:
        return Counter(tuple(map(int, record.value.split(b":")[:2])) for record in consumer)  # type: ignore[misc]


def test_kills_lose_nothing_and_exactly_once_doubles_nothing(source: Path, tmp_path: Path) -> None:
    (facts,) = mqcore(*arguments(source, tmp_path / "s"))
    assert (facts["events"], facts["seed"]) == (EVENTS, 7)
    at_least, exactly = (facts["pipelines"][name] for name in ("at_least_once", "exactly_once"))
    assert (exactly["out"], exactly["lost"], exactly["duplicated"], exactly["out_of_order"]) == (EVENTS, 0, 0, 0)
    assert exactly["state_equal"]
    assert at_least["lost"] == at_least["out_of_order"] == 0
    assert at_least["out"] == EVENTS + at_least["duplicated"]
    assert 1 <= at_least["kills_survived"] <= 4  # where the machine is slow to kill, a life gets through before
    assert 1 <= exactly["kills_survived"] <= 4
    assert at_least["msg_per_s"] > 0
    assert exactly["msg_per_s"] > 0

    with mq.open(tmp_path / "s", durability="os") as store:
        assert set(store.topics()) == {"flights", "receipts-at-least-once", "receipts-exactly-once"}
        events = {(part, offset) for part, end in store.end_offsets("flights").items() for offset in range(end)}
        once = receipts(store, "receipts-exactly-once")
        assert once.keys() == events
        assert set(once.values()) == {1}
        more = receipts(store, "receipts-at-least-once")
        assert more.keys() == events
        assert more.total() == at_least["out"]
        totals: Counter[bytes] = Counter()
        for key, value in store.state("exactly-once").items():
            totals[key.rpartition(b"/")[0]] += int(value.split()[0])
        assert totals == Counter(b"u%d" % (number % KEYS) for number in range(EVENTS))


def test_a_second_demo_begins_anew_and_prints_a_table(source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        text = mqcore_text(*arguments(source, tmp_path / "s", kills=1))
        assert "kills survived" in text
        assert "at least once" in text
        assert "state equal" in text
        assert "Next" in text
    rows = mqcore("group", "describe", "exactly-once", "--store", tmp_path / "s")
    assert sum(row["committed"] for row in rows) == EVENTS
    assert {row["lag"] for row in rows} == {0}
