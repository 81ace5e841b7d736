"""Transactions over partitions, in Kafka's own records: who may write, what is decided, what a crash leaves to do."""
