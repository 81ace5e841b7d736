"""`mqcore txn` tells what is open, also beside the writer, and ends what hangs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mqcore
from mqcore.transactions import admin
from tests.unit.cli.test_store_commands import run


@pytest.fixture
def filled(store_path: Path) -> Path:
    with mqcore.open(str(store_path), durability="os") as store:
        store.create_topic("t", 2)
        with store.transaction("done") as tx:
            tx.send("t", b"x", partition=0)
    return store_path


def test_a_finished_id(filled: Path) -> None:
    (row,) = run("txn", "list", store=filled)
    assert (row["id"], row["state"], row["epoch"], row["partitions"]) == ("done", "COMPLETE_COMMIT", 1, "")
    assert run("txn", "list", "--hanging", store=filled) == []
    (row,) = run("txn", "describe", "done", store=filled)
    assert row["timeout_ms"] == 60_000
    (error,) = run("txn", "describe", "nobody", store=filled, code=1)
    assert "no such transactional id" in str(error)
    assert run("txn", "abort", "done", store=filled) == []


def test_what_is_open_is_seen_beside_the_writer(filled: Path) -> None:
    with mqcore.open(str(filled), durability="os") as store:
        old, new = store.transaction("done"), store.transaction("new")
        old.send("t", b"x", partition=1).result()
        new.send("t", b"x", partition=0).result()
        rows = {row["id"]: row for row in run("txn", "list", store=filled)}
        assert {name: (row["state"], row["partitions"]) for name, row in rows.items()} == {
            "": ("ONGOING", "t-0"),
            "done": ("ONGOING", "t-1"),
        }
        assert rows[""]["producer_id"] == new.producer_id
        run("txn", "abort", "done", store=filled, code=1)  # the writer has it
        old.commit()
        new.abort()
    assert {row["state"] for row in run("txn", "list", store=filled)} <= {"COMPLETE_COMMIT", "COMPLETE_ABORT"}


def test_what_hangs_is_aborted(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that no coordinator knows of: as a crash leaves it, before any open."""
    store = mqcore.open(str(filled), durability="os")
    store.transaction("done").send("t", b"x", partition=1).result()
    image = tmp_path / "image"
    shutil.copytree(filled, image)
    store.close()
    with mqcore.open(str(image), read_only=True) as reader:
        (view,) = [one for one in admin.list_transactions(reader.log) if one.status is admin.Status.ONGOING]
        assert (view.transactional_id, view.partitions) == ("done", (("t", 1),))
        assert admin.hanging(reader.log, [view]) == []
        monkeypatch.setattr(admin, "_GRACE_MS", -10_000_000)
        assert admin.hanging(reader.log, [view]) == [view]
    (row,) = run("txn", "abort", "done", store=image)
    assert row["id"] == "done"
    assert [row["state"] for row in run("txn", "list", store=image)] == ["COMPLETE_ABORT"]
    with mqcore.open(str(image), durability="os") as again:
        assert again.log.partition("t", 1).last_stable_offset == again.end_offsets("t")[1]
