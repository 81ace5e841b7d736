from typing import Any, final

@final
class Column:
    """The cells of one argument of send_many, on the way to native code.

    source: a list (or other iterable) of bytes-like and None; anything with `__arrow_c_array__` of Arrow type binary,
    large_binary, fixed-size binary or string; a 2-D array of 1-byte items whose rows are contiguous (one row a cell); the
    values or keys of a batch that was read.
    Kept alive, not copied; a list is read in place. Raises TypeError (another shape), ValueError (rows not contiguous).
    """

    def __new__(cls, source: Any) -> Column: ...
    def __len__(self) -> int:
        """Number of cells."""
    def _handle(self) -> object: ...
    def _plain(self) -> None: ...
