"""Transactional ids are bounded: those that nobody uses are forgotten, in memory and in the log, and only those."""

from __future__ import annotations

from pathlib import Path

import mqcore
from mqcore.clock import ManualClock
from mqcore.log.internal_topics import partition_of
from mqcore.transactions import log as transaction_log
from mqcore.transactions.coordinator import EXPIRY_S
from mqcore.transactions.log import TransactionLog

DAY_MS = 86_400_000


def known(store: mqcore.Store) -> set[str]:
    return {name for log in TransactionLog(store.log).logs() for name in transaction_log.read(log)}


def use(store: mqcore.Store, name: str) -> None:
    with store.transaction(name) as tx:
        tx.send("t", name.encode())


def test_partitions_go_by_javas_hash() -> None:
    assert partition_of("teller-1", 50) == abs(-1354064318) % 50  # "teller-1".hashCode()
    assert partition_of("polygenelubricants", 50) == 0  # Integer.MIN_VALUE, of which Kafka's abs is 0
    assert partition_of("", 50) == 0


def test_ids_that_nobody_uses_expire(tmp_path: Path) -> None:
    clock = ManualClock()
    config = {"transactional.id.expiration.ms": DAY_MS, "transaction.state.log.num.partitions": 3}
    with mqcore.open(tmp_path / "store", durability="os", clock=clock, config=config) as store:
        store.create_topic("t")
        for number in range(50):
            use(store, f"old-{number}")
        kept = store.transaction("running", timeout_s=900)
        for _ in range(4):  # the guarded clock follows in steps
            clock.advance(DAY_MS / 3000)
            use(store, "busy")
            store.log.maintain()
        clock.advance(EXPIRY_S)
        store.log.maintain()
        assert known(store) == {"busy"}
        assert set(store.broker.transactions._ids) == {"busy", "running"}
        kept.abort()
        use(store, "old-7")
        assert known(store) == {"busy", "old-7"}
    with mqcore.open(tmp_path / "store", durability="os", clock=clock) as store:
        use(store, "old-7")
        use(store, "old-8")
        assert known(store) == {"busy", "old-7", "old-8"}


def test_a_used_id_survives_the_look_that_meets_it(tmp_path: Path) -> None:
    clock = ManualClock()
    with mqcore.open(tmp_path / "store", durability="os", clock=clock) as store:
        store.create_topic("t")
        use(store, "a")
        clock.advance(10)
        transactions = store.broker.transactions
        tx = store.transaction("a")
        tx.send("t", b"x")
        assert transactions.expire(clock.wall_ms()) == 0
        tx.commit()
        assert transactions.expire(clock.wall_ms()) == 0
        clock.advance(10)
        assert transactions.expire(clock.wall_ms()) == 1
        assert known(store) == set()
