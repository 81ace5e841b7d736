"""A transaction as its user has it: records, offsets and state, all or nothing.

    with store.transaction("teller-1") as tx:      # commits at the end, aborts on an exception
        tx.send("receipts", b"...", key=b"acct-7")

Invariants:
    1. A record of a transaction is appended under its gate (transactions/fencing.py), or fails with the reason why the
       transaction is over. Nothing of it is sent after its end: the sender of an ended one is idle, or closed.
    2. A sender (open chunks, sequences) is used by one transaction at a time. The next one of the same id has it if the
       one before ended well; a fenced or failed one takes its sender with it.
    3. commit returns after the flush; an error says what became of the transaction (errors.py).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from mqcore.client.linger import Linger
from mqcore.client.producer import Producer
from mqcore.errors import (
    InvalidGroupError,
    InvalidTransactionStateError,
    MQError,
    TransactionAbortedError,
    UnknownMemberError,
)
from mqcore.groups.participant import OffsetsInTransaction
from mqcore.log.partition_ports import Appended

if TYPE_CHECKING:
    from mqcore._native.chunks import Chunk, Delivery, Sink, Topic
    from mqcore._native.encode import _Headers as Headers
    from mqcore.broker.broker import Broker
    from mqcore.client.delivery import BulkDelivery
    from mqcore.client.group_consumer import GroupConsumer
    from mqcore.client.id_sends import IdDelivery, IdRecordDelivery
    from mqcore.client.membership import GroupMetadata
    from mqcore.groups.coordinator import OffsetToCommit
    from mqcore.ports import Participant
    from mqcore.state.transaction import TransactionState
    from mqcore.transactions.fencing import OpenTransaction
    from mqcore.types import TopicPartition

IDLE_SENDERS = 32  # kept for the next transaction of their ids; each keeps a few free buffers


class Sender(Producer):
    """The producer behind the transactions of one id. Nothing lingers in it: chunks go when they are full, or at the end."""

    def __init__(self, store: Any, **options: Any) -> None:
        super().__init__(store, linger=_NO_LINGER, idempotence=False, **options)  # `begin` names it
        self.armed = True  # for good: no thread looks after its chunks
        self.transaction: OpenTransaction | None = None
        self._broken: BaseException | None = None  # what interrupted a send with ids

    def begin(self, transaction: OpenTransaction) -> None:
        state = transaction.state
        self.transaction = self._holder = transaction
        self.set_identity(state.producer_id, state.epoch, transactional=True)

    def _arm(self) -> None:
        pass

    def _append(self, sink: Sink, chunk: Chunk) -> None:
        """Through the transaction's gate (invariant 1)."""
        transaction = self.transaction
        try:
            if transaction is None:
                raise InvalidTransactionStateError("the transaction is over")
            if sink.log is None:
                sink.log = self._open_log(sink.topic.name, sink.partition)
        except MQError as error:
            self._refuse(chunk, error)
            return
        with transaction.lock:
            try:
                transaction.admit(sink.log)
            except MQError as error:
                self._refuse(chunk, error)
                return
            super()._append(sink, chunk)

    def _refuse(self, chunk: Chunk, error: MQError) -> None:
        """It comes too late: no news to whoever ended the transaction, so not logged."""
        self._ready.extend(chunk.finish(error))
        self._failed.append(chunk)
        self._failures += 1

    def _send_ids(self, *args: Any) -> IdDelivery:
        try:
            return super()._send_ids(*args)
        except Exception:
            raise
        except BaseException as interrupt:  # the records may be stored, and their ids not pending
            self._broken = interrupt
            raise

    def _write_ids(self, target: Topic, partition: int, log: Any, build: Callable[..., bytearray]) -> Appended:
        """Through the gate, with the sequences that follow in the log."""
        transaction = self.transaction
        if transaction is None:
            raise InvalidTransactionStateError("the transaction is over")
        sink, state = target.sink(partition), transaction.state
        with sink.lock:
            sequence = max(0, log.next_sequence(state.producer_id, state.epoch))
            batches = build(identity=(state.producer_id, state.epoch, sequence))
            with transaction.lock:
                transaction.admit(log)
                try:
                    sink.owner = threading.get_ident()
                    sink.unsure = True  # the next chunk's sequences come after these
                    return log.append(batches)  # type: ignore[no-any-return]
                finally:
                    sink.owner = 0

    def append_all(self) -> None:
        """Append what is open, without waiting for the disk; raise the first error of a record of this transaction."""
        for sink in list(self.open_sinks):
            self._hand_off(sink)
        for topic in self.all_topics():
            for sink in topic.made_sinks():
                if sink.queue:
                    self._drain(sink, None)
        self._raise_first()

    def _raise_first(self) -> None:
        """Also an error that a result() has raised: without that record the transaction is not whole."""
        if self._broken is not None:
            raise TransactionAbortedError("a send with ids was interrupted")
        if self._failures:
            error = self._failed[0].error
            assert error is not None
            raise error

    def write(self, topic: str, partition: int, keys: Any, values: Any, timestamp_ms: int | None) -> Appended:
        """Append records to one partition now."""
        delivery = self.send_many(topic, values, keys=keys, timestamps=timestamp_ms, partition=partition)
        first, last = delivery.chunks()
        self._hand_off(first.sink)
        self._raise_first()
        return Appended(first.base_offset, last.next_offset, -1)

    def end(self) -> None:
        """The transaction is committed: so are its chunks. The next one may begin."""
        self._settle()
        while self._pending:
            self._bring_to_end(self._pending[0])
        self._with_ids.clear()
        self.transaction = self._holder = None

    def drop(self) -> None:
        """Forget what is not appended (its deliveries fail), and never send again."""
        for sink in list(self.open_sinks):
            self._hand_off(sink)
        self._call_back()
        self.closed = True
        self.forget()
        self._failed, self._failures = [], 0


_NO_LINGER = Linger()


class Senders:
    """Idle senders by transactional id. One a store; safe to share between threads."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, Sender] = OrderedDict()

    def take(self, name: str) -> Sender:
        with self._lock:
            sender = self._idle.pop(name, None)
        return Sender(self._store) if sender is None else sender

    def give_back(self, name: str, sender: Sender) -> None:
        with self._lock:
            self._idle[name] = sender
            while len(self._idle) > IDLE_SENDERS:
                self._idle.popitem(last=False)

    def close(self) -> None:
        with self._lock:
            senders, self._idle = list(self._idle.values()), OrderedDict()
        for sender in senders:
            sender.drop()


class Transaction:
    """One open transaction; made by `store.transaction`. A context manager: commits, or aborts on an exception.

    Its threads, if there are several, must have sent what they send before commit or abort is called.
    """

    def __init__(self, broker: Broker, senders: Senders, transactional_id: str, timeout_ms: int) -> None:
        self.transactional_id = transactional_id
        self._broker, self._senders = broker, senders
        self._open = broker.transactions.begin(transactional_id, timeout_ms)
        self._open.writer = self
        self.producer_id, self.epoch = self._open.state.producer_id, self._open.state.epoch
        self._states: dict[str, TransactionState] = {}
        self._ended = False  # commit or abort was called
        self._sender: Sender | None = senders.take(transactional_id)
        self._sender.begin(self._open)

    def __repr__(self) -> str:
        return f"<Transaction {self.transactional_id} {self._open.phase.name}>"

    # -- what it carries ----------------------------------------------------------------------------------------------

    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        partition: int | None = None,
        id: None = None,
    ) -> Delivery: ...
    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: None = None,
        timestamp: int | None = None,
        partition: int | None = None,
        *,
        id: Any,
    ) -> IdRecordDelivery: ...
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        partition: int | None = None,
        id: Any = None,
    ) -> Any:
        """As Producer.send; the delivery is done when the transaction is committed, or fails with it.

        id: see send_many; the delivery is an IdRecordDelivery then.
        Raises also why the transaction is over: ProducerFencedError, TransactionTimedOutError, TransactionAbortedError,
        InvalidTransactionStateError.
        """
        return self._sending().send(topic, value, key, headers, timestamp, partition, id)

    @overload
    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        timestamps: Any = None,
        headers: Sequence[Headers | None] | None = None,
        partition: int | None = None,
        ids: None = None,
    ) -> BulkDelivery: ...
    @overload
    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        timestamps: Any = None,
        headers: None = None,
        partition: int | None = None,
        ids: Any,
    ) -> IdDelivery: ...
    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        timestamps: Any = None,
        headers: Sequence[Headers | None] | None = None,
        partition: int | None = None,
        ids: Any = None,
    ) -> BulkDelivery | IdDelivery:
        """As Producer.send_many. Raises as send does.

        ids: they are pending until the transaction ends: with a commit they count, after an abort the same ids can be
        stored again. ConcurrentTransactionsError (retriable): an id is pending in another open transaction; the records
        of that partition are not appended.
        """
        options: dict[str, Any] = {"keys": keys, "timestamps": timestamps, "headers": headers}
        sender = self._sending()
        sent: BulkDelivery | IdDelivery = sender.send_many(topic, values, partition=partition, ids=ids, **options)
        return sent

    def state(self, name: str) -> TransactionState:
        """A map of bytes to bytes whose changes are part of the transaction; reads see them, over what was committed.

        A key that another transaction changes meanwhile makes this one's commit raise StateConflictError.
        """
        known = self._states.get(name)
        if known is None:
            self._sending()
            known = self._states[name] = self._broker.states.in_transaction(self, name)
        return known

    def commit_offsets(
        self, source: GroupConsumer | Mapping[TopicPartition, OffsetToCommit], group: GroupMetadata | str | None = None
    ) -> None:
        """Have a group's offsets committed with the transaction.

        source: the group's consumer (behind what it handed out last), or {partition: offset of the next record to read}.
        group: what consumer.group_metadata() says, so that a member that lost its partitions has the transaction aborted;
        a group's name for offsets that no member guards.
        Raises UnknownTopicError, UnknownMemberError (the consumer is not in its group), InvalidGroupError.
        """
        self._sending()
        offsets: Mapping[TopicPartition, OffsetToCommit]
        if isinstance(source, Mapping):
            offsets = source
        elif group is None:
            offsets, group = source.progress()
        else:
            offsets = {key: source.position(key) for key in source.assignment}
        if group is None:
            raise InvalidGroupError("offsets belong to a group", hint="Give the consumer, or group=")
        if isinstance(group, str):
            member: dict[str, Any] = {}
        else:
            member = {"member_id": group.member_id, "generation": group.generation, "instance_id": group.instance_id}
            if offsets and not group.member_id:
                raise UnknownMemberError("this consumer is not in its group", hint="Poll first", group=group.group)
            group = group.group
        offsets_carried = self.enlist("offsets", OffsetsInTransaction(self._broker.groups))
        assert isinstance(offsets_carried, OffsetsInTransaction)
        offsets_carried.add(group, offsets, **member)

    def _sending(self) -> Sender:
        sender = self._sender
        if sender is None or self._open.phase > 0:
            raise self._open.refusal()
        return sender

    def enlist(self, key: Any, participant: Participant) -> Participant:
        """See mqcore.ports.TransactionWriter."""
        self._sending()
        return self._open.participants.setdefault(key, participant)

    def write(
        self,
        topic: str,
        partition: int,
        keys: list[bytes],
        values: list[bytes | None],
        timestamp_ms: int | None = None,
    ) -> Appended:
        """See mqcore.ports.TransactionWriter: for participants, in their `prepare`."""
        sender = self._sender
        if sender is None:
            raise self._open.refusal()
        return sender.write(topic, partition, keys, values, timestamp_ms)

    # -- the end ------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit, durably. All of it is visible to read_committed from here on, or an error says why not.

        Raises ProducerFencedError, TransactionTimedOutError, TransactionAbortedError, StateConflictError … : it is aborted.
        DiskFullError: decided, call again. CommitUndecidedError: the disk failed; the next open tells.
        """
        transactions, sender = self._broker.transactions, self._sender
        self._ended = True
        if sender is not None and not self._open.phase:
            try:
                sender.append_all()
            except Exception as error:
                self._abort_after(error)
                raise TransactionAbortedError(
                    f"a record of the transaction was not stored: {error}", transactional_id=self.transactional_id
                ) from error
        try:
            transactions.commit(self._open)
        except BaseException:
            if self._open.error is not None:
                self._drop_sender()
            raise
        self._sender = None
        if sender is not None:
            sender.end()
            self._senders.give_back(self.transactional_id, sender)

    def abort(self) -> None:
        """Abort: nothing of it will ever be seen by read_committed. Again: nothing.

        InvalidTransactionStateError: it is committed. DiskFullError, StorageError: it is over, its markers come later.
        """
        self._ended = True
        try:
            self._broker.transactions.abort(self._open)
        finally:
            self._drop_sender()

    def _abort_after(self, error: Exception) -> None:
        try:
            self.abort()
        except MQError as later:
            error.add_note(f"the abort failed, too: {later}")

    def _drop_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if not self._ended:
                self.commit()
        elif not self._open.committed:
            try:
                self.abort()
            except MQError as later:
                error.add_note(f"the abort failed, too: {later}")
