"""The message ids of records that were read.

An id is the value of the header HEADER, 8 or 16 bytes, big-endian. Native per batch: no Python object a record.
"""

import numpy as np
from numpy.typing import NDArray

from mqcore._native.columns import Columns

HEADER: str

def find(columns: Columns, *, width: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(the ids of that width, width bytes each, big-endian; the indices of their records, rising), each found once.

    Records without one are left out. CorruptBatchError: the bytes were changed since they were decoded.
    """
