"""A view equals the fold of its log's durable records: whatever is committed, crashed, lost, flipped or rebuilt."""

from __future__ import annotations

import shutil
import tempfile
import threading
import uuid
from pathlib import Path

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mqcore._native.io import FaultyIo, Io
from mqcore.errors import StorageError, StoreClosedError, StoreFormatError
from mqcore.log import view_tables, views
from mqcore.log.internal_records import InternalRecord
from mqcore.log.views import Change, Lookup, View, ViewEnvironment
from tests.support.fake_log import FakeLog

MAP_BYTES = 1 << 30


def latest(record: InternalRecord, _: Lookup) -> list[Change]:
    return [] if record.key is None else [(record.key, record.value)]


def environment(path: Path, **options: object) -> ViewEnvironment:
    path.mkdir(exist_ok=True)
    return ViewEnvironment(Io(), str(path), map_bytes=MAP_BYTES, **options)  # type: ignore[arg-type]


def view(env: ViewEnvironment, log: FakeLog, name: str = "v") -> View:
    return View(env, name, log, latest, records=log.iterate)


def filled(path: Path, pairs: int = 50, *, clean: bool = True) -> FakeLog:
    """A stored view over a log of so many pairs, closed."""
    log, env = FakeLog(), environment(path)
    v = view(env, log)
    for i in range(pairs):
        log.put(b"k%d" % i, b"v%d" % i * 10)
    v.catch_up()
    env.commit()
    if clean:
        env.close()
    else:
        env.abandon()
    return log


def reopened(path: Path, log: FakeLog) -> tuple[ViewEnvironment, View]:
    env = environment(path)
    v = view(env, log)
    v.catch_up()
    return env, v


# -- what a clean and an unclean close leave ------------------------------------------------------------------------


def test_a_clean_close_is_gone_on_from(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.put(b"k0", None)
    log.put(b"new", b"1")
    env = environment(tmp_path)
    v = view(env, log)
    assert v.position.offset == 50
    assert v.catch_up() == 2
    assert dict(v.items()) == log.fold()
    assert env.problems == []
    env.close()
    env.close()


def test_an_unclean_close_is_walked_and_gone_on_from(tmp_path: Path) -> None:
    log = filled(tmp_path, clean=False)
    env = environment(tmp_path)
    v = view(env, log)
    assert (v.position.offset, env.problems) == (50, [])
    env.close()


def test_a_file_too_large_to_walk_is_rebuilt(tmp_path: Path) -> None:
    log = filled(tmp_path, clean=False)
    env = environment(tmp_path, verify_bytes=100)
    v = view(env, log)
    assert v.position.offset == 0
    assert "too many to walk" in env.problems[0]
    v.catch_up()
    assert dict(v.items()) == log.fold()
    env.close()


def test_without_the_walker_what_was_not_closed_cleanly_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """py-lmdb before 3 has no `verify`: then time is spent, nothing is believed."""
    log = filled(tmp_path, clean=False)
    monkeypatch.setattr(view_tables, "lmdb_verify", None)
    env, v = reopened(tmp_path, log)
    assert len(env.problems) == 1
    assert dict(v.items()) == log.fold()
    env.close()
    env, v = reopened(tmp_path, log)
    assert env.problems == []
    env.close()


def test_the_mark_of_a_clean_close_is_gone_before_the_first_write(tmp_path: Path) -> None:
    filled(tmp_path)
    assert (tmp_path / "clean").exists()
    env = environment(tmp_path)
    assert not (tmp_path / "clean").exists()
    env.abandon()


def test_what_was_not_committed_is_folded_again(tmp_path: Path) -> None:
    log, env = FakeLog(), environment(tmp_path)
    v = view(env, log)
    log.put(b"a", b"1")
    v.catch_up()
    env.commit()
    log.put(b"a", b"2")
    v.catch_up()
    assert v.get(b"a") == b"2"
    env.abandon()
    env, v = reopened(tmp_path, log)
    assert v.get(b"a") == b"2"
    env.close()


# -- ahead of the log (I5), other logs ------------------------------------------------------------------------------


@pytest.mark.parametrize("grown_again", [False, True])
def test_a_view_ahead_of_its_log_is_rebuilt(tmp_path: Path, grown_again: bool) -> None:
    log = filled(tmp_path)
    log.lose_tail(30)
    for i in range(40 * grown_again):
        log.put(b"other%d" % i, b"")
    env, v = reopened(tmp_path, log)
    assert len(env.problems) == 1
    assert ("later epoch" if grown_again else "ahead of the log") in env.problems[0]
    assert dict(v.items()) == log.fold()
    env.close()


def test_a_view_of_another_topic_of_that_name_is_rebuilt(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.topic_id = uuid.uuid4()
    env, v = reopened(tmp_path, log)
    assert "topic id" in env.problems[0]
    assert dict(v.items()) == log.fold()
    env.close()


def test_a_view_older_than_the_tombstones_is_rebuilt(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.put(b"more", b"")
    log.cleaned = 51  # type: ignore[attr-defined]
    env, _ = reopened(tmp_path, log)
    assert "tombstones" in env.problems[0]
    env.close()


def test_only_durable_records_are_applied(tmp_path: Path) -> None:
    log, env = FakeLog(durable=0), environment(tmp_path)
    v = view(env, log)
    log.put(b"a", b"1")
    assert v.catch_up() == 0
    assert v.get(b"a") is None
    log.wait_durable(1)
    assert v.catch_up() == 1
    assert v.get(b"a") == b"1"
    env.close()


# -- damage ---------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_the_file_is_found_or_harmless(tmp_path: Path) -> None:
    """T5 for views: one bit of each byte that holds something (others by stride), after a clean close and a crash."""
    log = filled(tmp_path / "good", pairs=8)
    data = (tmp_path / "good" / "data.mdb").read_bytes()
    places = [i for i in range(len(data)) if data[i]] + list(range(0, len(data), 97))
    work = tmp_path / "work"
    work.mkdir()
    for number, place in enumerate(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << number % 8
        (work / "data.mdb").write_bytes(flipped)
        if number % 2:
            shutil.copy(tmp_path / "good" / "clean", work / "clean")
        env, v = reopened(work, log)
        assert dict(v.items()) == log.fold(), place
        assert env.problems or not number % 2, "a clean close vouches for every byte"
        env.abandon()
        for file in work.iterdir():
            file.unlink()


def test_a_truncated_or_empty_file_is_rebuilt(tmp_path: Path) -> None:
    log = filled(tmp_path)
    data = (tmp_path / "data.mdb").read_bytes()
    for size in (0, 1, 100, 4096, 8192, len(data) - 1):
        (tmp_path / "data.mdb").write_bytes(data[:size])
        (tmp_path / "clean").unlink(missing_ok=True)
        env, v = reopened(tmp_path, log)
        assert env.problems
        assert dict(v.items()) == log.fold()
        env.abandon()


def test_a_value_that_rots_under_an_open_view_is_rebuilt_for_the_reader_who_finds_it(tmp_path: Path) -> None:
    log, env = FakeLog(), environment(tmp_path)
    v = view(env, log)
    for i in range(20):
        log.put(b"k%d" % i, b"v")
    v.catch_up()
    env.commit()
    assert isinstance(env.tables, view_tables.LmdbTables)
    rot(env.tables._env, b"k7")
    assert v.get(b"k7") == b"v"
    assert "rebuilt" in env.problems[0]
    rot(env.tables._env, b"k7")
    assert dict(v.items()) == log.fold()
    env.close()


def rot(env: lmdb.Environment, key: bytes) -> None:
    with env.begin(write=True) as txn:
        for stored, value in txn.cursor():
            if bytes(stored).endswith(key):
                txn.put(stored, value[:-1] + bytes([value[-1] ^ 4]))


def test_a_stored_position_that_rots_costs_a_rebuild(tmp_path: Path) -> None:
    log = filled(tmp_path)
    env = lmdb.open(str(tmp_path), map_size=MAP_BYTES, lib_version=0)
    rot(env, b"\1\0\0\0\1")
    env.close()
    (tmp_path / "clean").unlink()
    env2, v = reopened(tmp_path, log)
    assert "checksum" in env2.problems[0]
    assert dict(v.items()) == log.fold()
    env2.close()


def test_links_in_place_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "data.mdb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFormatError):
        environment(tmp_path / "v")


# -- keys, reads, memory --------------------------------------------------------------------------------------------


def test_long_keys_and_prefixes(tmp_path: Path) -> None:
    log, env = FakeLog(), environment(tmp_path)
    v, other = view(env, log), view(env, FakeLog(), "other")
    keys = [b"", b"a", b"ab", b"ab" + b"x" * 478, b"ab" + b"x" * 479, b"ab" + b"y" * 5000, b"b", b"\xff" * 600]
    for key in keys:
        log.put(key, b"value of " + key[:3])
    for committed in (False, True):
        v.catch_up()
        if committed:
            env.commit()
        assert [k for k, _ in v.items()] == sorted(keys)
        assert [k for k, _ in v.items(b"ab")] == sorted(k for k in keys if k.startswith(b"ab"))
        assert all(v.get(k) == b"value of " + k[:3] for k in keys)
    assert other.items() == []
    log.put(keys[5], None)
    v.catch_up()
    env.commit()
    assert v.get(keys[5]) is None
    env.close()


def test_a_fold_sees_the_view_before_its_record(tmp_path: Path) -> None:
    def count(record: InternalRecord, lookup: Lookup) -> list[Change]:
        assert record.key is not None
        return [(record.key, b"%d" % (int(lookup(record.key) or b"0") + 1))]

    log, env = FakeLog(), environment(tmp_path)
    v = View(env, "count", log, count, records=log.iterate)
    for _ in range(3):
        log.put(b"k", b"")
        log.put(b"k", b"")
        v.catch_up()
        env.commit()
    assert v.get(b"k") == b"6"
    env.close()


def test_much_pending_commits_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "PENDING_BYTES_MAX", 5000)
    log = FakeLog()
    for i in range(200):
        log.put(b"k%d" % i, b"v" * 100)
    env, v = reopened(tmp_path, log)
    assert log.reads > 5
    assert dict(v.items()) == log.fold()
    v.rebuild("test")
    assert dict(v.items()) == log.fold()
    env.close()


def test_memory_and_read_only_views_touch_no_disk(tmp_path: Path) -> None:
    log = FakeLog()
    log.put(b"a", b"1")
    for env in (ViewEnvironment(), ViewEnvironment(Io(), str(tmp_path), read_only=True)):
        v = view(env, log)
        v.catch_up()
        env.commit()
        assert v.items() == [(b"a", b"1")]
        env.close()
        with pytest.raises(StoreClosedError):
            v.get(b"a")
    assert list(tmp_path.iterdir()) == []


def test_readers_and_commits_beside_each_other(tmp_path: Path) -> None:
    log, env = FakeLog(), environment(tmp_path)
    v = view(env, log)
    log.put(b"n", b"0")
    v.catch_up()
    seen: list[str] = []

    def read() -> None:
        last = 0
        while last < 300:
            now = int(v.get(b"n") or b"-1")
            if now < last or dict(v.items())[b"n"] < b"":
                seen.append(f"{last} -> {now}")
                return
            last = now

    def commit() -> None:
        while int(v.get(b"n") or b"0") < 300:
            env.commit()

    threads = [threading.Thread(target=f) for f in (read, read, commit)]
    for thread in threads:
        thread.start()
    for i in range(301):
        log.put(b"n", b"%d" % i)
        v.catch_up()
    for thread in threads:
        thread.join()
    assert seen == []
    env.close()


# -- failing disk ---------------------------------------------------------------------------------------------------


def test_a_failed_commit_is_final_and_reads_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, env = FakeLog(), environment(tmp_path)
    v = view(env, log)
    log.put(b"a", b"1")
    v.catch_up()

    def fail(_: object) -> None:
        raise StorageError("fsync failed")

    monkeypatch.setattr(env.tables, "commit", fail)
    with pytest.raises(StorageError):
        env.commit()
    monkeypatch.undo()
    assert not env.usable
    assert v.get(b"a") == b"1"
    with pytest.raises(StorageError):
        env.commit()
    with pytest.raises(StorageError):
        env.close()
    assert not (tmp_path / "clean").exists()
    env2, v2 = reopened(tmp_path, log)
    assert v2.get(b"a") == b"1"
    env2.close()


def test_open_and_close_fail_at_every_call_and_then_work(tmp_path: Path) -> None:
    log = filled(tmp_path)
    at = 0
    while True:
        at += 1
        io = FaultyIo()
        io.arm(at, 5)
        try:
            env = ViewEnvironment(io, str(tmp_path), map_bytes=MAP_BYTES)
            v = view(env, log)
            v.catch_up()
            assert dict(v.items()) == log.fold()
            env.close()
        except (StorageError, OSError):
            continue
        if not io.fired:
            break
    assert at > 3


# -- the model ------------------------------------------------------------------------------------------------------


class ViewMachine(RuleBasedStateMachine):
    """A view beside a dict, through commits, crashes, lost tails and rotten files."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="mqcore-views-"))
        self.log = FakeLog(durable=0)
        self.open()

    def open(self) -> None:
        self.env = environment(self.path)
        self.view = view(self.env, self.log)
        self.view.catch_up()

    @rule(key=st.sampled_from([b"a", b"b", b"c" * 600, b""]), value=st.none() | st.binary(max_size=20))
    def put(self, key: bytes, value: bytes | None) -> None:
        self.log.put(key, value)

    @rule()
    def make_durable(self) -> None:
        self.log.wait_durable(len(self.log.records))
        self.view.catch_up()

    @rule()
    def commit(self) -> None:
        self.env.commit()

    @rule()
    def close_and_open(self) -> None:
        self.env.close()
        self.open()

    @rule(lost=st.integers(0, 5))
    def crash_and_open(self, lost: int) -> None:
        """lost: how much of the durable tail the disk lied about: the view may be ahead of the log then."""
        self.env.abandon()
        self.log.durable = max(self.log.durable - lost, 0)
        self.log.lose_tail(self.log.durable)
        self.open()

    @precondition(lambda self: (self.path / "data.mdb").stat().st_size > 3 * 4096)
    @rule(data=st.data())
    def rot_and_open(self, data: st.DataObject) -> None:
        self.env.abandon()
        raw = bytearray((self.path / "data.mdb").read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        (self.path / "data.mdb").write_bytes(raw)
        self.open()

    @rule()
    def rebuild(self) -> None:
        self.view.rebuild("test")

    @invariant()
    def equals_the_fold(self) -> None:
        assert dict(self.view.items()) == self.log.fold()
        assert self.view.position.offset == self.log.durable

    def teardown(self) -> None:
        self.env.abandon()
        shutil.rmtree(self.path)


ViewMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestViewMachine = ViewMachine.TestCase
