"""`apps.plain` for servers that ask the policy for their loop, and import the application before that."""

from apps import plain

import flexsc_loop

flexsc_loop.install()

__all__ = ["plain"]
