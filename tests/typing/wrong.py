"""What the types must refuse: mypy has to find an error in each line that ends in `# wrong`, and in no other."""

from __future__ import annotations

import mqcore


def misuse(store: mqcore.Store) -> None:
    store.create_topic(7)  # wrong
    store.create_topic("t", partitions="three")  # wrong
    mqcore.open("x", durabilty="fsync")  # wrong
    mqcore.open(3)  # wrong
    producer = store.producer()
    producer.send_many("t", [b"x"], partition="0")  # wrong
    producer.send("t", b"x", partition="0")  # wrong
    offset: str = producer.send("t", b"x").result().offset  # wrong
    consumer = store.consumer("t")
    consumer.poll(timeout_s="1")  # wrong
    for record in consumer:
        record.value.decode()  # wrong
        print(record.nothing)  # wrong
    store.unknown()  # wrong
    print(offset)
