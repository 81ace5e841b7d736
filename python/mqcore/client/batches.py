"""What a consumer hands out: a run of records of one partition, as columns, records, Arrow or pandas.

Invariants:
    1. Nothing is copied until asked: values, keys and headers lie in the mapped segment (or, with copy=True and for
       compressed batches, in private memory), which lives as long as a batch, record or view of it.
    2. Offsets rise strictly. All arrays and memoryviews are read-only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from mqcore.errors import MissingExtraError
from mqcore.log.reader import Columns, Record, RecordIterator, Values, gather, validity, views

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["Batch", "Record", "Values"]


class Headers(Sequence[list[tuple[str, "bytes | None"]]]):
    """The headers of a batch's records: one list of (name, value) pairs a record, read when asked for."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, index: int) -> list[tuple[str, bytes | None]]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[tuple[str, bytes | None]]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._columns.headers(i) for i in range(*index.indices(len(self._columns)))]
        return self._columns.headers(index)


class Batch:
    """Records of one partition, in offset order; as many as were asked for and there, not a batch of the log's.

    `len(batch)` is the number of records; iterating gives `Record` objects, which read value, key, offset, timestamp
    and headers when asked. `batch[2:5]` is a batch over the same memory.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    @property
    def topic(self) -> str:
        return self._columns.topic

    @property
    def partition(self) -> int:
        return self._columns.partition

    @property
    def first_offset(self) -> int:
        """Offset of the first record."""
        return self._columns.first_offset

    @property
    def next_offset(self) -> int:
        """First offset after this batch, gaps included: where to go on reading."""
        return self._columns.next_offset

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Shape (n,)."""
        return self._columns.offsets

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """Shape (n,), milliseconds since 1970: of creation or of the append, as the topic is configured."""
        return self._columns.timestamps

    @property
    def values(self) -> Values:
        """A sequence of memoryviews (None for a null value); `.to_numpy()` gives (buffer, starts, lengths) without a
        copy, `.iter_bytes()` and `.to_list()` give bytes."""
        return self._columns.values

    @property
    def keys(self) -> Values:
        """As `values`; found by a second pass over the records at the first use."""
        return self._columns.keys

    @property
    def headers(self) -> Headers:
        return Headers(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __iter__(self) -> Iterator[Record]:
        return self._columns.iter_records()

    def __repr__(self) -> str:
        return f"<Batch {self.topic}-{self.partition}: {len(self)} records from offset {self.first_offset} on>"

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Record | Self:
        if not isinstance(index, slice):
            return self._columns.record(index)
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError("a batch is cut in steps of 1 only")
        return type(self)(self._columns.slice(start, stop))

    def records(self) -> RecordIterator:
        """The records, one at a time: the same as iterating the batch."""
        return self._columns.iter_records()

    def copy(self) -> Self:
        """The same records in private memory: pins no segment; safe from whatever becomes of the file."""
        return type(self)(self._columns.copy())

    def to_arrow(self, *, zero_copy: bool = False) -> pa.RecordBatch:
        """A RecordBatch with columns offset (int64), timestamp (ms, UTC), key, value.

        offset and timestamp share this batch's memory. Keys and values: between them lies the framing of records, so
        Arrow's `binary` needs one native copy (the default; every Arrow function takes it; `large_binary` past 2 GiB).
        zero_copy=True gives `binary_view`, which shares the mapped segment and keeps it mapped; Arrow has no `take` or
        `filter` for that type yet. Raises MissingExtraError without pyarrow.
        """
        try:
            import pyarrow as pa
        except ImportError:
            raise MissingExtraError("pyarrow is not installed", hint="pip install 'mqcore[arrow]'") from None
        make = _view_array if zero_copy else _binary_array
        n = len(self)
        arrays = [
            pa.Array.from_buffers(pa.int64(), n, [None, pa.py_buffer(self.offsets)]),
            pa.Array.from_buffers(pa.timestamp("ms", "UTC"), n, [None, pa.py_buffer(self.timestamps)]),
            make(pa, self.keys, self._columns),
            make(pa, self.values, self._columns),
        ]
        return pa.RecordBatch.from_arrays(arrays, names=["offset", "timestamp", "key", "value"])

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame with columns offset, timestamp (datetime64[ms, UTC]), key, value (bytes objects, None for null).

        Copies. Raises MissingExtraError without pandas.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError("pandas is not installed", hint="pip install 'mqcore[pandas]'") from None
        times = self.timestamps.astype("datetime64[ms]")
        return pd.DataFrame(
            {
                "offset": self.offsets.copy(),
                "timestamp": pd.DatetimeIndex(times).tz_localize("UTC"),
                "key": pd.Series(self.keys.to_list(), dtype=object),
                "value": pd.Series(self.values.to_list(), dtype=object),
            }
        )


def _binary_array(pa: Any, values: Values, _columns: Columns) -> Any:
    source, starts, lengths = values.to_numpy()
    bits, nulls = validity(lengths)
    data, positions = gather(source, starts, lengths)
    small = data.size < 1 << 31
    buffers = [
        None if bits is None else pa.py_buffer(bits),
        pa.py_buffer(positions.astype(np.int32) if small else positions),
        pa.py_buffer(data),
    ]
    return pa.Array.from_buffers(pa.binary() if small else pa.large_binary(), len(values), buffers, nulls)


def _view_array(pa: Any, values: Values, columns: Columns) -> Any:
    source, starts, lengths = values.to_numpy()
    bits, nulls = validity(lengths)
    low, high = columns.start_position, columns.end_position
    buffers = [
        None if bits is None else pa.py_buffer(bits),
        pa.py_buffer(views(source, starts, lengths, low, high)),
        pa.py_buffer(source[low:high]),
    ]
    return pa.Array.from_buffers(pa.binary_view(), len(values), buffers, nulls)
