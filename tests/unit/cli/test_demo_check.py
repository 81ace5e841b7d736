"""The demo's judge sees each kind of harm: a receipt that is missing, doubled or late, a total that is off."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mqcore
from mqcore.cli import demo_kills
from mqcore.cli.demo_check import Verdict, check, out_of_order
from mqcore.cli.demo_load import Totals
from mqcore.cli.demo_worker import Plan, state_key
from mqcore.errors import InvariantError

TRUTH: Totals = {b"UA": (12, 36), b"AA": (8, 24)}
Receipts = list[bytes]
Harm = Callable[[Receipts], Receipts]


def made_by_hand(path: Path, harm: Harm = lambda receipts: receipts, total: int = 36) -> Plan:
    """A store as a pipeline over two source partitions of ten events leaves it, but for the harm."""
    plan = Plan(str(path), "os", "events", "exactly_once", "hand", "event")
    with mqcore.open(path, durability="os") as store:
        store.create_topic(plan.source, partitions=2)
        store.create_topic(plan.receipts, partitions=1)
        with store.producer() as producer:
            for partition in range(2):
                producer.send_many(plan.source, [b"x"] * 10, partition=partition)
            producer.send_many(plan.receipts, harm([b"%d:%d:1:1:UA" % (p, n) for n in range(10) for p in range(2)]))
        with store.transaction("by-hand") as tx:
            state = tx.state(plan.name)
            state[state_key(b"UA", 0)], state[state_key(b"UA", 1)] = b"7 21", b"5 %d" % (total - 21)
            state[state_key(b"AA", 1)] = b"8 24"
    return plan


def judged(plan: Plan) -> Verdict:
    with mqcore.open(plan.store, durability="os") as store:
        return check(store, plan, TRUTH, quiet=True)


def test_a_whole_run_is_exact(tmp_path: Path) -> None:
    verdict = judged(made_by_hand(tmp_path / "s"))
    assert verdict == Verdict(out=20, state_equal=True)
    assert verdict.is_exact


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda all_: all_[:7] + all_[8:], Verdict(out=19, lost=1, state_equal=True)),
        (lambda all_: [*all_, all_[3]], Verdict(out=21, duplicated=1, state_equal=True)),
        (lambda all_: [*all_[2:], *all_[:2]], Verdict(out=20, out_of_order=2, state_equal=True)),
    ],
    ids=["lost", "duplicated", "out of order"],
)
def test_each_harm_to_receipts_is_counted(tmp_path: Path, harm: Harm, expected: Verdict) -> None:
    verdict = judged(made_by_hand(tmp_path / "s", harm))
    assert verdict == expected
    assert not verdict.is_exact


def test_a_wrong_total_is_seen(tmp_path: Path) -> None:
    verdict = judged(made_by_hand(tmp_path / "s", total=37))
    assert not verdict.state_equal
    assert not verdict.is_exact


def test_a_receipt_for_nothing_is_an_error(tmp_path: Path) -> None:
    plan = made_by_hand(tmp_path / "s", lambda all_: [*all_, b"1:10:1:1:UA"])
    with pytest.raises(InvariantError, match="never was"):
        judged(plan)


def test_repeats_do_not_count_as_disorder() -> None:
    first = np.array([0, 10])
    assert out_of_order(np.array([0, 10, 1, 11, 0, 1, 2, 10, 12]), first) == 0
    assert out_of_order(np.array([1, 10, 0, 11]), first) == 1
    assert out_of_order(np.array([], np.int64), first) == 0


def test_a_worker_that_fails_by_itself_is_told(tmp_path: Path) -> None:
    plan = made_by_hand(tmp_path / "s")
    broken = Plan(plan.store, "os", "no-such-topic", "exactly_once", "hand", "event")
    with pytest.raises(InvariantError, match="worker failed") as caught:
        demo_kills.run(broken, total=20, kills=0, rng=random.Random(1), quiet=True)
    assert "UnknownTopicError" in str(caught.value.where["stderr"])
