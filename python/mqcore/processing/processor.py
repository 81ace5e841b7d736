"""What `@mqcore.processor` makes of a function: its source, its guarantee, what happens when it fails. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mqcore.processing.retry import Backoff

Function = Callable[[Any, Any], Any]
"""fn(batch, tx): a Batch of one partition (with per_record=True: a Record) and what it may write through."""


class Guarantee(StrEnum):
    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


@dataclass(frozen=True)
class Processor:
    """A function with all that `store.run` needs to know. Calling it calls the function."""

    function: Function
    source: tuple[str, ...]
    group: str
    guarantee: Guarantee = Guarantee.EXACTLY_ONCE
    per_record: bool = False
    batch_records: int = 10_000
    attempts: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    dead_letters: str | None = None
    rate: float | None = None
    timeout_s: float = 60.0
    start: str | int = "earliest"

    def __call__(self, item: Any, tx: Any) -> Any:
        return self.function(item, tx)

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", "processor")


def processor(
    *,
    source: str | Sequence[str],
    group: str,
    guarantee: Guarantee | str = Guarantee.EXACTLY_ONCE,
    per_record: bool = False,
    batch_records: int = 10_000,
    attempts: int = 5,
    backoff_s: float = 0.1,
    backoff_max_s: float = 30.0,
    dead_letters: str | None = None,
    rate: float | None = None,
    timeout_s: float = 60.0,
    start: str | int = "earliest",
) -> Callable[[Function], Processor]:
    """Make a function a processor, to be run by `store.run`.

    source: topics to consume, as `group`. The function gets (batch, tx), or (record, tx) with per_record=True; it writes
        through tx: `tx.send`, `tx.send_many`, `tx.state(name)`.
    guarantee: "exactly_once": what it writes, its state and the group's offsets are one transaction;
        "at_least_once": offsets are committed after the outputs, so a crash in between repeats outputs and state.
    batch_records: records of one transaction (or one commit of offsets), at most.
    attempts: how often a batch is tried before its records are tried one by one, and each of those before it goes to
        `dead_letters` (None: the run ends with the function's error). Waits in between grow from backoff_s to
        backoff_max_s, with full jitter.
    rate: records a second over all workers together; None: no limit.
    timeout_s: of a transaction: a function that hangs longer has its transaction aborted.
    start: where a group without offsets begins: "earliest", "latest", or milliseconds since 1970.

    Raises ValueError for options out of range.
    """
    sources = (source,) if isinstance(source, str) else tuple(source)
    if not sources or not group:
        raise ValueError("a processor needs a source topic and a group")
    if batch_records < 1 or attempts < 1:
        raise ValueError("batch_records and attempts must be 1 or more")
    if rate is not None and rate <= 0:
        raise ValueError(f"rate must be above 0, not {rate}")
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be above 0, not {timeout_s}")
    backoff = Backoff(backoff_s, backoff_max_s)

    def decorate(function: Function) -> Processor:
        if inspect.iscoroutinefunction(function):
            raise TypeError("a processor is a plain function: workers are threads")
        return Processor(
            function,
            sources,
            group,
            Guarantee(guarantee),
            per_record,
            batch_records,
            attempts,
            backoff,
            dead_letters,
            rate,
            timeout_s,
            start,
        )

    return decorate
