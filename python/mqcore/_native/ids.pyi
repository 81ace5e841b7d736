"""The message ids of records that were read.

An id is the value of the header HEADER, 8 or 16 bytes, big-endian. Native per batch: no Python object a record.
"""

import numpy as np
from numpy.typing import NDArray

from mqcore._native.columns import Columns

HEADER: str

def find(columns: Columns, *, width: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(the ids of that width, the indices of their records, rising), each found once; shapes (n * width / 8,) and (n,).

    64-bit ids are numbers; of 128-bit ids the 16 bytes are as they stand in the record. Records without one are left
    out. CorruptBatchError: the bytes were changed since they were decoded.
    """
