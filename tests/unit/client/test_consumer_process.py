"""A consumer of another process sees a record as soon as it is visible, and topics made later; a reader of a store that
nobody writes finds its next writer."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

from mqcore.client.open import open as open_store
from tests.unit.client.test_consumer_store import append

READER = """
    import sys
    from mqcore.client.open import open as open_store
    with open_store(sys.argv[1], read_only=True) as store:
        print("ready", flush=True)
        for record in store.consumer("^f", follow=True):
            print(record.topic, record.offset, record.value.decode(), flush=True)
            if record.value == b"end":
                break
"""


def test_another_process_follows(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.create_topic("first")
        append(store, "first", [b"before"])
        reader = subprocess.Popen(
            [sys.executable, "-P", "-c", textwrap.dedent(READER), str(tmp_path / "s")],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
            assert reader.stdout.readline() == "first 0 before\n"
            append(store, "first", [b"while following"])
            assert reader.stdout.readline() == "first 1 while following\n"
            store.create_topic("fresh")
            append(store, "fresh", [b"end"])
            assert reader.stdout.readline() == "fresh 0 end\n"
            assert reader.wait(30) == 0
        finally:
            reader.kill()
            reader.wait()


def test_a_reader_outlives_writers(tmp_path: Path) -> None:
    """No writer, then one, then the next: the same consumer goes on, with every record once."""
    path = tmp_path / "s"
    with open_store(path) as store:
        store.create_topic("t")
        append(store, "t", [b"one"])
    with open_store(path, read_only=True) as reader:
        consumer = reader.consumer("t")
        assert [r.value for b in consumer.poll(10) for r in b] == [b"one"]
        assert consumer.poll(0.05) == []
        for value in (b"two", b"three"):
            with open_store(path) as store:
                append(store, "t", [value])
                assert [r.value for b in consumer.poll(30) for r in b] == [value]
            started = time.process_time()
            assert consumer.poll(0.5) == []
            assert time.process_time() - started < 0.4, "waiting without a writer must not spin"
        assert consumer.position(0) == 3


def test_a_reader_that_begins_at_the_end_sees_the_next_record_alone(tmp_path: Path) -> None:
    """It looked at the partition, and so at the length of its file, and had nothing to read there."""
    with open_store(tmp_path / "s") as store:
        store.create_topic("t")
        append(store, "t", [b"before"])
        with open_store(tmp_path / "s", read_only=True) as reader:
            consumer = reader.consumer("t", start="latest")
            append(store, "t", [b"after"])
            assert [r.value for b in consumer.poll(10) for r in b] == [b"after"]
