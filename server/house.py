"""What every handler stands on: the runtime, the gate, the pace and the meter, in one value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from litestar import Request

    from runtime.session import Role
    from runtime.turn import Runtime
    from server.auth import Gate, Pace
    from server.call import Call
    from server.meter import Meter
    from server.streaming import Streams
    from server.tending import Tending


class House(Struct, frozen=True):
    """The parts of one server."""

    runtime: Runtime
    gate: Gate
    pace: Pace
    meter: Meter
    tending: Tending
    streams: Streams


def enter(request: Request[Any, Any, Any], role_needed: Role | None) -> tuple[House, Call]:
    """Every handler's first line: who is it, and may they? None = anyone.

    Raises Unauthenticated, Forbidden.
    """
    house: House = request.app.state["house"]
    call: Call = request.scope["state"]["call"]
    if role_needed is not None:
        house.gate.admit(call, role_needed)
    return house, call
