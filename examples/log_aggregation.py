"""Log lines from many hosts, each counted once although hosts send some of them twice.

    python examples/log_aggregation.py [STORE]      # a new directory; without one a store in memory

A host that hears nothing sends again: it cannot know whether the line or only the answer was lost. Each line carries an id, and
the topic remembers ids for an hour: a line that comes again is not stored again, whoever sends it.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

import mqcore

HOSTS, LINES, ROUNDS = 8, 250, 4
LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"]


def make_lines(host: int, round_number: int) -> list[bytes]:
    draw = random.Random(host * 1000 + round_number)
    return [
        json.dumps({"host": f"web-{host}", "level": draw.choices(LEVELS, [20, 70, 8, 2])[0], "n": number}).encode()
        for number in range(LINES)
    ]


def ship(store: mqcore.Store) -> tuple[Counter[str], int, int]:
    """Every host sends its lines; every third answer is "lost", so that the same lines are sent again with the same ids.
    Returns the true counts, how many sends of a line there were, and how many of them were known already."""
    truth: Counter[str] = Counter()
    sends = known = 0
    draw = random.Random(1)
    with store.producer() as producer:
        for host in range(HOSTS):
            ids = mqcore.Snowflake(worker=host)  # unique over hosts without asking anybody
            for round_number in range(ROUNDS):
                lines, numbers = make_lines(host, round_number), ids.batch(LINES)
                truth.update(json.loads(line)["level"] for line in lines)
                while True:
                    delivery = producer.send_many("logs", lines, ids=numbers)
                    sends += LINES
                    delivery.result()  # stored, or known to be stored already: either way the line is safe
                    known += int(delivery.duplicates.sum())
                    if draw.random() > 0.33:
                        break  # the answer arrived
    return truth, sends, known


@mqcore.processor(source="logs", group="counts", guarantee="exactly_once")
def aggregate(batch, tx):
    """Count by level, and pass errors on to a topic of their own."""
    lines = [json.loads(line) for line in batch.values.iter_bytes()]
    counts = tx.state("levels")
    for level, more in Counter(line["level"] for line in lines).items():
        counts[level.encode()] = str(int(counts.get(level.encode(), b"0")) + more).encode()
    tx.send_many("errors", [json.dumps(line).encode() for line in lines if line["level"] == "ERROR"])


def main(path: str) -> None:
    with mqcore.open(path) as store:
        store.create_topic("logs", partitions=4, config={"mqcore.dedup.window.ms": 3_600_000})
        store.create_topic("errors")
        truth, sends, known = ship(store)
        store.run(aggregate, workers=2, until="caught_up")
        counted = {level.decode(): int(count) for level, count in store.state("levels").items()}
        print(f"{sends} sends of {truth.total()} lines; {known} were there already")
        print("counted:", counted)
        assert counted == dict(truth)
        assert sends - known == truth.total()
        with store.consumer("errors", follow=False) as consumer:
            assert sum(1 for _ in consumer) == truth["ERROR"]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ":memory:")
