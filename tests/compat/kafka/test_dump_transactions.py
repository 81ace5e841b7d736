"""Kafka's tools read our transactions: the log of decisions with its decoder, and a partition with committed and aborted ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mqcore
from tests.compat.kafka.dump import dump_indexes, dump_logs, dump_raw, dump_with


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Ids a and b: two committed transactions and one aborted one, over two partitions."""
    path = tmp_path / "store"
    config = {"transaction.state.log.num.partitions": 1}
    with mqcore.open(path, durability="os", config=config) as store:
        store.create_topic("t", partitions=2)
        with store.transaction("a") as tx:
            tx.send_many("t", [b"one"] * 3, partition=0)
            tx.send("t", b"one", partition=1)
        tx = store.transaction("b")
        tx.send("t", b"gone", partition=0).result()
        tx.abort()
        with store.transaction("b") as tx:
            tx.send("t", b"two", partition=0)
    return path


def logs(path: Path, name: str) -> list[Path]:
    return sorted((path / "topics" / name).glob("*.log"))


def test_the_log_of_decisions(store_path: Path) -> None:
    dump = dump_with(logs(store_path, "__transaction_state-0"), "--transaction-log-decoder")
    states = re.findall(r"transactionalId[^,]*?=?\"?([ab])\b.*?(?:state|transactionStatus)\"?[=:]\"?(\w+)", dump.text)
    assert not [line for line in dump.complaints if "rror" in line or "xception" in line], dump.complaints
    # Under os the last word of an id comes with its next decision, or at the close: in any order among ids.
    of_each = {name: [state for one, state in states if one == name] for name in "ab"}
    assert len(of_each["a"]) == 2, dump.text
    assert len(of_each["b"]) == 4, dump.text


def test_a_partition_with_committed_and_aborted_transactions(store_path: Path) -> None:
    dump = dump_logs(logs(store_path, "t-0"))
    assert dump.complaints == []
    assert [record.payload for record in dump.records if not record.is_control] == ["one"] * 3 + ["gone", "two"]
    assert re.findall(r"endTxnMarker: (\w+)", dump.text) == ["COMMIT", "ABORT", "COMMIT"]
    assert "isTransactional: true" in dump.text
    indexes = sorted((store_path / "topics" / "t-0").glob("*index"))
    assert dump_indexes(indexes).complaints == []
    (aborted,) = sorted((store_path / "topics" / "t-0").glob("*.txnindex"))
    assert dump_raw([aborted]).index_entries == 1
