"""T10: what read_committed, the state and the group show is the model's, whatever commits, aborts, is fenced, dies, compacts."""

import os

from hypothesis import settings

from tests.model.txn_machine import TransactionMachine

EXAMPLES = int(os.environ.get("MQCORE_MODEL_EXAMPLES", "200"))

TestTransactions = TransactionMachine.TestCase
TestTransactions.settings = settings(settings.get_profile("default"), max_examples=EXAMPLES, stateful_step_count=50)
