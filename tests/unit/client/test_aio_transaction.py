"""An awaited transaction is whole or nothing, as the synchronous one: committed at the end of its block, aborted by what
leaves it, fenced by the next of its id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import mqcore.aio
from mqcore.aio import AsyncStore
from mqcore.errors import InvalidTransactionStateError, ProducerFencedError

Test = Callable[[AsyncStore], Awaitable[None]]


@pytest.fixture(params=["os", "fsync"])
def in_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def main() -> None:
            async with await mqcore.aio.open(tmp_path / "s", durability=request.param) as store:
                await store.create_topic("t", partitions=2)
                await test(store)

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


async def values(store: AsyncStore) -> list[bytes]:
    async with store.consumer("t", follow=False, isolation="read_committed") as consumer:
        return sorted([record.value or b"" async for record in consumer])


def test_the_end_of_the_block_commits(in_store: Callable[[Test], None]) -> None:
    async def test(store: AsyncStore) -> None:
        async with store.transaction("a") as tx:
            tx.send("t", b"one", partition=0)
            tx.send_many("t", [b"two", b"three"], partition=1)
            tx.state("s")[b"k"] = b"v"
            assert await values(store) == []
        assert await values(store) == [b"one", b"three", b"two"]
        assert store.sync.state("s")[b"k"] == b"v"
        with pytest.raises(InvalidTransactionStateError):
            tx.send("t", b"late")

    in_store(test)


def test_an_exception_aborts(in_store: Callable[[Test], None]) -> None:
    async def fail(store: AsyncStore, error: BaseException) -> None:
        async with store.transaction("a") as tx:
            tx.send("t", b"gone", partition=0)
            tx.state("s")[b"k"] = b"gone"
            raise error

    async def test(store: AsyncStore) -> None:
        with pytest.raises(RuntimeError):
            await fail(store, RuntimeError())
        with pytest.raises(asyncio.CancelledError):
            await fail(store, asyncio.CancelledError())
        assert await values(store) == []
        assert dict(store.sync.state("s").items()) == {}
        async with store.transaction("a") as tx:
            tx.send("t", b"kept")
        assert await values(store) == [b"kept"]

    in_store(test)


def test_the_next_of_the_id_fences(in_store: Callable[[Test], None]) -> None:
    async def test(store: AsyncStore) -> None:
        async with store.transaction("a") as old:
            old.send("t", b"old", partition=0)
            async with store.transaction("a") as new:
                with pytest.raises(ProducerFencedError):
                    old.send("t", b"zombie")
                with pytest.raises(ProducerFencedError):
                    await old.commit()
                new.send("t", b"new", partition=0)
            await old.abort()  # over already; and the end of its block asks nothing more
        assert await values(store) == [b"new"]

    in_store(test)


def test_before_its_block_there_is_no_transaction(in_store: Callable[[Test], None]) -> None:
    async def test(store: AsyncStore) -> None:
        with pytest.raises(RuntimeError, match="async with"):
            store.transaction("a").send("t", b"x")

    in_store(test)
