"""A consumer with dedup sees each id once, wherever it begins, seeks, stops or is killed: the log alone decides."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import pytest

import mqcore
from mqcore.errors import WindowFullError

GENERATOR = mqcore.Snowflake(9)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with mqcore.open(tmp_path / "s", durability="os") as store:
        store.create_topic("t")  # no window: copies are stored
        yield store


def fill(store: mqcore.Store, kind: str, count: int = 3000, seed: int = 1) -> list[tuple[int, bytes, bool]]:
    """Records of which many repeat an earlier id, in batches of any size. (offset, value, whether it repeats)."""
    rng = random.Random(seed)
    ids = GENERATOR.batch(count).tolist() if kind == "64" else [uuid.uuid4() for _ in range(count)]
    sent: list[Any] = []
    rows: list[tuple[Any, bytes, bool]] = []
    fresh = iter(ids)
    while len(rows) < count:
        again = bool(sent) and rng.random() < (0.9 if len(rows) % 1000 < 100 else 0.1)
        one = rng.choice(sent[-500:]) if again else next(fresh)
        sent.append(one)
        rows.append((one, b"%d" % len(rows), again))
    with store.producer() as producer:
        at = 0
        while at < count:
            end = min(count, at + rng.choice([1, 10, 300]))
            producer.send_many("t", [row[1] for row in rows[at:end]], ids=[row[0] for row in rows[at:end]])
            at = end
    return [(offset, value, again) for offset, (_, value, again) in enumerate(rows)]


def expected(rows: list[tuple[int, bytes, bool]], start: int = 0) -> list[bytes]:
    return [value for offset, value, again in rows if not again and offset >= start]


@pytest.mark.parametrize("kind", ["64", "128"])
def test_each_id_comes_once_and_in_order(store: mqcore.Store, kind: str) -> None:
    rows = fill(store, kind)
    with store.consumer("t", dedup=True, follow=False) as consumer:
        assert [record.value for record in consumer] == expected(rows)
    for max_records in (1, 7, 1000):
        with store.consumer("t", dedup=3_600_000, follow=False) as consumer:
            found = [value for batch in consumer.batches(max_records) for value in batch.values.iter_bytes()]
        assert found == expected(rows)
    with store.consumer("t", follow=False) as consumer:
        assert sum(1 for _ in consumer) == len(rows)


@pytest.mark.parametrize("kind", ["64", "128"])
def test_wherever_it_begins_it_leaves_out_the_same(store: mqcore.Store, kind: str) -> None:
    """What a consumer that was killed and started at its committed offset does."""
    rows = fill(store, kind)
    rng = random.Random(3)
    for start in [0, 1, *rng.sample(range(len(rows)), 8), len(rows) - 1]:
        with store.consumer("t", dedup=True, follow=False) as consumer:
            consumer.seek(0, start)
            assert [record.value for record in consumer] == expected(rows, start)


def test_seeks_and_iterations_that_end_early_repeat_nothing_and_lose_nothing(store: mqcore.Store) -> None:
    rows = fill(store, "64")
    values = {value: offset for offset, value, _ in rows}
    rng = random.Random(4)
    with store.consumer("t", dedup=True, follow=False) as consumer:
        at = 0
        for _ in range(60):
            if rng.random() < 0.3:
                at = rng.randrange(len(rows) + 1)
                consumer.seek(0, at)
            wanted = expected(rows, at)[: rng.choice([1, 5, 400])]
            found: list[bytes] = []
            if rng.random() < 0.5:
                for record in consumer:
                    found.append(record.value)
                    if len(found) == len(wanted):
                        break
            else:
                while len(found) < len(wanted) and (batches := consumer.poll(0, max_records=len(wanted) - len(found))):
                    found += [value for batch in batches for value in batch.values.iter_bytes()]
            assert found == wanted
            at = values[found[-1]] + 1 if found else at


def test_a_group_goes_on_from_its_offsets(store: mqcore.Store) -> None:
    rows = fill(store, "128")
    found: list[bytes] = []
    while len(found) < len(expected(rows)):
        with store.consumer("t", group="g", dedup=True) as consumer:
            for batch in consumer.batches(400, timeout_s=5):
                found += batch.values.iter_bytes()
                consumer.commit()
                break
    assert found == expected(rows)


def test_records_without_ids_pass(store: mqcore.Store) -> None:
    with store.producer() as producer:
        producer.send_many("t", [b"a"] * 5)
        producer.send("t", b"b", headers=[("mqcore.id", b"odd"), ("x", b"y")])
        producer.send("t", b"c", headers=[("x", b"y"), ("mqcore.id", (7).to_bytes(8, "big"))])
        producer.send("t", b"d", headers=[("mqcore.id", (7).to_bytes(8, "big")), ("x", b"y")])
    with store.consumer("t", dedup=True, follow=False) as consumer:
        assert [record.value for record in consumer] == [b"a"] * 5 + [b"b", b"c"]


def test_a_full_window_is_an_error_and_skips_nothing(store: mqcore.Store) -> None:
    store.alter_topic("t", {"mqcore.dedup.max.bytes": 1 << 16})
    with store.producer() as producer:
        producer.send_many("t", [b"%d" % i for i in range(5000)], ids=[uuid.uuid4() for _ in range(5000)])
    with store.consumer("t", dedup=True, follow=False) as consumer:
        for _ in range(2):
            with pytest.raises(WindowFullError):
                list(consumer)
        assert consumer.position(0) == 0
    with pytest.raises(ValueError, match="dedup"):
        store.consumer("t", dedup=-1)
