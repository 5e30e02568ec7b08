"""Plays machines on the pure rules alone, told offline: what the offline narrator's tests stand on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime import view
from runtime.advance import arrived, begun, roll_dice, route, settle, turn_scope
from runtime.constraints import answer_schema, bounds_of
from runtime.facts import facts_of
from runtime.machine import Machine, asked_ai_state, known_values
from runtime.narrators import Narration, Task
from runtime.narrators.offline import tell
from runtime.session import Choice, Constraints, KeyChoice, Offer, Session, Told

Chooser = Callable[[Session], Offer]


class Turn(Struct, frozen=True):
    """One turn played: what the narrator was given, what it told, and the session after it."""

    task: Task
    narration: Narration
    session: Session

    @property
    def texts(self) -> dict[str, str]:
        """Every text told, by its path."""
        options = {f"options.{key}": text for key, text in self.narration.options.items()}
        return dict(_texts("", self.narration.output)) | options


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(f"{path}.{name}".strip("."), part)


def begin(
    machine: Machine, language: str = "zh", seed: str = "s1", slots: Mapping[str, Any] | None = None, **limits: Any
) -> Turn:
    """Send the initial event."""
    definition = machine.definition
    session = Session(
        session_id="s",
        machine=machine.name,
        version=1,
        digest="d",
        run_seed=seed,
        constraints=Constraints(language=language, **limits),
        slots={**definition.slots, **(slots or {})},
        context=begun(machine),
        limit_ms=None,
    )
    return _played(machine, session, definition.first.event, Choice(), "")


def choose(machine: Machine, session: Session, offer: Offer, text: str = "") -> Turn:
    """Choose an option that was offered."""
    return _played(machine, session, offer.event_type, Choice(offer.key, offer.kind, offer.text), text)


def send(machine: Machine, session: Session, event: str, text: str = "") -> Turn:
    """Send an event without an option."""
    return _played(machine, session, event, Choice(), text)


def by_seed(session: Session) -> Offer:
    """A choice that the seed and the step decide."""
    digest = hashlib.sha256(f"{session.run_seed}/{session.step}".encode()).digest()
    return session.offer[digest[0] % len(session.offer)]


def play(machine: Machine, turns: int = 40, chooser: Chooser = by_seed, **begins: Any) -> list[Turn]:
    """A whole session, until it ends or `turns` are played."""
    played = [begin(machine, **begins)]
    while played[-1].session.offer and len(played) < turns:
        session = played[-1].session
        played.append(choose(machine, session, chooser(session)))
    return played


def _played(machine: Machine, session: Session, event: str, choice: Choice, text: str) -> Turn:
    task = task_of(machine, session, event, choice, text)
    narration = tell(task)
    return Turn(task, narration, _concluded(machine, task, narration))


def task_of(machine: Machine, session: Session, event: str, choice: Choice, text: str = "") -> Task:
    """What the flow would give a narrator for this event."""
    rolled = roll_dice(machine, session, event, choice.key)
    payload = {"text": text} if text else {}
    scope = turn_scope(machine, session, event, choice, payload, rolled)
    if session.state:
        known = known_values(scope, session.used, choice.key)
        compiled, considered = machine.choose(session.state, event, known)
        assert compiled is not None, considered
    else:
        compiled = machine.initial
    settled = settle(machine, session, compiled, event, choice, scope, rolled)
    facts = facts_of(machine, settled.session, settled.outcome)
    bounds = replace(bounds_of(machine, session.constraints), facts=facts)
    offer = route(machine, arrived(settled.session)).offer
    inputs = view.inputs_of(machine, settled, text, offer, bounds)
    prompt = machine.prompt_for(compiled.edge, session.constraints.language)
    story = {"state": settled.outcome.target, "from_state": session.state, "text": text, "option.text": choice.text}
    return Task(
        machine=machine,
        session=settled.session,
        edge=compiled.edge,
        outcome=settled.outcome,
        prompt=prompt,
        inputs=inputs,
        scope={**settled.values, **story},
        offer=offer,
        bounds=bounds,
        messages=(),
        schema=answer_schema(prompt, asked_ai_state(machine.definition), offer, bounds),
    )


def _concluded(machine: Machine, task: Task, narration: Narration) -> Session:
    session = arrived(replace(task.session, said={**task.session.said, **narration.said}))
    routed, choice = route(machine, session), task.outcome.choice
    told = Told(choice.text, view.scene_of(narration, task.prompt.fields))
    made = KeyChoice(session.step, choice.text, len(task.outcome.changes))
    return replace(
        session,
        turn=session.turn + 1,
        ended=machine.definition.states[session.state].is_final,
        offer=tuple(replace(each, text=narration.options[each.kind or each.key]) for each in routed.offer),
        routing=routed.routing,
        recent=(*session.recent, told)[-12:],
        key_choices=(*session.key_choices, made) if choice.text else session.key_choices,
    )
