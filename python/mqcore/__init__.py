"""mqcore: an embedded, crash-safe, Kafka-format message log."""
