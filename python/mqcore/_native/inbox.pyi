"""What one thread is asked to do. Only mqcore.log.group_commit uses it, for its flusher."""

class Inbox:
    """Bits that any thread adds and one thread takes."""

    def request(self, bits: int) -> None:
        """Add work; what the bits mean is the caller's."""
    def take(self) -> int:
        """Block until there is work; take and return its bits. For one thread."""
