"""The command line: click and rich over the public API, one file a noun. `mqcore.cli.main` is the entry point."""
