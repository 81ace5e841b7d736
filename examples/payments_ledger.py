"""A payments ledger: every payment moves money once, and money is never made or lost.

    python examples/payments_ledger.py [STORE]      # a directory, kept; without one a store in memory

Payments come in on a topic. For each, one transaction changes two balances, writes a receipt and moves the group's offset:
all of it or nothing. Kill it with -9 whenever you like and start it again: the books balance.
"""

from __future__ import annotations

import json
import random
import sys

import mqcore

ACCOUNTS = [f"acct-{number}".encode() for number in range(20)]
OPENING = 10_000_00  # cents on each account
PAYMENTS = 3000


def open_books(store: mqcore.Store) -> None:
    """Make the topics; credit the accounts and send the payments, all or nothing, unless a run before did."""
    for topic in {"payments", "receipts"} - store.topics().keys():
        store.create_topic(topic, partitions=4)
    if ACCOUNTS[0] in store.state("balances"):
        return
    draw = random.Random(7)
    with store.transaction("opening") as tx:
        balances = tx.state("balances")
        for account in ACCOUNTS:
            balances[account] = str(OPENING).encode()
        for number in range(PAYMENTS):
            payer, payee = draw.sample(ACCOUNTS, 2)
            order = {"id": number, "from": payer.decode(), "to": payee.decode(), "cents": draw.randrange(1, 200_00)}
            tx.send("payments", json.dumps(order).encode(), key=payer)


@mqcore.processor(source="payments", group="ledger", guarantee="exactly_once", batch_records=200)
def settle(batch, tx):
    """Take every payment of the batch, or refuse it for want of money. An exception undoes the whole batch."""
    balances = tx.state("balances")
    for record in batch:
        order = json.loads(record.value)
        payer, payee = order["from"].encode(), order["to"].encode()
        has = int(balances[payer])  # reads see what this transaction wrote
        if order["cents"] > has:
            receipt = {"id": order["id"], "status": "refused"}
        else:
            balances[payer] = str(has - order["cents"]).encode()
            balances[payee] = str(int(balances[payee]) + order["cents"]).encode()
            receipt = {"id": order["id"], "status": "paid"}
        tx.send("receipts", json.dumps(receipt).encode(), key=payer)


def audit(store: mqcore.Store) -> dict[str, int]:
    """Read everything back, and check it."""
    balances = {account: int(cents) for account, cents in store.state("balances").items()}
    with store.consumer("receipts", follow=False) as consumer:
        receipts = [json.loads(record.value) for record in consumer]
    assert sum(balances.values()) == len(ACCOUNTS) * OPENING, "money was made or lost"
    assert min(balances.values()) >= 0, "an account is overdrawn"
    assert sorted(receipt["id"] for receipt in receipts) == list(range(PAYMENTS)), "a payment is missing or came twice"
    return {status: sum(one["status"] == status for one in receipts) for status in ("paid", "refused")}


def main(path: str) -> None:
    with mqcore.open(path) as store:
        open_books(store)
        # Workers change the same balances: who loses a race (StateConflictError) does the batch again.
        progress = store.run(settle, workers=2, until="caught_up")
        print(f"{progress.records} payments in {progress.commits} commits, {progress.retries} batches done again")
        print("the books balance:", audit(store))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ":memory:")
