"""States in the coordinator's transactions: aborts leave nothing, kills leave what was acknowledged, sums are conserved."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import mqcore
from mqcore.errors import StateConflictError

ACCOUNTS, EACH = 8, 100


@pytest.fixture(params=["os", "fsync"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with mqcore.open(tmp_path / "s", durability=request.param) as store:
        with store.transaction("open") as tx:
            tx.state("bank").update({b"%d" % i: b"%d" % EACH for i in range(ACCOUNTS)})
        yield store


def total(pairs: Any) -> int:
    return sum(int(value) for _, value in pairs)


def check(path: Path, durability: str) -> dict[bytes, bytes]:
    """The state after an open; compared with a rebuild (I18)."""
    with mqcore.open(path, durability=durability) as store:
        state = store.state("bank")
        pairs, digest = dict(state.items()), state.digest()
        state.rebuild()
        assert (dict(state.items()), state.digest()) == (pairs, digest)
        return pairs


def test_what_is_appended_and_then_aborted_is_never_state(store: mqcore.Store, tmp_path: Path) -> None:
    """The second state's conflict aborts the transaction after the first state's changes are in its changelog."""
    before = dict(store.state("bank").items())
    for turn in range(3):
        end = store.log.partition("__state.bank", 0).log_end_offset
        with store.transaction("loser") as tx:
            tx.state("bank")[b"0"] = b"never"
            tx.state("other").get(b"k")
            with store.transaction("winner") as first:
                first.state("other")[b"k"] = b"%d" % turn
            with pytest.raises(StateConflictError):
                tx.commit()
        assert store.log.partition("__state.bank", 0).log_end_offset > end
        assert dict(store.state("bank").items()) == before
    with store.transaction("next") as tx:
        assert dict(tx.state("bank").items()) == before
        tx.state("bank")[b"1"] = before[b"1"] = b"7"
    assert dict(store.state("bank").items()) == before
    store.state("bank").rebuild()
    assert dict(store.state("bank").items()) == before
    shutil.copytree(store.path, tmp_path / "killed")
    assert check(tmp_path / "killed", str(store.durability)) == before


def test_money_is_conserved_beside_aborts_rebuilds_and_commits_of_the_view(store: mqcore.Store) -> None:
    """I19."""
    errors: list[Any] = []
    done = threading.Event()

    def move(seed: int) -> None:
        rng, moved = random.Random(seed), 0
        while moved < 40:
            source, target = (b"%d" % i for i in rng.sample(range(ACCOUNTS), 2))
            try:
                with store.transaction(f"teller-{seed}") as tx:
                    bank = tx.state("bank")
                    amount = rng.randint(0, int(bank[source]))
                    bank[source] = b"%d" % (int(bank[source]) - amount)
                    bank[target] = b"%d" % (int(bank[target]) + amount)
                    if rng.random() < 0.2:
                        raise ZeroDivisionError
                moved += 1
            except (StateConflictError, ZeroDivisionError):
                pass
            except BaseException as error:
                errors.append(error)
                raise

    def watch() -> None:
        while not done.is_set():
            sums = [total(store.state("bank").items())]
            try:
                with store.transaction("auditor") as tx:
                    sums.append(total(tx.state("bank").items()))
            except StateConflictError:
                pass
            store.log.views.commit()
            store.state("bank").rebuild()
            if set(sums) != {ACCOUNTS * EACH}:
                errors.append(sums)

    threads = [threading.Thread(target=move, args=(seed,)) for seed in range(4)]
    watcher = threading.Thread(target=watch)
    for thread in [*threads, watcher]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert errors == []


WORKER = """
import random, sys, mqcore
rng = random.Random(int(sys.argv[3]))
store = mqcore.open(sys.argv[1], durability=sys.argv[2], config={"maintenance.interval.ms": 5})
while True:
    with store.transaction("teller") as tx:
        bank = tx.state("bank")
        source, target = (b"%d" % i for i in rng.sample(range(8), 2))
        amount = rng.randint(0, int(bank[source]))
        bank[source] = b"%d" % (int(bank[source]) - amount)
        bank[target] = b"%d" % (int(bank[target]) + amount)
        count = int(tx.state("count").get(b"n", b"0")) + 1
        tx.state("count")[b"n"] = b"%d" % count
    print(count, flush=True)
"""


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_two_states_of_one_transaction_survive_kills_together(tmp_path: Path, durability: str) -> None:
    path, rng, acknowledged = tmp_path / "s", random.Random(5), 0
    with mqcore.open(path, durability=durability) as store, store.transaction("open") as tx:
        tx.state("bank").update({b"%d" % i: b"%d" % EACH for i in range(ACCOUNTS)})
    for turn in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, str(path), durability, str(turn)], stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        for _ in range(rng.randint(1, 150)):
            acknowledged = int(worker.stdout.readline())
        worker.send_signal(signal.SIGKILL)
        told = worker.stdout.read().split(b"\n")[:-1]
        acknowledged = int(told[-1]) if told else acknowledged
        worker.wait()
        assert total(check(path, durability).items()) == ACCOUNTS * EACH
        with mqcore.open(path, durability=durability) as store:
            count = int(store.state("count")[b"n"])
        assert acknowledged <= count <= acknowledged + 1


def test_an_id_is_found_behind_an_open_transaction(store: mqcore.Store) -> None:
    """Its partition's last stable offset stands still, and the window must not take that for absence."""
    store.create_topic("t", config={"mqcore.dedup.window.ms": 3_600_000})
    ids = mqcore.Snowflake(1).batch(20)
    with store.producer() as producer, store.transaction("slow") as tx:
        producer.send_many("t", [b"v"] * 10, ids=ids[:10]).result()
        tx.send("t", b"open").result()
        producer.send_many("t", [b"v"] * 10, ids=ids[10:]).result()
        log = store.log.partition("t", 0)
        assert log.last_stable_offset < log.high_watermark
        for _ in range(2):
            again = producer.send_many("t", [b"v"] * 20, ids=ids)
            assert again.duplicates.all()
            again.result()
    with store.consumer("t", follow=False) as consumer:
        assert [record.value for record in consumer].count(b"v") == 20
