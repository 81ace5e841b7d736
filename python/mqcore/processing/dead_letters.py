"""Records that a processor could not process go to a topic of their own, with what happened in headers. Pure.

The header names are those of Kafka Connect's dead-letter queues (KIP-298), so that tools for those read ours.
"""

from __future__ import annotations

import traceback
from typing import Any

from mqcore.errors import MQError

_PREFIX = "__connect.errors."
_TEXT_MAX = 4096  # bytes of an error's text: a dead letter must fit where its record did


def headers_of(record: Any, error: BaseException, *, topic: str, partition: int, name: str, attempts: int) -> list[Any]:
    """The headers of a dead letter: those that the record had, then where it came from and why it is here."""
    facts = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(record.offset),
        "task.id": name,
        "stage": "PROCESS",
        "attempts": str(attempts),
        "exception.class.name": f"{type(error).__module__}.{type(error).__qualname__}",
        "exception.message": str(error.what if isinstance(error, MQError) else error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }
    # The end of a stack trace says most.
    return [
        *record.headers,
        *((_PREFIX + key, text.encode("utf-8", "replace")[-_TEXT_MAX:]) for key, text in facts.items()),
    ]
