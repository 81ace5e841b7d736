"""Reads of a state in a transaction: a dict lookup or two, or one of LMDB, without a Python frame."""

from typing import Any

class Clock:
    """When a state was changed, and how many commits of it are in progress. Read by transactions on every look."""

    stamp: int
    in_progress: int

class Front:
    """What readers of a view see of it in memory: log.overlay.Layers, swapped as a whole, or None."""

    layers: Any

class TransactedMap:
    """The hot half of `mqcore.state.transaction.TransactionState`, which supplies what begins with an underscore.

    A look takes the fast way while nothing was committed since the stamp: own changes, the view's changes in memory,
    what is stored (its checksum is checked). Everything else is `_look_again`'s.
    """

    changes: dict[bytes, bytes | None]
    keys_read: set[bytes]
    """What was looked for, found or not, outside the own changes."""
    stamp: int
    over: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """view, clock, key_bytes_max, pair_bytes_max. view: with `front` and `stored_reader` (mqcore.log.views)."""
    def get(self, key: bytes, default: Any = None) -> Any:
        """The value of a key, `default` without one. Raises StateConflictError, StorageError."""
    def __getitem__(self, key: bytes, /) -> bytes:
        """As get. KeyError without a value."""
    def __contains__(self, key: bytes, /) -> bool: ...
    def __setitem__(self, key: bytes, value: bytes, /) -> None:
        """Set a pair. Raises RecordTooLargeError (key over 480 bytes; pair over the changelog's max.message.bytes)."""
    def __delitem__(self, key: bytes, /) -> None:
        """Take a key away. KeyError if it has no value."""
    def finish(self) -> None:
        """Over: let go of what is held."""
    def _look_again(self, key: Any) -> bytes | None:
        """The value of a key, looked up and noted with all checks."""
    def _set_checked(self, key: Any, value: Any) -> None:
        """Set a pair that is no plain, small one, or say what is wrong with it."""
