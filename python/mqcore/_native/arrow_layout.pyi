"""Byte ranges of a buffer in Arrow's layouts: gathered into one buffer, or as views that share the buffer.

starts: int64 array of byte positions in the buffer; lengths: int32 array of as many, -1 for null. Errors of all:
ValueError (a range outside the buffer, arrays of other types). Runs without the GIL; the results are new arrays.
Source: https://arrow.apache.org/docs/format/Columnar.html
"""

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray

def gather(
    buffer: ReadableBuffer | NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Large-binary layout: (the ranges copied one after the other, n + 1 positions in that); a null takes no bytes."""

def views(
    buffer: ReadableBuffer | NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    low: int,
    high: int,
) -> NDArray[np.uint8]:
    """Binary-view layout: 16 bytes a range; those over 12 bytes refer to buffer[low:high], which must be the view's one
    data buffer and under 2 GiB; shorter ones are copied into the view."""

def validity(lengths: NDArray[np.int32]) -> tuple[NDArray[np.uint8] | None, int]:
    """(bitmap with 0 for null, or None if nothing is null; number of nulls)."""
