"""Notifications over a gateway that fails: retries with back-off, and dead letters for what never works.

    python examples/notifications.py [STORE]      # a new directory; without one a store in memory

The gateway is outside: no transaction of ours can take a sent message back. So this is at least once, and the gateway is given
the record's place as an idempotency key: what it has seen it does not send again.
"""

from __future__ import annotations

import random
import sys

import mqcore

MESSAGES = 300


class Gateway:
    """A stand-in for somebody else's HTTP service: it is down now and then, and refuses bad numbers always."""

    def __init__(self) -> None:
        self._draw = random.Random(3)
        self.sent: dict[str, str] = {}
        self.repeats = 0

    def send(self, number: str, text: str, *, idempotency_key: str) -> None:
        if not number.startswith("+"):
            raise ValueError(f"no such number: {number}")
        if self._draw.random() < 0.02:
            raise ConnectionError("the gateway is down")
        if idempotency_key in self.sent:
            self.repeats += 1
        self.sent[idempotency_key] = text


gateway = Gateway()


@mqcore.processor(
    source="notifications",
    group="sms",
    guarantee="at_least_once",
    batch_records=20,
    attempts=3,  # of the batch; then its records go one by one, each as often
    backoff_s=0.001,  # here: a real gateway wants a second or so
    backoff_max_s=0.01,
    dead_letters="notifications.dead",
    rate=5000,  # records a second, over all workers
)
def notify(batch, tx):
    for record in batch:
        key = f"{batch.topic}-{batch.partition}-{record.offset}"
        gateway.send(bytes(record.key).decode(), bytes(record.value).decode(), idempotency_key=key)
        tx.send("notifications.sent", key.encode())


def main(path: str) -> None:
    with mqcore.open(path) as store:
        store.create_topic("notifications", partitions=2)
        store.create_topic("notifications.sent")
        store.create_topic("notifications.dead")
        with store.producer() as producer:
            for number in range(MESSAGES):
                phone = f"+4930{number:06}" if number % 100 != 42 else f"{number}"  # a few that never work
                producer.send("notifications", f"your parcel {number} is here".encode(), key=phone.encode())
        progress = store.run(notify, until="caught_up")
        print(f"{progress.records} taken, {progress.retries} attempts failed, {progress.dead_letters} dead letters")
        print(f"the gateway sent {len(gateway.sent)}, and {gateway.repeats} came again with a key that it knew")
        with store.consumer("notifications.dead", follow=False) as consumer:
            for letter in consumer:
                why = dict(letter.headers)["__connect.errors.exception.message"]
                print("dead:", bytes(letter.key).decode(), "-", bytes(why).decode())
        assert len(gateway.sent) == MESSAGES - 3
        assert progress.dead_letters == 3
        with store.consumer("notifications.sent", follow=False) as consumer:  # at least once, each
            assert {bytes(record.value).decode() for record in consumer} == gateway.sent.keys()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ":memory:")
