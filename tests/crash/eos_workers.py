"""Workers for the EOS checker: python -P eos_workers.py STORE KIND.

"after": commits its offsets after its output (at least once). "before": before it, which loses what it had at hand.
"""

from __future__ import annotations

import signal
import sys
import threading

import mqcore


def main(path: str, kind: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with (
        mqcore.open(path, durability="os") as store,
        store.consumer("in", group="g", start="earliest") as consumer,
        store.producer() as producer,
    ):
        while not stop.is_set():
            batches = consumer.poll(timeout_s=0.1, max_records=20)
            if batches and kind == "before":
                consumer.commit()
            for batch in batches:
                for record in batch.records():
                    producer.send("out", record.value, partition=batch.partition)
                    stop.wait(0.0005)  # so that kills find it at work
            producer.flush()
            if batches and kind == "after":
                consumer.commit()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
