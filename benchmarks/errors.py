"""The one exception whose text is meant for the person who typed the command."""

from collections.abc import Mapping


class BenchmarkError(Exception):
    """Something that the user can mend, or a loop that is not available; the message says which and how."""


def unanswered(errors: Mapping[str, int]) -> BenchmarkError:
    """What is raised where no request was answered: with those errors that there were, by kind."""
    seen = ", ".join(f"{count} of kind {kind!r}" for kind, count in errors.items() if count)
    return BenchmarkError(f"not one request was answered; errors: {seen or 'none, within the time there was'}")
