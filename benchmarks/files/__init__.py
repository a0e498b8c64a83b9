"""Files on asyncio: this package's, those of its peers, and what the machine itself can do."""
