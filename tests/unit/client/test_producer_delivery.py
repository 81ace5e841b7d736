"""Every record's outcome is told, once and truthfully: by result, callback, flush or close, whatever its log does."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from mqcore.client.producer import Producer
from mqcore.codecs import NAMES
from mqcore.errors import DiskFullError, FatalError, ForkedStoreError, StorageError, TimeoutExceededError
from tests.support.producer_fakes import FakeLog, FakeStore

LONG_MS = 60_000  # a linger that no test waits for


def lone(**options: Any) -> tuple[Producer, FakeLog]:
    """A producer to topic t, and the log of its one partition."""
    store = FakeStore(t=1, lazy=options.pop("lazy", False))
    return Producer(store, linger_ms=options.pop("linger_ms", LONG_MS), **options), store.partition("t", 0)


def test_result_closes_the_batch_and_waits_until_it_is_durable() -> None:
    producer, log = lone(lazy=True)
    with producer:
        first, second = producer.send("t", b"1"), producer.send("t", b"2")
        assert not first.done()
        assert log.chunks == []
        assert first.result().offset == 0
        assert second.done()
        assert second.result().offset == 1
        assert log.durable == 2
        assert repr(producer.send_many("t", [b"3"])).endswith("pending>")


def test_done_sees_that_others_made_it_durable() -> None:
    producer, log = lone(lazy=True, linger_ms=0)
    with producer:
        delivery = producer.send("t", b"1")
        assert log.values() == [b"1"]
        assert not delivery.done()
        log.durable = 1
        assert delivery.done()
        assert producer.buffered == 0


def test_a_failed_append_is_raised_by_each_result_and_then_not_by_flush() -> None:
    producer, log = lone()
    with producer:
        log.fail = [DiskFullError("full")]
        deliveries = [producer.send("t", b"1"), producer.send("t", b"2")]
        for delivery in deliveries:
            with pytest.raises(DiskFullError):
                delivery.result()
            assert delivery.done()
        assert isinstance(deliveries[0].exception(), DiskFullError)
        producer.flush()
        assert producer.send("t", b"3").result().offset == 0  # the failed ones took no offsets
        assert producer.buffered == 0


def test_flush_and_close_raise_what_nobody_has_seen_once() -> None:
    producer, log = lone()
    for _ in range(2):
        log.fail.append(StorageError("disk"))
        producer.send("t", b"1")
        with pytest.raises(StorageError) as error:
            producer.flush()
        assert not hasattr(error.value, "__notes__")
        producer.flush()
    log.fail = [StorageError("first"), StorageError("second")]
    producer.send("t", b"1")
    producer._hand_off(next(iter(producer.open_sinks)))
    producer.send("t", b"2")
    with pytest.raises(StorageError, match="first") as error:
        producer.close()
    assert "2 chunks" in error.value.__notes__[0]
    producer.close()
    assert log.chunks == []


def test_with_raises_at_its_end() -> None:
    producer, log = lone()
    log.fail = [StorageError("disk")]
    with pytest.raises(StorageError), producer:
        producer.send("t", b"1")


def test_a_failed_wait_fails_the_records() -> None:
    producer, log = lone(lazy=True)
    delivery = producer.send("t", b"1")
    log.fail = []
    producer._hand_off(next(iter(producer.open_sinks)))
    log.fail = [StorageError("fsync")]
    with pytest.raises(StorageError, match="fsync"):
        delivery.result()
    producer.close()


def test_a_deadline_is_kept_and_the_outcome_stays_open() -> None:
    producer, log = lone(lazy=True)
    log.gate.clear()
    threading.Timer(0.15, log.gate.set).start()
    delivery = producer.send("t", b"1")
    helper = threading.Thread(target=delivery.result)
    helper.start()
    while not log.appending:
        time.sleep(0.001)
    with pytest.raises(TimeoutExceededError):
        delivery.result(timeout=0.01)
    with pytest.raises(TimeoutExceededError):
        delivery.exception(timeout=0.01)
    with pytest.raises(TimeoutExceededError):
        producer.flush(timeout=0.01)
    assert not delivery.done()
    helper.join()
    assert delivery.result().offset == 0
    producer.close()


@pytest.mark.parametrize("lazy", [False, True])
def test_lingering_records_are_appended_and_callbacks_called_though_nobody_waits(lazy: bool) -> None:
    producer, log = lone(lazy=lazy, linger_ms=1)
    heard: list[Any] = []
    done = threading.Event()
    producer.send("t", b"1").add_done_callback(heard.append)
    producer.send_many("t", [b"2", b"3"]).add_done_callback(lambda d: (heard.append(d), done.set()))
    assert done.wait(10)
    assert log.values() == [b"1", b"2", b"3"]
    assert [d.done() for d in heard] == [True, True]
    late = producer.send("t", b"4")
    late.result()
    late.add_done_callback(heard.append)  # at once
    producer.send_many("t", []).add_done_callback(heard.append)
    assert len(heard) == 4
    producer.close()


def test_a_callback_may_send_and_may_fail() -> None:
    producer, log = lone()

    def again(delivery: Any) -> None:
        if delivery.result().offset < 3:
            producer.send("t", b"again").add_done_callback(again)
        raise RuntimeError("logged, not raised")

    producer.send("t", b"first").add_done_callback(again)
    for _ in range(5):
        producer.flush()
    assert log.values() == [b"first", b"again", b"again", b"again"]
    producer.close()


def test_a_failed_chunk_calls_back_too() -> None:
    producer, log = lone()
    log.fail = [StorageError("disk")]
    heard: list[Any] = []
    producer.send("t", b"1").add_done_callback(lambda d: heard.append(d.exception()))
    producer.flush()  # the callback has seen the error
    assert [type(e) for e in heard] == [StorageError]
    producer.close()


def test_memory_is_bounded_while_nothing_becomes_durable() -> None:
    store = FakeStore(t=50, lazy=True)
    limit = 1 << 20
    with Producer(store, batch_bytes=8192, chunk_bytes=65536, buffer_bytes=limit, linger_ms=LONG_MS) as producer:
        most = 0
        for i in range(60_000):
            producer.send("t", bytes(100), b"%d" % i)
            most = max(most, producer.buffered)
        assert limit // 2 < most <= limit + 65536
    assert sum(len(log.records()) for log in store.logs.values()) == 60_000
    assert producer.buffered == 0


def test_sends_from_inside_an_append_keep_order_and_waiting_there_is_refused() -> None:
    producer, log = lone()
    errors: list[BaseException] = []

    def meddle() -> None:
        log.on_append = None
        delivery = producer.send("t", b"inner")
        producer.send_many("t", np.ones((2000, 100), np.uint8))
        try:
            delivery.result()
        except FatalError as error:
            errors.append(error)

    log.on_append = meddle
    producer.send("t", b"outer").result()
    producer.close()
    assert len(errors) == 1
    assert log.values() == [b"outer", b"inner", *[b"\x01" * 100] * 2000]


def test_an_interrupted_append_is_repeated_with_its_own_sequences() -> None:
    producer, log = lone()
    delivery = producer.send("t", b"1")
    log.fail = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        producer.flush()
    assert not delivery.done()
    assert producer.send("t", b"2").result().offset == 1
    assert delivery.result().offset == 0
    producer.close()
    assert [(batch.base_sequence, batch.producer_id) for batch in log.batches()] == [(0, 0), (1, 0)]


def test_without_sequences_an_interrupted_append_counts_as_failed() -> None:
    producer, log = lone(idempotence=False)
    delivery = producer.send("t", b"1")
    log.fail = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        producer.flush()
    with pytest.raises(FatalError, match="interrupted"):
        delivery.result()
    assert producer.send("t", b"2").result().offset == 0
    producer.close()
    assert log.batches()[0].producer_id == -1


@pytest.mark.parametrize("codec", sorted(set(NAMES) - {"none"}))
def test_batches_are_compressed_where_that_makes_them_smaller(codec: str) -> None:
    store = FakeStore(t=1, own=(1, {"compression.type": codec}))
    with Producer(store, compression=codec) as producer:
        for topic in ("t", "own"):
            producer.send_many(topic, [b"the same again and again"] * 5000)
            producer.send(topic, os.urandom(70_000), partition=0)  # its own batch, which does not shrink
    for topic in ("t", "own"):
        batches = store.partition(topic, 0).batches()
        assert {batch.compression_type for batch in batches[:-1]} == {NAMES[codec]}
        assert batches[-1].compression_type == 0
        assert len(store.partition(topic, 0).records()) == 5001


def test_a_topics_codec_and_level_win_over_the_producers() -> None:
    store = FakeStore(
        plain=(1, {"compression.type": "uncompressed"}),
        fast=(1, {"compression.type": "gzip", "compression.gzip.level": "1"}),
        best=(1, {"compression.type": "gzip", "compression.gzip.level": "9"}),
    )
    data = b" ".join(b"%d" % (i * i % 9973) for i in range(10_000))
    with Producer(store, compression="lz4") as producer:
        for topic in store.infos:
            producer.send(topic, data)
    sizes = {topic: len(store.partition(topic, 0).chunks[0]) for topic in store.infos}
    assert sizes["plain"] > sizes["fast"] > sizes["best"]


def test_a_forked_child_writes_nothing_and_says_why() -> None:
    producer, log = lone()
    open_one = producer.send("t", b"parent")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for call in (lambda: producer.send("t", b"child"), producer.flush, open_one.result):
                with pytest.raises(ForkedStoreError):
                    call()
            producer.close()
            code = 0 if log.chunks == [] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    producer.close()
    assert log.values() == [b"parent"]


def test_nothing_keeps_a_closed_producer_and_deliveries_keep_no_buffers() -> None:
    producer, _ = lone()
    kept = [producer.send("t", b"x") for _ in range(100)]
    producer.close()
    weak = weakref.ref(producer)
    del producer
    gc.collect()
    assert weak() is None
    assert kept[99].result().offset == 99
    with pytest.raises(BufferError):
        memoryview(kept[0].span()[0])


def test_a_view_of_a_chunk_outlives_it() -> None:
    producer, log = lone()
    views: list[memoryview] = []
    original = log.append
    log.append = lambda chunk: (views.append(memoryview(chunk)), original(chunk))[1]  # type: ignore[method-assign]
    producer.send("t", b"kept").result()
    for _ in range(10):
        producer.send("t", b"other").result()
    assert b"kept" in bytes(views[0])
    chunk = views[0].obj
    del views[0]
    with pytest.raises(BufferError):  # with its last view the buffer went too
        memoryview(chunk)
    producer.close()
