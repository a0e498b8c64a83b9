from typing_extensions import disjoint_base

from flexsc_loop.turn.turn import Endpoint

@disjoint_base
class ProtocolEndpoint(Endpoint): ...
