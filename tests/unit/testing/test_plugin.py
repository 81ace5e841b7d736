"""The pytest plugin gives a store in milliseconds and a clock that fires what is due, and leaves nothing behind."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

# Where mqcore is installed, its entry point loads the plugin; in a bare checkout it has to be named.
_INSTALLED = any(point.value == "mqcore.testing.plugin" for point in metadata.entry_points(group="pytest11"))
_PLUGIN = () if _INSTALLED else ("-p", "mqcore.testing.plugin")

_LEFTOVERS = """
    import gc, os, threading
    import pytest

    def _open_files():
        return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                if os.path.lexists(f"/proc/self/fd/{fd}")}

    @pytest.fixture(scope="session", autouse=True)
    def nothing_is_left(request):
        yield
        gc.collect()
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("mqcore")]
        files = [name for name in _open_files() if "mqcore-memory" in name]
        assert not left, left
        assert not files, files
"""

_TESTS = """
    import mqcore, pytest
    from mqcore.errors import MQError

    @pytest.mark.parametrize("number", range(6))
    def test_a_store_of_its_own(mqcore_store, number):
        assert mqcore_store.topics() == {}
        mqcore_store.create_topic("t", partitions=2)
        with mqcore_store.producer() as producer:
            producer.send("t", b"x").result()
        with mqcore_store.consumer("t", group="g", start="earliest") as consumer:
            assert sum(map(len, consumer.poll(timeout_s=5))) == 1
            consumer.commit()

    def test_what_a_test_leaves_open_is_closed(mqcore_store):
        mqcore_store.create_topic("t")
        mqcore_store.producer().send("t", b"x")
        mqcore_store.consumer("t", group="g")

    def test_retention(mqcore_store, mqcore_clock):
        mqcore_store.create_topic("t", config={"retention.ms": 3_600_000, "segment.ms": 60_000})
        with mqcore_store.producer() as producer:
            for _ in range(3):
                producer.send("t", b"x").result()
                mqcore_clock.advance(61)
        assert mqcore_store.begin_offsets("t") == {0: 0}
        mqcore_clock.advance(3_700)
        assert mqcore_store.begin_offsets("t") == {0: 3}

    def test_transactions_time_out(mqcore_store, mqcore_clock):
        mqcore_store.create_topic("t")
        tx = mqcore_store.transaction("me", timeout_s=30)
        tx.send("t", b"x")
        mqcore_clock.advance(60)
        with pytest.raises(MQError, match="too long"):
            tx.commit()
        assert list(mqcore_store.consumer("t", start="earliest").poll(timeout_s=0)) == []

    def test_members_live_through_any_time(mqcore_store, mqcore_clock):
        mqcore_store.create_topic("t")
        with mqcore_store.consumer("t", group="g", max_poll_interval_s=None) as consumer:
            consumer.poll(timeout_s=0)
            before = consumer.group_metadata()
            mqcore_clock.advance(86_400)
            consumer.poll(timeout_s=0)
            assert consumer.group_metadata() == before

    def test_members_who_do_not_poll_are_left_out(mqcore_store, mqcore_clock):
        mqcore_store.create_topic("t")
        with mqcore_store.consumer("t", group="g", max_poll_interval_s=300) as consumer:
            consumer.poll(timeout_s=0)
            before = consumer.group_metadata().generation
            mqcore_clock.advance(301)
            consumer.poll(timeout_s=0)
            assert consumer.group_metadata().generation > before

    def test_sessions_end_when_all_stands_still(mqcore_store, mqcore_clock):
        mqcore_store.create_topic("t")
        with mqcore_store.consumer("t", group="g") as consumer:
            consumer.poll(timeout_s=0)
            before = consumer.group_metadata().generation
            mqcore_clock.advance(60, stalled=True)
            consumer.poll(timeout_s=0)
            assert consumer.group_metadata().generation > before

    def test_time_does_not_go_back(mqcore_clock):
        with pytest.raises(ValueError, match="back"):
            mqcore_clock.advance(-1)
"""
_COUNT = 13


def test_the_fixtures_work_and_leave_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(_LEFTOVERS)
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_subprocess(*_PLUGIN, "-p", "no:randomly", "-q")
    result.assert_outcomes(passed=_COUNT)


def test_also_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(_LEFTOVERS)
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_subprocess(*_PLUGIN, "-q", "-n", "2")
    result.assert_outcomes(passed=_COUNT)


def test_also_under_asyncio(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(_LEFTOVERS)
    pytester.makepyfile(
        """
        import asyncio, pytest

        @pytest.mark.asyncio
        @pytest.mark.parametrize("number", range(3))
        async def test_a_store_beside_a_loop(mqcore_store, mqcore_clock, number):
            mqcore_store.create_topic("t")
            with mqcore_store.producer() as producer:
                delivery = producer.send("t", b"x")
                await asyncio.to_thread(delivery.result)
            mqcore_clock.advance(60)
            with mqcore_store.consumer("t", start="earliest") as consumer:
                assert len(await asyncio.to_thread(consumer.poll, 1.0)) == 1
        """
    )
    result = pytester.runpytest_subprocess(*_PLUGIN, "-q", "-o", "asyncio_default_fixture_loop_scope=function")
    result.assert_outcomes(passed=3)


def test_a_test_that_fails_or_is_interrupted_leaves_nothing_either(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(_LEFTOVERS)
    pytester.makepyfile(
        """
        def test_fails(mqcore_store):
            mqcore_store.create_topic("t")
            mqcore_store.consumer("t", group="g").poll(timeout_s=0)
            assert False, mqcore_store.path

        def test_interrupted(mqcore_store):
            mqcore_store.create_topic("t")
            raise KeyboardInterrupt(mqcore_store.path)
        """
    )
    result = pytester.runpytest_subprocess(*_PLUGIN, "-q")
    text = "\n".join([*result.outlines, *result.errlines])
    assert "Interrupted" in text or "KeyboardInterrupt" in text
    for line in text.split():
        path = line.strip("'\"(),:")
        assert "mqcore-memory-" not in path or not Path(path).exists(), path
