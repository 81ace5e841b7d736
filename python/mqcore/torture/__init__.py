"""Fault suites: each one attacks a promise and reports what it saw; `mqcore torture SUITE` runs them."""
