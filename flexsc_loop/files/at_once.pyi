from typing_extensions import disjoint_base

@disjoint_base
class AtOnce:
    def describe(self, fd: int) -> tuple[int, int, int, int | None, bool, bool]: ...
