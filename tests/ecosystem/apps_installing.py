"""`apps.plain` for servers that ask the policy for their loop, and import the application before that."""

import flexsc_loop
from apps import plain

flexsc_loop.install()

__all__ = ["plain"]
