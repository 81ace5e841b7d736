"""What goes wrong in the middle of a call leaves a partition that the next call finds whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.stores import TOPIC, opened, put, values_of


def test_a_log_that_could_not_be_made_once_is_made_with_its_records_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as store:
        store.create_topic(TOPIC)
        assert put(store.partition(TOPIC, 0), b"a", b"b") == 2
    with opened(tmp_path) as store:
        with monkeypatch.context() as patched:
            patched.setattr("mqcore.log.checkpoints.read_damage", lambda *_: (_ for _ in ()).throw(MemoryError))
            with pytest.raises(MemoryError):
                store.partition(TOPIC, 0)
        log = store.partition(TOPIC, 0)
        assert (values_of(log), put(log, b"c")) == ([b"a", b"b"], 3)


def test_a_search_by_time_begins_anew_where_retention_moved_the_log_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mqcore.log import reader

    with opened(tmp_path) as store:
        store.create_topic(TOPIC)
        log = store.partition(TOPIC, 0)
        for _ in range(4):
            put(log, b"v", timestamp_ms=1)
        search = reader.search_time

        def beside_retention(*arguments: object) -> object:
            log.delete_before(2)
            return search(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(reader, "search_time", beside_retention)
        assert log.offset_for_time(0) == (2, 1)
