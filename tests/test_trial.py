"""A turn on trial is the turn that is served: same edges, same states, same offers, same words."""

import random
from typing import Any

import pytest
from conftest import SCALE
from served import SHIPPED, shipped

from runtime.bench.trial import Step, Trial, step_of
from runtime.errors import Refusal
from runtime.recompute import before
from runtime.session import Entry, Invoke, Session
from runtime.turn import play

PLAYS = 2 * SCALE
MOST_TURNS = 60


def next_of(rng: random.Random, session: Session, machine: Any) -> dict[str, Any]:
    """Some option; where none is offered, what routing proposes, with a payload that it takes."""
    if session.offer and rng.random() < 0.95:
        return {"selected_option_id": rng.choice(session.offer).id}
    event = rng.choice(session.routing.allowed_event_types or ("NOTHING",))
    values = {"int": 1, "float": 0.5, "bool": True, "str": "灯", "text": "提着灯🏮走"}
    declared = machine.definition.event(event).payload if event != "NOTHING" else {}
    return {"event": event, "payload": {name: values[kind.rstrip("?")] for name, kind in declared.items()}}


def ruled(session: Session) -> dict[str, Any]:
    """What the rules alone know of a session."""
    names = ("state", "turn", "step", "ended", "context", "visits", "used", "routing")
    told = {name: getattr(session, name) for name in names}
    return {**told, "offer": [(each.id, each.key, each.kind, each.event_type) for each in session.offer]}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("language", ["zh", "en"])
async def test_a_turn_on_trial_is_the_turn_that_is_served(start: Any, name: str, language: str):
    machine = shipped()[name]
    for number in range(PLAYS):
        rng = random.Random(f"{name} {number}")  # noqa: S311 - no secret
        first = {
            "event": machine.definition.first.event,
            "run_seed": str(number),
            "constraints": {"language": language},
        }
        client = await start(machine)
        rules, telling = Trial(machine), Trial(machine, tells=True)
        ruled_step, told_step = rules.begin(Invoke(**first)), telling.begin(Invoke(**first))
        served = (await play(client.runtime, Invoke(**first, session_id="s"))).entry
        for _ in range(MOST_TURNS):
            await hold(client, machine, served, ruled_step, told_step)
            if served.after.ended:
                break
            sent = next_of(rng, served.after, machine)
            try:
                played = await play(client.runtime, Invoke(**sent, session_id="s", elapsed_active_seconds=0))
            except Refusal as refusal:
                for trial, step in ((rules, ruled_step), (telling, told_step)):
                    with pytest.raises(type(refusal)):
                        trial.take(step.after, Invoke(**sent))
                continue
            served = played.entry
            ruled_step = rules.take(ruled_step.after, Invoke(**sent))
            told_step = telling.take(told_step.after, Invoke(**sent))


async def hold(client: Any, machine: Any, served: Entry, ruled_step: Step, told_step: Step) -> None:
    assert ruled(ruled_step.after) == ruled(told_step.after) == ruled(served.after)
    assert told_step.narration is not None
    assert told_step.narration.output == served.narration["output"]
    assert told_step.after.recent == served.after.recent
    journal = step_of(machine, await before(client.runtime.store, machine, served), served)
    seen = [(each.compiled.full_name, each.verdict) for each in told_step.considered]
    assert [(each.compiled.full_name, each.verdict) for each in journal.considered] == seen
    assert [(each.compiled.full_name, each.verdict) for each in ruled_step.considered] == seen
    assert (journal.prompt, journal.rungs) == (told_step.prompt, told_step.rungs)
