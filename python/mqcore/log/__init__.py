"""Storage: one partition log, and all of them in a store directory."""
