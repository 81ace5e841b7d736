"""The room where the parts of an open store meet: transactions, groups, state."""
