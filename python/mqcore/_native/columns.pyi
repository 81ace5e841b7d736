"""Record batches as columns: offsets, timestamps, and where each value lies in the buffer that holds them.

All arrays and memoryviews are read-only, share memory (the source buffer's or the decoded block's) and keep it alive.
Offsets are record numbers, positions bytes in the source buffer, timestamps milliseconds since 1970.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final, overload

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray

@final
class Columns:
    """Decoded records, or a window on them."""

    topic: str
    partition: int
    next_offset: int
    """First offset after all that was read, records that nobody sees included."""
    expected_offset: int
    """What to pass as first_offset when decoding goes on at end_position; -1: unknown."""
    start_position: int
    end_position: int
    compressed_next: bool
    """The batch at end_position is compressed: inflate it, then decode that."""
    transactional: bool
    """Batches of transactions were among those decoded (not told of a window)."""

    def __len__(self) -> int: ...
    def __iter__(self) -> RecordIterator: ...
    @property
    def offsets(self) -> NDArray[np.int64]:
        """Shape (n,)."""
    @property
    def timestamps(self) -> NDArray[np.int64]:
        """Shape (n,), ms; the batch's own for log-append time."""
    @property
    def value_starts(self) -> NDArray[np.int64]:
        """Shape (n,), byte positions in `buffer`."""
    @property
    def value_lengths(self) -> NDArray[np.int32]:
        """Shape (n,), bytes; -1 is a null value."""
    @property
    def buffer(self) -> memoryview:
        """The whole source buffer, flat and read-only."""
    @property
    def values(self) -> Values: ...
    @property
    def keys(self) -> Values:
        """Found by a second pass over the records, once. CorruptBatchError if the bytes were changed since."""
    @property
    def first_offset(self) -> int:
        """Offset of the first record; next_offset if there is none."""
    def slice(self, start: int, stop: int) -> Columns:
        """A window on records start .. stop (clipped to what is there), without a copy."""
    def copy(self) -> Columns:
        """The same window over a private copy of the bytes and columns."""
    def record(self, index: int) -> Record:
        """IndexError outside the window; negative counts from the end."""
    def headers(self, index: int) -> list[tuple[str, bytes | None]]:
        """The headers of one record; bytes of a name that are no UTF-8 become surrogate escapes."""
    def iter_records(self) -> RecordIterator: ...

@final
class Record:
    """One record; each attribute is read from the batch when asked for, which stays in memory as long as this."""

    @property
    def value(self) -> bytes | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """ms"""
    @property
    def headers(self) -> list[tuple[str, bytes | None]]: ...
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...

@final
class RecordIterator:
    """Records of one window after the other, in order; knows what it has handed out.

    refill: called with this iterator when it is at its end; loads the next window and returns True, or returns False to
    end the iteration. (Several threads may be in it at once: load and take_rest are atomic.)
    """

    def __init__(self, refill: Callable[[RecordIterator], bool] | None = None) -> None: ...
    def __iter__(self) -> RecordIterator: ...
    def __next__(self) -> Record: ...
    def load(self, columns: Columns) -> None:
        """Go on with this window. What was not handed out of the one before is forgotten: take_rest first."""
    @property
    def next_offset(self) -> int:
        """Offset of the record that comes next, or the window's next_offset."""
    def take_rest(self) -> Columns:
        """The window that was not handed out yet; the iterator ends with that."""

@final
class ValueIterator:
    def __iter__(self) -> ValueIterator: ...
    def __next__(self) -> bytes | memoryview | None: ...

@final
class Values(Sequence[memoryview | None]):
    """A column of byte ranges, values or keys: memoryviews into the source buffer; None for a null one."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> memoryview | None: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[memoryview | None]: ...
    def __iter__(self) -> Iterator[memoryview | None]: ...
    def iter_bytes(self) -> Iterator[bytes | None]:
        """Bytes objects (copies), one at a time: the fastest way through a batch in Python. An object that nobody else
        refers to any more may come again with another value."""
    def to_list(self) -> list[bytes | None]: ...
    def to_numpy(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
        """(buffer, starts, lengths), no copy: value i is buffer[starts[i] : starts[i] + lengths[i]]; -1: null."""
    @property
    def nbytes(self) -> int:
        """Bytes of all values together."""

def decode(
    buffer: ReadableBuffer,
    start: int = 0,
    end: int = -1,
    *,
    min_offset: int = 0,
    max_records: int = 1073741824,
    check_crc: bool = True,
    first_offset: int = -1,
    contiguous: bool = False,
    aborted: Iterable[tuple[int, ...]] = (),
    topic: str = "",
    partition: int = -1,
) -> tuple[Columns, int]:
    """Decode uncompressed batches of [start, end) (-1: all), a range of whole batches; return (columns, next position).

    Stops before the batch that would pass max_records (one batch is always taken, so more may come: slice), before a
    compressed batch (columns.compressed_next), and before a damaged one, unless it is the first: then it raises
    CorruptBatchError (position, offset). Passed over: control batches, empty ones, those that end below min_offset,
    and those of the `aborted` transactions (producer id, first offset, last offset). Records below min_offset are cut.

    first_offset: where the batch before `start` ended (columns.expected_offset of the call before), -1: unknown.
    contiguous: the range was never compacted, so each batch must start where the one before ended. topic, partition:
    what the records will say. ValueError: a range outside the buffer. MemoryError. Runs without the GIL; the buffer
    may be a mapping that another process appends to, but bytes in the range must not change.
    """
