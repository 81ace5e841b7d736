"""What a failed attempt means for the run. Pure.

A commit that fails for a reason of its own says TransactionAbortedError, with the reason as its cause: the cause decides.
"""

from __future__ import annotations

from enum import Enum

from mqcore.errors import (
    CommitUndecidedError,
    FencedInstanceError,
    ForkedStoreError,
    IllegalGenerationError,
    InvariantError,
    MQError,
    ProducerFencedError,
    RebalanceInProgressError,
    StorageError,
    StoreError,
    TransactionAbortedError,
    TransactionTimedOutError,
    UnknownMemberError,
)


class Failure(Enum):
    ENDS_RUN = "ends the run"  # the store, the disk, or another run with our name: trying again makes it worse
    GROUP_MOVED_ON = "the group moved on"  # others may have the partitions: poll again
    PASSING = "passing"  # nobody's fault: the same batch may go through the next time
    COUNTS = "counts"  # the function's own: so many of them, and the batch is tried record by record


_ENDS_RUN = (
    StoreError,
    StorageError,
    CommitUndecidedError,
    InvariantError,
    ForkedStoreError,
    ProducerFencedError,
    FencedInstanceError,
)
_GROUP_MOVED_ON = (IllegalGenerationError, UnknownMemberError, RebalanceInProgressError)


def classify(error: Exception) -> Failure:
    cause = error.__cause__
    if isinstance(error, TransactionAbortedError) and isinstance(cause, MQError):
        return classify(cause)
    if isinstance(error, _ENDS_RUN):
        return Failure.ENDS_RUN
    if isinstance(error, _GROUP_MOVED_ON):
        return Failure.GROUP_MOVED_ON
    # A function that is too slow for its transaction with all of a batch may be fast enough with each record.
    if isinstance(error, MQError) and not error.fatal and not isinstance(error, TransactionTimedOutError):
        return Failure.PASSING
    return Failure.COUNTS
