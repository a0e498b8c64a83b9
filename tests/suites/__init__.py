"""Test suites that others wrote, on this loop and on the standard one: `python -m tests.suites --help`."""
