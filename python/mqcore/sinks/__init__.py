"""Results in the user's own database, with the offsets beside them: exactly once in effect."""
