"""aiohttp's own tests."""


def parts(quick):
    return []


def exclusions():
    return []
