"""A process that runs a sink until it is killed: by itself at one step of one batch, or by its parent at any moment.

Arguments: store, database (see databases.open_sink), step, number of the batch to die in, records a batch.
Steps: "before_insert", "after_insert", "before_commit", "after_commit", or "never".
"""

from __future__ import annotations

import os
import signal
import sys

import mqcore
from tests.sinks.databases import open_sink, write

STEPS = ("before_insert", "after_insert", "before_commit", "after_commit")


def main(path: str, spec: str, step: str, number: int, batch_records: int) -> None:
    taken = 0

    def reached(here: str) -> None:
        if here == step and taken == number:
            os.kill(os.getpid(), signal.SIGKILL)

    # Beside the process that writes the store: any number may read.
    with mqcore.open(path, read_only=True) as store, open_sink(spec) as sink, sink.consumer(store, "t") as consumer:
        print("ready", flush=True)
        while batches := consumer.poll(timeout_s=0, max_records=batch_records):
            with sink.transaction(*batches) as db:
                reached("before_insert")
                for batch in batches:
                    write(db, batch)
                    reached("after_insert")
                reached("before_commit")
            reached("after_commit")
            taken += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
