"""A state is a dict that transactions change one after the other, kept through closes, and equal to its changelog."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.errors import (
    InvalidTopicError,
    InvalidTransactionStateError,
    MQError,
    RecordTooLargeError,
    StateConflictError,
    StoreClosedError,
)
from mqcore.log.manager import LogStore
from mqcore.state import store as state_store
from tests.support.fake_transactions import FakeTransactions
from tests.support.stores import opened


@pytest.fixture
def states(tmp_path: Path) -> Iterator[FakeTransactions]:
    with opened(tmp_path / "s") as log:
        yield FakeTransactions(log)


def fill(states: FakeTransactions, pairs: dict[bytes, bytes], name: str = "s") -> None:
    with states.transaction() as tx:
        tx.state(name).update(pairs)


# -- one transaction ------------------------------------------------------------------------------------------------


def test_a_transaction_sees_its_own_changes_and_others_only_what_is_committed(states: FakeTransactions) -> None:
    fill(states, {b"a": b"1", b"b": b"2"})
    outside = states.states.state("s")
    with states.transaction() as tx:
        s = tx.state("s")
        s[b"a"] = b"10"
        del s[b"b"]
        s[b"c"] = bytearray(b"3")  # type: ignore[assignment]
        assert (s[b"a"], s.get(b"b"), s.get(b"b", 7), b"c" in s, b"b" in s) == (b"10", None, 7, True, False)
        assert list(s.items()) == [(b"a", b"10"), (b"c", b"3")]
        assert dict(outside.items()) == {b"a": b"1", b"b": b"2"}
    assert dict(outside.items()) == {b"a": b"10", b"c": b"3"}
    assert outside[b"c"] == b"3"
    assert outside.get(b"b") is None
    with pytest.raises(KeyError):
        outside[b"b"]


def test_an_aborted_transaction_leaves_nothing(states: FakeTransactions) -> None:
    fill(states, {b"a": b"1"})
    tx = states.begin()
    tx.state("s")[b"a"] = b"2"
    tx.abort()
    assert dict(states.states.state("s").items()) == {b"a": b"1"}


def test_missing_keys(states: FakeTransactions) -> None:
    with states.transaction() as tx:
        s = tx.state("s")
        with pytest.raises(KeyError):
            s[b"x"]
        with pytest.raises(KeyError):
            del s[b"x"]
        assert s.pop(b"x", b"d") == b"d"
        assert (list(s.items()), list(s)) == ([], [])


def test_after_its_end_a_state_refuses_everything(states: FakeTransactions) -> None:
    with states.transaction() as tx:
        s = tx.state("s")
        s[b"a"] = b"1"
    for call in (
        lambda: s[b"a"],
        lambda: s.get(b"b"),
        lambda: s.__setitem__(b"a", b"2"),
        lambda: s.pop(b"a"),
        lambda: s.update({b"a": b"2"}),
        lambda: list(s.items()),
    ):
        with pytest.raises(InvalidTransactionStateError):
            call()  # type: ignore[no-untyped-call]
    assert states.states.state("s")[b"a"] == b"1"


def test_limits_are_clear_errors_before_anything_changes(states: FakeTransactions) -> None:
    with states.transaction() as tx:
        s = tx.state("s")
        s[b"k" * 480] = b""
        with pytest.raises(RecordTooLargeError, match="limit=480"):
            s[b"k" * 481] = b""
        with pytest.raises(RecordTooLargeError):
            s[b"k"] = bytes(2 << 20)
        with pytest.raises(RecordTooLargeError):
            s.update({b"fine": b"", b"k": bytes(2 << 20)})
        with pytest.raises(TypeError):
            s["k"] = b""  # type: ignore[index]
        with pytest.raises(TypeError):
            s[b"k"] = "text"  # type: ignore[assignment]
        assert list(s) == [b"k" * 480]
        s[b""] = b"the empty key is a key"
        s[b"large"] = bytes((1 << 20) - 200)
    assert list(states.states.state("s")) == [b"", b"k" * 480, b"large"]
    with pytest.raises(InvalidTopicError):
        states.states.state("no/such")
    with pytest.raises(InvalidTopicError):
        states.states.open("no/such", make=True)


def test_a_transaction_larger_than_a_batch_is_several(states: FakeTransactions) -> None:
    pairs = {b"%06d" % i: bytes(100) * (i % 50) for i in range(2000)}
    fill(states, pairs)
    s = states.states.state("s")
    assert dict(s.items()) == pairs
    digest = s.digest()
    s.rebuild()
    assert (dict(s.items()), s.digest()) == (pairs, digest)


# -- ranges ---------------------------------------------------------------------------------------------------------

KEYS = st.binary(max_size=3)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=4), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(CHANGES, st.booleans()), max_size=4),
    CHANGES,
    st.lists(
        st.tuples(KEYS, st.none() | KEYS, KEYS, st.booleans(), st.none() | st.integers(0, 6)), min_size=1, max_size=6
    ),
)
def test_ranges_are_those_of_a_sorted_dict(
    tmp_path_factory: pytest.TempPathFactory,
    committed: list[tuple[dict[bytes, bytes | None], bool]],
    own: dict[bytes, bytes | None],
    ranges: list[tuple[bytes, bytes | None, bytes, bool, int | None]],
) -> None:
    """Changes in memory, being committed and stored lie over each other; each range is asked forwards and backwards."""
    model: dict[bytes, bytes] = {}

    def change(target: object, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                target.pop(key, None)  # type: ignore[attr-defined]
            else:
                target[key] = value  # type: ignore[index]

    with opened(tmp_path_factory.mktemp("s") / "s") as log:
        states = FakeTransactions(log)
        for changes, stored in committed:
            with states.transaction() as tx:
                change(tx.state("s"), changes)
            change(model, changes)
            if stored:
                log.views.commit()
        outside = dict(model)
        with states.transaction() as tx:
            s = tx.state("s")
            change(s, own)
            change(model, own)
            for start, end, prefix, reverse, limit in ranges:
                options = {"prefix": prefix, "reverse": reverse, "limit": limit}
                for found, pairs in ((s, model), (states.states.state("s"), outside)):
                    expected = sorted(
                        (
                            pair
                            for pair in pairs.items()
                            if start <= pair[0] and (end is None or pair[0] < end) and pair[0].startswith(prefix)
                        ),
                        reverse=reverse,
                    )[:limit]
                    assert list(found.items(start, end, **options)) == expected  # type: ignore[attr-defined]


def test_a_long_range_comes_in_pages_with_own_changes_in_between(states: FakeTransactions) -> None:
    pairs = {b"%05d" % i: b"%d" % i for i in range(3500)}
    fill(states, pairs)
    states.log.views.commit()
    with states.transaction() as tx:
        s = tx.state("s")
        for i in range(0, 3500, 7):
            del s[b"%05d" % i]
            del pairs[b"%05d" % i]
        s[b"01000x"] = pairs[b"01000x"] = b"new"
        for reverse in (False, True):
            assert list(s.items(reverse=reverse)) == sorted(pairs.items(), reverse=reverse)
        assert list(s.items(b"00999", limit=4)) == sorted(pairs.items())[sorted(pairs).index(b"00999") :][:4]


# -- conflicts ------------------------------------------------------------------------------------------------------


def test_the_second_of_two_that_touch_one_key_loses(states: FakeTransactions) -> None:
    fill(states, {b"a": b"1", b"b": b"1"})
    for look in ("read", "write", "absent"):
        first, second = states.begin(), states.begin()
        s = second.state("s")
        if look == "read":
            s[b"a"]
            s[b"other"] = b""
        elif look == "write":
            s[b"a"] = b"blind"
        else:
            s.get(b"new")
        f = first.state("s")
        f[b"a"], f[b"new"] = b"2", b"2"
        first.commit()
        with pytest.raises(StateConflictError):
            second.commit()
        assert states.states.state("s")[b"a"] == b"2"
        fill(states, {b"a": b"1"})
        with states.transaction() as tx:
            del tx.state("s")[b"new"]


@pytest.mark.parametrize(
    ("key", "limit", "reverse", "conflict"),
    [
        (b"b", None, False, True),
        (b"z", None, False, False),
        (b"b", 2, False, True),
        (b"d", 2, False, False),
        (b"f", 2, True, True),
        (b"d", 2, True, False),
    ],
)
def test_a_key_that_appears_in_a_range_that_was_read_is_a_conflict(
    states: FakeTransactions, key: bytes, limit: int | None, reverse: bool, conflict: bool
) -> None:
    """A limit ends the range at the last pair that was seen."""
    fill(states, {b"a": b"", b"c": b"", b"e": b"", b"g": b""})
    first, second = states.begin(), states.begin()
    assert len(list(second.state("s").items(b"a", b"h", reverse=reverse, limit=limit))) == (limit or 4)
    second.state("s")[b"out of it"] = b""
    first.state("s")[key] = b"x"
    first.commit()
    if conflict:
        with pytest.raises(StateConflictError):
            second.commit()
    else:
        second.commit()


def test_transactions_that_touch_other_keys_both_commit(states: FakeTransactions) -> None:
    first, second = states.begin(), states.begin()
    for tx, key in ((first, b"a"), (second, b"b")):
        s = tx.state("s")
        s[key] = s.get(key, b"") + b"x"
    second.commit()
    first.commit()
    assert dict(states.states.state("s").items()) == {b"a": b"x", b"b": b"x"}


def test_a_transaction_never_sees_two_moments(states: FakeTransactions) -> None:
    """Opacity: it would compute with a sum that never was, even if the commit refuses it afterwards."""
    fill(states, {b"a": b"1", b"b": b"1", b"c": b"0"})
    tx = states.begin()
    assert tx.state("s")[b"a"] == b"1"
    fill(states, {b"c": b"5"})  # nothing that it read: it goes on, and sees it
    assert tx.state("s")[b"c"] == b"5"
    fill(states, {b"a": b"0", b"b": b"2"})
    with pytest.raises(StateConflictError):
        tx.state("s")[b"b"]
    with pytest.raises(StateConflictError):
        tx.commit()


def test_an_append_that_is_not_durable_yet_is_no_state_and_a_conflict(
    states: FakeTransactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "COMMIT_WAIT_S", 0.01)
    fill(states, {b"a": b"1"})
    first, second = states.begin(), states.begin()
    first.state("s")[b"a"] = b"2"
    first.prepare()
    assert second.state("s")[b"a"] == b"1"
    assert states.states.state("s")[b"a"] == b"1"
    second.state("s")[b"b"] = b""
    with pytest.raises(StateConflictError):
        second.commit()
    first.finish()
    assert states.states.state("s")[b"a"] == b"2"


def test_a_read_waits_for_a_commit_that_changes_its_key(states: FakeTransactions) -> None:
    fill(states, {b"a": b"1"})
    first, second = states.begin(), states.begin()
    first.state("s")[b"a"] = b"2"
    first.prepare()
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(second.state("s")[b"a"]))
    thread.start()
    first.finish()
    thread.join()
    assert found == [b"2"]
    second.commit()


def test_commits_show_in_the_order_of_the_log_whoever_tells_first(states: FakeTransactions) -> None:
    """The later one's thread may be the first to hear that both are durable."""
    first, second = states.begin(), states.begin()
    first.state("s")[b"a"] = b"1"
    second.state("s")[b"b"] = b"2"
    first.prepare()
    second.prepare()
    second.finish()
    assert states.states.state("s")[b"b"] == b"2"  # its own commit has returned
    assert states.states.state("s")[b"a"] == b"1"  # durable before it
    first.finish()
    with states.transaction() as tx:
        assert dict(tx.state("s").items()) == {b"a": b"1", b"b": b"2"}
    fill(states, {b"a": b"3"})
    assert states.states.state("s")[b"a"] == b"3"


def test_what_is_remembered_for_comparison_is_bounded(
    states: FakeTransactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "REMEMBERED_BYTES_MAX", 500)
    old = states.begin()
    old.state("s")[b"mine"] = b""
    for i in range(20):
        fill(states, {b"k%d" % i: bytes(100)})
    store = states.states.open("s", make=False)
    assert store._remembered_bytes <= 500
    with pytest.raises(StateConflictError, match="too old"):
        old.commit()
    fill(states, {b"k": b""})
    assert (len(store._remembered), store._remembered_bytes) == (0, 0)


def test_money_is_conserved_at_every_snapshot_under_concurrent_transfers(states: FakeTransactions) -> None:
    """I19, the bank: threads move money with retries; snapshots, scans in transactions and the end agree on the sum."""
    accounts, per_account = 8, 100
    fill(states, {b"%d" % i: b"%d" % per_account for i in range(accounts)})
    total, done, errors = accounts * per_account, threading.Event(), []

    def move(seed: int) -> None:
        rng = random.Random(seed)
        moved = 0
        while moved < 60:
            source, target = rng.sample(range(accounts), 2)
            try:
                with states.transaction() as tx:
                    s = tx.state("s")
                    have = int(s[b"%d" % source])
                    amount = rng.randint(0, have)
                    s[b"%d" % source] = b"%d" % (have - amount)
                    s[b"%d" % target] = b"%d" % (int(s[b"%d" % target]) + amount)
                moved += 1
            except StateConflictError:
                pass

    def watch() -> None:
        while not done.is_set():
            with states.states.state("s").snapshot() as snapshot:
                sums = [sum(int(value) for _, value in snapshot.items()) for _ in range(2)]
            try:
                with states.transaction() as tx:
                    sums.append(sum(int(value) for _, value in tx.state("s").items()))
                    sums.append(sum(int(tx.state("s")[b"%d" % i]) for i in range(accounts)))
            except StateConflictError:
                pass
            if set(sums) != {total}:
                errors.append(sums)
            states.log.views.commit()

    movers = [threading.Thread(target=move, args=(seed,)) for seed in range(4)]
    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for thread in movers + watchers:
        thread.start()
    for thread in movers:
        thread.join()
    done.set()
    for thread in watchers:
        thread.join()
    assert errors == []
    s = states.states.state("s")
    assert sum(int(value) for _, value in s.items()) == total
    digest = s.digest()
    s.rebuild()
    assert s.digest() == digest


# -- snapshots, reopen ----------------------------------------------------------------------------------------------


def test_a_snapshot_does_not_change(states: FakeTransactions) -> None:
    pairs = {b"%04d" % i: b"1" for i in range(2500)}
    fill(states, pairs)
    states.log.views.commit()
    fill(states, {b"0001": b"pending"})
    s = states.states.state("s")
    with s.snapshot() as snapshot:
        before = list(snapshot.items())
        walk = snapshot.items(reverse=True)
        next(walk)
        fill(states, {b"0001": b"2", b"0002": b"2", b"x": b"2"})
        states.log.views.commit()
        fill(states, {b"0001": b"3"})
        assert list(snapshot.items()) == before
        assert (snapshot[b"0001"], snapshot[b"0002"], snapshot.get(b"x")) == (b"pending", b"1", None)
        assert sum(1 for _ in walk) == 2499
        assert snapshot.digest() != s.digest()
    with pytest.raises(StoreClosedError):
        next(snapshot.items())


def test_a_snapshots_time_ends(states: FakeTransactions) -> None:
    fill(states, {b"a": b"1"})
    states.log.views.commit()
    snapshot = states.states.state("s").snapshot(max_age_s=-1.0)
    fill(states, {b"a": b"2"})
    states.log.views.commit()
    with pytest.raises(StoreClosedError):
        list(snapshot.items())
    assert states.states.state("s")[b"a"] == b"2"


def test_reading_makes_nothing(states: FakeTransactions) -> None:
    s = states.states.state("never")
    assert (list(s.items()), s.get(b"a"), b"a" in s) == ([], None, False)
    with s.snapshot() as snapshot:
        assert (list(snapshot.items()), snapshot.get(b"a")) == ([], None)
    assert states.states.names() == []
    fill(states, {b"a": b"1"}, "never")
    assert s[b"a"] == b"1"
    assert states.states.names() == ["never"]
    assert states.log.topics() == {}


def test_a_reopened_store_has_the_same_state(tmp_path: Path) -> None:
    pairs = {b"%03d" % i: b"v%d" % i for i in range(300)}
    with opened(tmp_path / "s") as log:
        states = FakeTransactions(log)
        fill(states, pairs)
        log.views.commit()
        with states.transaction() as tx:
            del tx.state("s")[b"007"]
        del pairs[b"007"]
        digest = states.states.state("s").digest()
    with opened(tmp_path / "s") as log:
        s = FakeTransactions(log).states.state("s")
        assert (dict(s.items()), s.digest()) == (pairs, digest)
    with LogStore.open(tmp_path / "s", read_only=True) as log:
        s = FakeTransactions(log).states.state("s")
        assert (s[b"008"], s.digest()) == (b"v8", digest)
    with pytest.raises(StoreClosedError):
        s[b"008"]


def test_a_reader_beside_the_writer_follows(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as log, LogStore.open(tmp_path / "s", read_only=True) as reading:
        states = FakeTransactions(log)
        fill(states, {b"a": b"1"})
        s = FakeTransactions(reading).states.state("s")
        assert dict(s.items()) == {b"a": b"1"}
        fill(states, {b"a": b"2"})
        assert s[b"a"] == b"2"


def test_the_digest_is_of_the_pairs_alone(states: FakeTransactions) -> None:
    fill(states, {b"a": b"1", b"b": b"2"}, "one")
    fill(states, {b"b": b"2"}, "two")
    fill(states, {b"a": b"0"}, "two")
    states.log.views.commit()
    fill(states, {b"a": b"1"}, "two")
    assert states.states.state("one").digest() == states.states.state("two").digest()
    fill(states, {b"a": b"12", b"b": b""}, "two")
    assert states.states.state("one").digest() != states.states.state("two").digest()


def test_every_error_is_one_of_ours_with_one_kind() -> None:
    assert issubclass(StateConflictError, MQError)
    assert StateConflictError.aborts_transaction
