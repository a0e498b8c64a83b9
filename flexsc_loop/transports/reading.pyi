from typing_extensions import disjoint_base

from flexsc_loop.transports.writing import Writing

@disjoint_base
class Reading(Writing): ...
