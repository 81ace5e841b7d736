"""The application's own state: ordered bytes -> bytes maps that live and die with transactions, and views of topics."""
