"""The one exception whose text is meant for the person who typed the command."""


class BenchmarkError(Exception):
    """Something that the user can mend, or a loop that is not available; the message says which and how."""
