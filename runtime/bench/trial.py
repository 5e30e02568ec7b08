"""A turn without a journal: the same rules as a served one, taken by the tester's tools. Start at `Trial.take`.

It is made of the very functions that `turn.take_turn` is made of; what it leaves out is the store,
the clock and, where only the rules are asked, the telling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime import request
from runtime.advance import Settled, arrived, entered, learn, route, turn_scope
from runtime.errors import SessionEnded
from runtime.machine import Considered, Machine, consider, known_values
from runtime.model import ROOT
from runtime.narrators import Narration
from runtime.narrators.offline import Offline
from runtime.recompute import taken
from runtime.request import Asked, Opened
from runtime.session import JOURNAL_FORMAT, Entry, Invoke, Outcome, Session, meta_of
from runtime.turn import Chosen, brief, choose_edge, conclude, settled_by, story_scope

NOBODY = "trial"
"""The id of a session that no journal has."""


Learned = Mapping[str, Any] | Callable[[Opened, Settled, Asked], Mapping[str, Any]]
"""What a model would have taught, or what finds it out once the turn is settled."""
NOTHING_LEARNED: Mapping[str, Any] = {}
"""What offline words teach."""


class Step(Struct, frozen=True, kw_only=True):
    """One turn as the tools see it.

    `before.state` is '' before the first. `considered` are the event's edges as they were judged,
    `routed` those that routing judged after it; both are () where they aren't known. `prompt` is the
    file that it was told by, '' where nothing was told or the built-in one was used. `narration` is
    None where only the rules were asked, and for a turn out of a journal.
    """

    before: Session
    after: Session
    outcome: Outcome
    considered: tuple[Considered, ...] = ()
    routed: tuple[Considered, ...] = ()
    prompt: str = ""
    rungs: tuple[str, ...] = ()
    narration: Narration | None = None
    warnings: tuple[str, ...] = ()


class Trial:
    """A machine under trial. Sessions go in and come out: it keeps none, so any turn may be tried again.

    With `tells`, every turn is told by the offline narrator as a served one is; else the rules alone
    are asked, which is many times faster and leads to the same states: offline words teach nothing.
    """

    def __init__(self, machine: Machine, *, tells: bool = False) -> None:
        """Take a machine on trial."""
        self.machine = machine
        self._narrator = Offline() if tells else None

    def begin(self, invoke: Invoke, learned: Learned = NOTHING_LEARNED) -> Step:
        """The first turn of a session. Raises Refusal."""
        request.refuse_unbegun(self.machine, invoke)
        return self._taken(request.begin(self.machine, invoke, NOBODY, lambda: "0", 0), invoke, learned)

    def take(self, session: Session, invoke: Invoke, learned: Learned = NOTHING_LEARNED) -> Step:
        """A turn of a session that stands somewhere; `learned` is what a model would have taught, with `tells` nothing.

        The session is as it was, whatever comes. Raises Refusal.
        """
        if session.ended:
            raise SessionEnded("the session has ended", "Begin another.", ending=session.state, turn=session.turn)
        # The clock stands still where the player's isn't told.
        opened = request.go_on(self.machine, invoke, head_of(session), session.answered_at_ms)
        return self._taken(opened, invoke, learned)

    def _taken(self, opened: Opened, invoke: Invoke, learned: Learned) -> Step:
        asked = request.read(opened, invoke, "operator")
        chosen = choose_edge(opened, asked, "operator")
        settled = settled_by(chosen, opened, asked)
        if self._narrator is None:
            taught = learned(opened, settled, asked) if callable(learned) else learned
            return _ruled(opened, settled, asked, chosen, taught)
        return _told(self._narrator, opened, settled, asked, chosen)


def _ruled(opened: Opened, settled: Settled, asked: Asked, chosen: Chosen, learned: Mapping[str, Any]) -> Step:
    """The turn by its rules alone."""
    machine = opened.machine
    scope = story_scope(settled, asked) if settled.compiled.learn else settled.values
    context, warnings = learn(machine, settled, learned, scope)
    session = arrived(replace(settled.session, context=context))
    routed = route(machine, session, opened.dice)
    session = replace(
        session,
        turn=opened.next_turn,
        ended=machine.definition.states[session.state].is_final,
        offer=routed.offer,
        routing=routed.routing,
    )
    return Step(
        before=opened.session,
        after=session,
        outcome=settled.outcome,
        considered=chosen.considered,
        routed=routed.considered,
        warnings=(*opened.warnings, *warnings, *routed.warnings),
    )


def _told(narrator: Offline, opened: Opened, settled: Settled, asked: Asked, chosen: Chosen) -> Step:
    """The turn, told offline."""
    preview = route(opened.machine, arrived(settled.session), opened.dice)
    task = brief(opened, settled, asked, preview.offer)
    narration = narrator.tell(task)
    session, routed, warnings = conclude(opened, settled, asked, task, narration, preview)
    return Step(
        before=opened.session,
        after=session,
        outcome=settled.outcome,
        considered=chosen.considered,
        routed=routed.considered,
        prompt=task.prompt.file,
        rungs=narration.rungs,
        narration=narration,
        warnings=warnings,
    )


def head_of(session: Session) -> Entry:
    """A head for a session that no journal has: all that a turn reads of one."""
    return Entry(
        format=JOURNAL_FORMAT,
        session_id=session.session_id,
        seq=session.turn,
        turn=session.turn,
        parent=None,
        at_ms=session.answered_at_ms,
        digest=session.digest,
        after=session,
        answer=msgspec.Raw(b"{}"),
        last_turn=session.turn,
    )


def placed(machine: Machine, invoke: Invoke, state: str, context: Mapping[str, Any]) -> Session:
    """A session that stands in a state at step 1, by no edge: the defaults, its `entry`, then `context`.

    Nothing was told; its options are offered in their own words. `invoke` says the rest, as a first
    event does. Raises MachineFault where the state's `entry` errs, and what `begin` raises.
    """
    begun = request.begin(machine, invoke, NOBODY, lambda: "0", 0)
    session = replace(begun.session, state=state, constraints=begun.constraints, elapsed_ms=begun.elapsed_ms)
    session = replace(session, context={**entered(machine, session, f"{ROOT}.given"), **context})
    session = arrived(session)
    routed = route(machine, session, invoke.dice)
    is_final = machine.definition.states[state].is_final
    return replace(session, turn=1, ended=is_final, offer=routed.offer, routing=routed.routing)


def step_of(machine: Machine, before: Session, entry: Entry) -> Step:
    """A telling out of a journal, from the session that it found (see `recompute.before`).

    Raises StoreUnavailable where it took an edge that the machine doesn't have.
    """
    outcome = entry.outcome
    compiled = taken(machine, entry)
    meta = meta_of(entry.answer)
    return Step(
        before=before,
        after=entry.after,
        outcome=outcome,
        considered=_considered(machine, before, entry) if before.state else (),
        routed=route(machine, entry.after).considered,
        prompt=machine.prompt_for(compiled.edge, entry.after.constraints.language).file,
        rungs=meta.rungs,
        warnings=meta.warnings,
    )


def _considered(machine: Machine, before: Session, entry: Entry) -> tuple[Considered, ...]:
    """The event's edges up to the one that was taken, as they were judged."""
    outcome = entry.outcome
    payload = entry.request.get("payload", {})
    scope = turn_scope(machine, before, outcome.event, outcome.choice, payload, outcome.dice)
    known = known_values(scope, before.used, outcome.choice.key)
    seen = []
    for compiled in machine.table[before.state]:
        if compiled.edge.event == outcome.event and compiled.edge.option in ("", outcome.choice.key):
            seen.append(consider(compiled, known))
            if compiled.full_name == outcome.edge:
                break
    return tuple(seen)
