"""The inner loops of log compaction. Offsets are record numbers, positions bytes, times ms since 1970."""

from collections.abc import Iterable
from typing import Final, Literal, Self

from typing_extensions import Buffer

DISCARD: Final[int]
"""Every record goes."""
KEEP: Final[int]
"""Every record stays."""
HORIZON: Final[int]
"""Give the batch a delete horizon (if a record stays and it has none)."""
MAY_EMPTY: Final[int]
"""The header stays if no record does."""

class KeyMap:
    """Key -> last offset, in at most max_bytes (at least 64 KiB: ValueError). Keys are compared whole: two are never
    taken for one. Calls of several threads take turns."""

    def __new__(cls, *, max_bytes: int = ...) -> Self: ...
    def put(self, key: Buffer, offset: int, /) -> bool:
        """Note an offset (>= 0) of a key; the largest stays. False: the map is full, nothing changed."""

    def get(self, key: Buffer, /) -> int:
        """The last offset of a key, -1 if it has none."""

    def __len__(self) -> int: ...
    @property
    def bytes_used(self) -> int: ...
    def index_run(self, buffer: Buffer, position: int, end: int, start_offset: int, /) -> tuple[int, int, bool]:
        """Put the keys of the batches in [position, end): records at start_offset and above. CRCs are checked.

        Returns (position, next_offset, full): where it stopped, the offset after the last batch that was read whole
        (-1: none), whether the map is full. It stops before a compressed, transactional or control batch too. Runs
        without the GIL. CorruptBatchError, UnsupportedFormatError.
        """

    def index_batch(self, batch: Buffer, start_offset: int, /) -> bool:
        """The same for one whole, uncompressed batch whose CRC was checked; False: the map is full."""

class Filter:
    """Copies batches without the records that a newer one of the same key replaces.

    end_offset: records from there on stay. round_end: the batch that ends right before it stays, even empty, and so do
    those that end at one of last_offsets. delete_retention_ms: how long a tombstone stays after its first round.
    """

    def __new__(
        cls,
        map: KeyMap,
        *,
        end_offset: int,
        round_end: int,
        now_ms: int,
        delete_retention_ms: int,
        last_offsets: Iterable[int] = (),
    ) -> Self: ...
    def run(self, buffer: Buffer, position: int, end: int, out_bytes: int = ..., /) -> int:
        """Filter the batches in [position, end) until out_bytes wait to be taken; where it stopped. Special batches
        stop it as they stop `index_run`. Runs without the GIL. CorruptBatchError, UnsupportedFormatError."""

    def batch(self, batch: Buffer, flags: int, /) -> Literal["dropped", "copied", "rewritten", "emptied"]:
        """Filter one whole, uncompressed batch whose CRC was checked; what became of it."""

    def stays(self, last_offset: int, /) -> bool:
        """Whether the batch that ends at last_offset stays, even empty."""

    def take(self) -> bytes:
        """The batches that were written since the last take."""

    def __len__(self) -> int:
        """Bytes that wait to be taken."""

    @property
    def stats(self) -> dict[str, int]:
        """batches_read, batches_written, records_read, records_written."""

def check_batch(buffer: Buffer, position: int, end: int, /) -> int:
    """The size of the batch at position, after its header and CRC passed. CorruptBatchError, UnsupportedFormatError."""

def control_type(batch: Buffer, /) -> int:
    """The type of an uncompressed control batch: 0 abort, 1 commit; -1: it has no records. CorruptBatchError."""

def compressed(batch: Buffer, records: Buffer, codec: int, /) -> bytes:
    """An uncompressed batch with its records replaced by `records`, their compressed form, under that codec."""
