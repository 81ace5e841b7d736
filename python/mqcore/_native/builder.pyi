from typing import Any, overload

from mqcore._native.chunks import Chunk, Delivery, Sink, Topic
from mqcore._native.encode import _Headers
from mqcore._native.inputs import Column

class Accumulator:
    """Open chunks of all partitions that a producer writes to, and the methods that fill them.

    A subclass (mqcore.client.dispatch.Dispatcher) supplies the methods that start with an underscore.
    """

    closed: bool
    """No chunk is opened any more: sends raise StoreClosedError."""
    armed: bool
    """Somebody looks after chunks that linger."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """batch_bytes, chunk_bytes, buffer_bytes, immediate=False, wall_ms=None: by keyword.

        1024 <= batch_bytes <= chunk_bytes <= buffer_bytes, else ValueError. immediate: hand each record over at once.
        wall_ms: () -> milliseconds since 1970 for records without a timestamp; None: the machine's coarse clock.
        """
    @property
    def open_sinks(self) -> dict[Sink, None]:
        """Sinks with an open chunk, oldest first."""
    @property
    def batch_bytes(self) -> int: ...
    @property
    def chunk_bytes(self) -> int: ...
    @property
    def buffer_bytes(self) -> int: ...
    @property
    def buffered(self) -> int:
        """Bytes of the buffers of all chunks that are not done."""
    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: _Headers | None = None,
        timestamp: int | None = None,
        partition: int | None = None,
        id: None = None,
    ) -> Delivery: ...
    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: None = None,
        timestamp: int | None = None,
        partition: int | None = None,
        *,
        id: Any,
    ) -> Any:
        """Add one record to its partition's open batch; return its outcome to come.

        value, key: bytes-like (copied before the call returns) or None: a null; a null value is a tombstone.
        headers: (name, value) pairs. timestamp: ms since 1970; None: now. partition: None: by the key, or without one
        the sticky partition, which changes whenever a chunk is full. id: see Producer.send_many; the outcome is then an
        IdRecordDelivery, a Delivery otherwise.
        Blocks only when a chunk is full (its append) or buffers are at their limit. Raises UnknownTopicError (topic or
        partition), RecordTooLargeError (the topic's max.message.bytes), InvalidRecordError (timestamp out of bounds, no
        key in a compacted topic), StoreClosedError, TypeError, MemoryError: then the record was not sent.
        """
    def fill(
        self,
        t: Topic,
        values: Column,
        keys: Column | None,
        times: Any,
        timestamp: int,
        partition: int,
        spans: list[tuple[Chunk, int, int]],
    ) -> int:
        """Add many records; spans gets (chunk, index of the first record in it, records) in their order.

        times: buffer of int64 (ms), one a value, or None: `timestamp` for all. partition: -1: by key, or the sticky
        one. Returns how many. Raises as send does, with `where["sent"]`: those before the refused one were sent.
        """
    def find(self, name: str) -> Topic:
        """The topic of that name; opened by `_open_topic` at first."""
    def all_topics(self) -> list[Topic]: ...
    def forget(self, name: str | None = None) -> None:
        """No send finds this topic (None: any) any more: the next one opens it anew, or fails once closed."""
    def abandon(self, error: BaseException) -> None:
        """Give up whatever is open, without an append (in a forked child)."""
    @property
    def producer_id(self) -> int:
        """-1: none."""
    def set_identity(self, producer_id: int, epoch: int, *, transactional: bool = False) -> None:
        """Who the batches of chunks opened from now on are of; sequences of all partitions begin at 0. producer_id -1:
        nobody, no sequences. ValueError: chunks are open, or wait for their append."""
    def disarm(self) -> bool:
        """Nobody needs to look after chunks that linger; False if there are some."""
    def now(self) -> int:
        """Milliseconds since 1970, as records without a timestamp get it."""
    def close_chunk(self, sink: Sink) -> bool:
        """Seal a sink's open chunk and queue it; False if nothing is open, or it is being filled (its lock is held)."""
    def take_back(self, chunk: Chunk) -> None:
        """A chunk is done or failed (Chunk.finish calls this, once)."""
    def _open_topic(self, name: str) -> Topic: ...
    def _send_id(
        self, topic: str, value: Any, key: Any, headers: Any, timestamp: int | None, partition: int | None, id: Any
    ) -> Any: ...
    def _dispatch(self, sink: Sink) -> None:
        """Take a sink's queued chunks to its log."""
    def _make_room(self) -> None:
        """Bring some chunk to its end, so that `buffered` falls."""
    def _arm(self) -> None:
        """A chunk is open, or somebody wants to hear of its end."""
    def _look(self, chunk: Chunk) -> None:
        """Finish an appended chunk if it has become durable."""
    def _wait(self, chunk: Chunk, timeout: float | None) -> None:
        """Bring a chunk to its end. Raises TimeoutExceededError."""
