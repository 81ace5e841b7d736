from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any, Literal, TypeAlias, final

from mqcore._native.builder import Accumulator
from mqcore.types import RecordMetadata

_State: TypeAlias = Literal["open", "closed", "appending", "appended", "done", "failed"]

STATES: tuple[_State, ...]

@final
class Chunk:
    """Whole v2 batches in one buffer, on their way to a log. Only an Accumulator makes one.

    The buffer protocol gives the sealed batches, writable: the log patches them in place. BufferError once finished.
    """

    reported: bool
    """Somebody has seen the error of a failed chunk."""

    def __len__(self) -> int:
        """Bytes of the sealed batches."""
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def records(self) -> int:
        """Records in it (0 while it is open)."""
    @property
    def state(self) -> _State: ...
    @property
    def producer_id(self) -> int:
        """-1: none; its append must not be repeated then."""
    @property
    def producer_epoch(self) -> int: ...
    @property
    def codec(self) -> int: ...
    @property
    def level(self) -> int | None: ...
    @property
    def base_offset(self) -> int:
        """Offset of its first record, once appended."""
    @property
    def next_offset(self) -> int: ...
    @property
    def opened_at(self) -> float:
        """time.monotonic, s."""
    @property
    def sink(self) -> Sink: ...
    @property
    def owner(self) -> Accumulator | None:
        """Who made it, until it is done or failed."""
    @property
    def error(self) -> BaseException | None: ...
    @property
    def callbacks(self) -> list[tuple[Callable[[Any], Any], Any]] | None: ...
    def begin(self) -> bool:
        """closed -> appending, with the sequences that follow those of the chunk stored last; appending (an append that
        was interrupted): again, with the same ones. False if it is in another state."""
    def appended(self, base_offset: int, next_offset: int, append_time_ms: int, duplicate: bool = False) -> None:
        """appending -> appended: the log took it (duplicate: it had it already). append_time_ms: -1 where records keep
        their create time."""
    def finish(self, error: BaseException | None = None) -> list[tuple[Callable[[Any], Any], Any]]:
        """-> done, or failed with the error: the buffer goes back. Returns the callbacks, once; then an empty list."""
    def repack(self, compress: Callable[[int, memoryview, int | None], Any]) -> None:
        """Compress each batch in place: compress(codec, records, level) -> bytes-like; what does not shrink stays as it
        is. Without a codec: nothing to do. The caller is alone with the chunk."""

@final
class Sink:
    """One partition as a producer sees it."""

    owner: int
    """The thread (threading.get_ident) that holds `lock`; 0: none."""
    log: Any
    """The partition's log, once it was needed."""
    skew: int
    """Where in a page of the file the next chunk is likely to begin (bytes; taken modulo 4096). Its buffer begins there
    too, because the kernel copies faster where both sides are aligned alike. A wrong guess only costs that."""

    stored: int
    """The sequence after the last chunk that the log took."""
    unsure: bool
    """An append failed: before the next one the log must say what is stored."""

    @property
    def topic(self) -> Topic: ...
    @property
    def partition(self) -> int: ...
    @property
    def chunk(self) -> Chunk | None:
        """The open chunk."""
    @property
    def lock(self) -> Lock:
        """Guards the appends of this partition."""
    @property
    def queue(self) -> deque[Chunk]:
        """Closed chunks that wait for their append, oldest first."""

@final
class Topic:
    """What a producer must know of a topic to take a record: partitions, limits, where a key goes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """name: str; sticky=0: where records without a key start (modulo the number of partitions)."""
    @property
    def name(self) -> str: ...
    @property
    def info(self) -> Any:
        """What `configure` was given: the store's TopicInfo."""
    @property
    def partitions(self) -> int: ...
    def configure(
        self,
        info: Any,
        partitions: int,
        *,
        max_message_bytes: int = 1048588,
        needs_key: bool = False,
        partitioner: str | Callable[[bytes, int], int] = "default",
        codec: int = 0,
        level: int | None = None,
        before_max_ms: int = -1,
        after_max_ms: int = -1,
    ) -> None:
        """Set or change the settings; records sent before keep theirs.

        partitions: never fewer than before. max_message_bytes: of a batch, as stored. needs_key: refuse records without
        one (compaction). partitioner: "default" (Kafka's murmur2), "consistent", or (key, partitions) -> partition.
        codec: Kafka's id. before_max_ms, after_max_ms: how far a timestamp may be from now; -1: any.
        Raises ValueError, MemoryError.
        """
    def sink(self, partition: int) -> Sink:
        """That of a partition, which must exist; made if it was not written to."""
    def made_sinks(self) -> list[Sink]:
        """The sinks of partitions that were written to."""
    def check(self, first: int, last: int, now: int) -> None:
        """Check the smallest and the largest of many timestamps (ms). Raises InvalidRecordError."""

@final
class Delivery:
    """The outcome of one send. Any thread may use it; it costs a few words and keeps no record.

    A record is acknowledged when it survives what its topic's durability names (`os`: once it is in the page cache).
    """

    def done(self) -> bool:
        """True once the record is acknowledged, or failed; never blocks."""
    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait until the record is acknowledged; its batch is closed and appended first if it was still open.

        timeout: seconds, None waits without end. Raises TimeoutExceededError (it may still be acknowledged), or the
        error that its append met: RecordTooLargeError, InvalidRecordError, StorageError, DiskFullError, ...
        """
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as result does; return the error that it would raise, None if there is none."""
    def add_done_callback(self, fn: Callable[[Delivery], Any]) -> None:
        """Have fn(self) called once the record is acknowledged or failed; at once if it is.

        It runs in whichever thread saw the end of it and must not block; what it raises is logged.
        """
    def span(self) -> tuple[Chunk, int, int]:
        """(chunk, index of the record in it, 1): see mqcore.client.delivery.BulkDelivery."""

def is_done(chunk: Chunk) -> bool:
    """Whether the chunk is done or failed; asks its log first."""

def wait(chunk: Chunk, timeout: float | None) -> int:
    """Return when the chunk is done; raise its error if it failed. See Delivery.result."""

def add_callback(chunk: Chunk, fn: Callable[[Any], Any], delivery: Any) -> int:
    """Have fn(delivery) called when the chunk is done or failed; at once if it is."""
