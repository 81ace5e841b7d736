"""Running averages of sensors: numpy over whole batches, one state entry a sensor, a table that others read.

    python examples/sensor_averages.py [STORE]      # a new directory; without one a store in memory

Readings are 12 bytes: the sensor's number (uint32) and a value (float64), little-endian. The averages after each batch go to a
compacted topic, which keeps the latest of each sensor; `store.table` is that topic as a map.
"""

from __future__ import annotations

import struct
import sys

import numpy as np

import mqcore

READING = np.dtype([("sensor", "<u4"), ("value", "<f8")])
TOTAL = struct.Struct("<qd")  # how many, their sum
SENSORS, READINGS = 50, 200_000


def measure(store: mqcore.Store) -> np.ndarray:
    """Send readings; the truth to compare with."""
    draw = np.random.default_rng(5)
    readings = np.empty(READINGS, READING)
    readings["sensor"] = draw.integers(0, SENSORS, READINGS)
    readings["value"] = 20.0 + readings["sensor"] + draw.normal(0.0, 1.0, READINGS)
    with store.producer() as producer:
        # A row of bytes is a value: no Python object is made for any of them.
        producer.send_many("readings", readings.view(np.uint8).reshape(READINGS, READING.itemsize))
    return readings


@mqcore.processor(source="readings", group="averages", guarantee="exactly_once", batch_records=50_000)
def average(batch, tx):
    """Fold a batch into the totals, sensor by sensor, and publish the averages that changed."""
    buffer, starts, _ = batch.values.to_numpy()  # where the values lie in the mapped file
    rows = buffer[starts[:, None] + np.arange(READING.itemsize)]
    readings = rows.view(READING)[:, 0]
    counts = np.bincount(readings["sensor"], minlength=SENSORS)
    sums = np.bincount(readings["sensor"], weights=readings["value"], minlength=SENSORS)
    totals = tx.state("totals")
    for sensor in np.flatnonzero(counts):
        key = b"sensor-%d" % sensor
        count, total = TOTAL.unpack(totals.get(key, TOTAL.pack(0, 0.0)))
        count, total = count + int(counts[sensor]), total + float(sums[sensor])
        totals[key] = TOTAL.pack(count, total)
        tx.send("averages", b"%.6f" % (total / count), key=key)


def main(path: str) -> None:
    with mqcore.open(path) as store:
        store.create_topic("readings", partitions=4)
        store.create_topic("averages", config={"cleanup.policy": "compact"})
        readings = measure(store)
        progress = store.run(average, workers=2, until="caught_up")
        averages = store.table("averages")
        for sensor in range(SENSORS):
            truth = readings["value"][readings["sensor"] == sensor].mean()
            assert abs(float(averages[b"sensor-%d" % sensor]) - truth) < 1e-5
        print(f"{progress.records} readings of {SENSORS} sensors, {progress.per_second:,.0f} a second")
        print("sensor-7:", averages[b"sensor-7"].decode())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ":memory:")
