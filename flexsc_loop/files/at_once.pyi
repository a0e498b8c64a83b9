from typing_extensions import disjoint_base

@disjoint_base
class AtOnce:
    def describe(self, fd: int, flags: int | None = None) -> tuple[int, int, int, int | None, bool, bool, int, int]: ...
