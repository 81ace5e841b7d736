"""After a kill at any step a state is the fold of its changelog, with every acknowledged change and no half of any."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mqcore.log.manager import LogStore
from tests.support.fake_transactions import FakeTransactions
from tests.support.stores import opened

ACCOUNTS, EACH = 10, 50  # as WORKER has them


def image_of(log: LogStore, path: Path) -> Path:
    """The directory as a kill -9 at this moment leaves it; the store goes on."""
    with log._lock:  # no step of maintenance: it would rename files under the copy
        shutil.copytree(log.path, path, symlinks=True)
    return path


def fold(log: LogStore) -> dict[bytes, bytes]:
    """What a plain dict makes of the changelog: a second way to the same state."""
    from mqcore.log.internal_records import read_records

    found: dict[bytes, bytes] = {}
    for record in read_records(log.partition("__state.s", 0), 0):
        assert record.key is not None
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = record.value
    return found


def check(path: Path) -> dict[bytes, bytes]:
    """Open the store; the state, after it was compared with the fold and with a rebuild."""
    with opened(path) as log:
        state = FakeTransactions(log).states.state("s")
        pairs, digest = dict(state.items()), state.digest()
        assert pairs == fold(log)
        state.rebuild()
        assert (dict(state.items()), state.digest()) == (pairs, digest)
        return pairs


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_step_leaves_what_was_acknowledged(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    images: list[tuple[Path, dict[bytes, bytes], dict[bytes, bytes]]] = []
    acknowledged: dict[bytes, bytes] = {}
    with opened(tmp_path / "s") as log:
        states = FakeTransactions(log)
        for step in range(30):
            after = dict(acknowledged)
            tx = states.begin()
            for _ in range(rng.randint(1, 40)):
                key = b"%03d" % rng.randrange(60)
                if rng.random() < 0.3:
                    tx.state("s").pop(key)
                    after.pop(key, None)
                else:
                    tx.state("s")[key] = after[key] = rng.randbytes(rng.randrange(30))
            if rng.random() < 0.3:
                log.views.commit()
            for point in ("before", "between", "after"):
                if rng.random() < 0.1:
                    images.append((image_of(log, tmp_path / f"{step}{point}"), dict(acknowledged), after))
                if point == "before":
                    tx.prepare()
                elif point == "between":
                    tx.finish()
                    acknowledged = after
    assert check(tmp_path / "s") == acknowledged
    for image, least, most in images:
        if (image / "topics").exists() and any((image / "topics").glob("__state.s-0")):
            assert check(image) in (least, most)


def test_a_view_behind_or_ahead_of_its_log_is_made_right(tmp_path: Path) -> None:
    """The views' file of one moment beside the logs of another, both ways round."""
    images, models = [], []
    with opened(tmp_path / "s") as log:
        states = FakeTransactions(log)
        model: dict[bytes, bytes] = {}
        for turn in range(3):
            with states.transaction() as tx:
                for i in range(turn, 50, turn + 1):
                    tx.state("s")[b"%d" % i] = model[b"%d" % i] = b"%d" % turn
                if turn:
                    del tx.state("s")[b"%d" % (10 + turn)]
                    del model[b"%d" % (10 + turn)]
            log.views.commit()
            images.append(image_of(log, tmp_path / str(turn)))
            models.append(dict(model))
    for logs, views in ((0, 2), (2, 0), (1, 2), (0, 1)):
        mixed = shutil.copytree(images[logs], tmp_path / f"{logs}with{views}")
        shutil.rmtree(mixed / "views")
        shutil.copytree(images[views] / "views", mixed / "views")
        assert check(mixed) == models[logs]


WORKER = """
import random, sys
from mqcore.log.manager import LogStore
from tests.support.fake_transactions import FakeTransactions
path, durability, seed = sys.argv[1:]
rng = random.Random(int(seed))
states = FakeTransactions(LogStore.open(path, durability=durability, config={"maintenance.interval.ms": 5}))
with states.transaction() as tx:
    state = tx.state("s")
    if not len(list(state)):
        state.update({b"%d" % i: b"50" for i in range(10)})
        state[b"moved"] = b"0"
while True:
    with states.transaction() as tx:
        state = tx.state("s")
        source, target = rng.sample(range(10), 2)
        amount = rng.randint(0, int(state[b"%d" % source]))
        state[b"%d" % source] = b"%d" % (int(state[b"%d" % source]) - amount)
        state[b"%d" % target] = b"%d" % (int(state[b"%d" % target]) + amount)
        moved = int(state[b"moved"]) + 1
        state[b"moved"] = b"%d" % moved
    print(moved, flush=True)
"""


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_money_is_conserved_through_kills_of_the_process(tmp_path: Path, durability: str) -> None:
    """I18 and I19: kill -9 at random moments; what was acknowledged is there, and the sum is what it was."""
    rng, acknowledged = random.Random(7), 0
    for turn in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "s"), durability, str(turn)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[3],
        )
        assert worker.stdout is not None
        for _ in range(rng.randint(1, 300)):
            acknowledged = int(worker.stdout.readline())
        worker.send_signal(signal.SIGKILL)
        told = worker.stdout.read().split(b"\n")[:-1]
        acknowledged = int(told[-1]) if told else acknowledged
        worker.wait()
        pairs = check(tmp_path / "s")
        moved = int(pairs.pop(b"moved"))
        assert acknowledged <= moved <= acknowledged + 1
        assert sum(int(value) for value in pairs.values()) == ACCOUNTS * EACH
        acknowledged = moved
