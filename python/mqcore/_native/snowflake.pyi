"""The time and the sequence of one Snowflake generator, counted in ticks: (ms since its epoch) * 4,096 + sequence."""

class Ticks:
    """What mqcore.ids.Snowflake is made of; it brings `_take`. Any thread may call, each call is one step.

    All times in ms; not_before_ms, wall_ms: since 1970. wall_ms, monotonic_ms: what the clocks say at the start.
    system_clocks: `next` reads the system's clocks itself; else it asks `_take`.
    """

    worker: int
    epoch_ms: int
    def __init__(
        self,
        worker: int,
        epoch_ms: int,
        ahead_ms: int,
        not_before_ms: int,
        wall_ms: int,
        monotonic_ms: int,
        *,
        system_clocks: bool,
    ) -> None: ...
    def next(self) -> int:
        """One id. Waits where the limit of 4,096 a ms demands it. Raises as `reserve` does."""

    def now(self, wall_ms: int, monotonic_ms: int, /) -> int:
        """The generator's time, ms since the epoch, from what the clocks say: never backwards."""

    def reserve(self, count: int, now: int, /) -> tuple[int, int]:
        """(first of `count` ticks, 0), or (-1, ms to wait before the next try): they would lie too far ahead of `now`.

        A span longer than ahead_ms is granted once the one before it has begun; it is used when its time has come near.
        ForkedStoreError after `disown`; ValueError: now < 0; OverflowError: past 41 bits of ms.
        """

    def disown(self) -> None:
        """This is a forked child's copy: it gives no more ids."""

    @property
    def last_timestamp_ms(self) -> int:
        """The time in the last id, ms since 1970; what a successor with this worker needs as `not_before_ms`."""
