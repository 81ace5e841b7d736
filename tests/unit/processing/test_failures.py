"""Each error means one of four things, and a commit's error what its cause means."""

from __future__ import annotations

import pytest

from mqcore import errors
from mqcore.errors import MQError
from mqcore.processing.failures import Failure, classify


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("a"), Failure.COUNTS),
        (errors.UnknownTopicError("no such topic"), Failure.COUNTS),
        (errors.RecordTooLargeError("too large"), Failure.COUNTS),
        (errors.TransactionTimedOutError("late"), Failure.COUNTS),
        (errors.StateConflictError("lost"), Failure.PASSING),
        (errors.DiskFullError("full"), Failure.PASSING),
        (errors.ConcurrentTransactionsError("busy"), Failure.PASSING),
        (errors.TransactionAbortedError("somebody aborted it"), Failure.PASSING),
        (errors.IllegalGenerationError("old"), Failure.GROUP_MOVED_ON),
        (errors.UnknownMemberError("gone"), Failure.GROUP_MOVED_ON),
        (errors.RebalanceInProgressError("wait"), Failure.GROUP_MOVED_ON),
        (errors.StorageError("EIO"), Failure.ENDS_RUN),
        (errors.StoreClosedError("closed"), Failure.ENDS_RUN),
        (errors.ForkedStoreError("child"), Failure.ENDS_RUN),
        (errors.ProducerFencedError("zombie"), Failure.ENDS_RUN),
        (errors.CommitUndecidedError("who knows"), Failure.ENDS_RUN),
    ],
)
def test_kinds(error: Exception, kind: Failure) -> None:
    assert classify(error) is kind
    if isinstance(error, MQError):
        commit = errors.TransactionAbortedError("the commit failed")
        commit.__cause__ = error
        assert classify(commit) is kind
