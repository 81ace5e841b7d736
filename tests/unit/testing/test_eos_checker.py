"""The EOS checker finds each kind of harm, names where it lies, and passes nothing that it did not see."""

from __future__ import annotations

from mqcore.testing import open_store
from mqcore.testing.eos_checker import Plant, Seen, check, judge


def _plant(count: int = 5) -> Plant:
    plant = Plant("abc")
    plant.placed = {(0, number): (0, 10 + number) for number in range(count)}
    return plant


def _sink(*numbers: int) -> list[Seen]:
    return [Seen(0, 100 + at, (0, number)) for at, number in enumerate(numbers)]


def test_a_whole_sink_passes() -> None:
    verdict = judge(_plant(), _sink(0, 1, 2, 3, 4))
    assert verdict.passed
    assert (verdict.planted, verdict.read) == (5, 5)


def test_a_lost_record_is_named_with_its_place_in_the_source() -> None:
    verdict = judge(_plant(), _sink(0, 1, 2, 4))
    assert not verdict.at_least_once
    assert verdict.lost == 1
    assert verdict.examples["lost"] == [
        "record 3 of source partition 0, in the source at partition 0 offset 13, is not in the sink"
    ]


def test_a_duplicate_is_at_least_once_but_not_exactly_once() -> None:
    verdict = judge(_plant(), _sink(0, 1, 2, 1, 3, 4))
    assert verdict.at_least_once
    assert not verdict.passed
    assert verdict.duplicated == 1
    assert verdict.examples["duplicated"] == [
        "record 1 of source partition 0 at partition 0 offset 101 and again at partition 0 offset 103"
    ]


def test_a_record_that_overtook_is_out_of_order() -> None:
    verdict = judge(_plant(), _sink(0, 2, 1, 3, 4))
    assert (verdict.lost, verdict.duplicated, verdict.reordered) == (0, 0, 1)
    assert "offset 102, after number 2 at offset 101" in verdict.examples["reordered"][0]


def test_source_partitions_are_ordered_each_by_itself() -> None:
    plant = _plant(2)
    plant.placed |= {(1, 0): (1, 0), (1, 1): (1, 1)}
    mixed = [Seen(0, at, name) for at, name in enumerate([(1, 0), (0, 0), (0, 1), (1, 1)])]
    assert judge(plant, mixed).passed


def test_an_invented_record_is_found_and_other_runs_are_left_alone() -> None:
    verdict = judge(_plant(1), [*_sink(0), Seen(0, 200, (7, 7)), Seen(0, 201, None)])
    assert verdict.unknown == 1
    assert not verdict.at_least_once


def test_a_check_of_nothing_does_not_pass() -> None:
    assert not judge(Plant("abc"), []).passed


def test_ids_are_found_wherever_they_stand() -> None:
    plant = Plant("abc")
    assert plant.find(b'{"id": "eos-abc-3-17"}') == (3, 17)
    assert plant.find(None, b"x eos-zzz-1-1 eos-abc-0-9 y") == (0, 9)
    assert plant.find(b"eos-abd-3-17", None) is None


def test_what_the_source_lost_and_the_sink_lacks_is_told_of_a_real_store() -> None:
    with open_store() as store:
        store.create_topic("in", partitions=3)
        store.create_topic("out", partitions=2)
        plant = Plant()
        plant.into(store, "in", 100)
        plant.into(store, "in", 5)
        with store.producer() as producer:
            for partition in (0, 1, 2):
                with store.consumer("in") as consumer:
                    consumer.assign([partition])
                    for batch in consumer.poll(timeout_s=0, max_records=1000):
                        for record in batch.records():
                            producer.send("out", b"done", headers=[("id", record.value)], partition=partition % 2)
        assert check(store, plant, source="in", sink="out").passed
        store.delete_before("in", {1: 2})
        store.delete_before("out", {1: 1})
        verdict = check(store, plant, source="in", sink="out")
        assert (verdict.source_lost, verdict.lost) == (2, 1)
