"""A move: one turn with all that it brings, so that the same play comes of it whatever the seed.

A path of moves is written as a replay, whose dice are fixed; `recorded` also writes what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.advance import KINDS, begun
from runtime.bench.replay import Chosen, Expect, Given, Replay, ReplayStep
from runtime.bench.trial import Step, Trial
from runtime.errors import Refusal
from runtime.machine import Considered, Machine, asked_ai_state
from runtime.session import NOTHING, Invoke, Offer, Session

SEED = "explore"
"""The run seed of every play that is searched for; nothing in it is left to chance."""
NOTHING_BROUGHT: Mapping[str, Any] = {}


class Move(Struct, frozen=True, kw_only=True):
    """One turn: an event, perhaps by an offered option's key or kind, and what it brings.

    `begins` are the session's own fields, in a first move alone. `kinds` are the free options drawn
    on arrival, None = whatever the seed says. `after_ms` is the player's clock since the turn before.
    """

    event: str
    key: str = ""
    kind: str = ""
    dice: Mapping[str, Any] = NOTHING_BROUGHT
    payload: Mapping[str, Any] = NOTHING_BROUGHT
    learned: Mapping[str, Any] = NOTHING_BROUGHT
    kinds: tuple[str, ...] | None = None
    after_ms: int = 0
    begins: Mapping[str, Any] = NOTHING_BROUGHT


def tried(trial: Trial, session: Session | None, move: Move) -> Step:
    """Take a move. Raises Refusal, and whatever else the rules raise where they have a fault of their own."""
    if session is None:
        return trial.begin(first_invoke(move), move.learned)
    return trial.take(session, invoke_of(session, move), move.learned)


def first_invoke(move: Move) -> Invoke:
    """The first event of a session."""
    fields = {name: value for name, value in move.begins.items() if name != "language"}
    constraints = {"language": move.begins["language"]} if "language" in move.begins else {}
    return Invoke(
        event=move.event,
        run_seed=fields.pop("seed", SEED),
        payload=move.payload,
        dice=_all_dice(move),
        constraints=constraints,
        **fields,
    )


def invoke_of(session: Session, move: Move) -> Invoke:
    """A later event; an option is sent by the id that it is offered with."""
    chosen = offered(session, move)
    elapsed = (session.elapsed_ms + move.after_ms) / 1000 if move.after_ms else None
    return Invoke(
        event=move.event if chosen is None else None,
        selected_option_id=None if chosen is None else chosen.id,
        payload=move.payload,
        dice=_all_dice(move),
        elapsed_active_seconds=elapsed,
    )


def offered(session: Session, move: Move) -> Offer | None:
    """The option that a move chooses, None where it chooses none or isn't offered."""
    if not (move.key or move.kind):
        return None
    return next((each for each in session.offer if (each.key, each.kind) == (move.key, move.kind)), None)


def _all_dice(move: Move) -> dict[str, Any]:
    return {**move.dice, **({} if move.kinds is None else {KINDS: list(move.kinds)})}


def settled(machine: Machine, move: Move, step: Step) -> Move:
    """The move with every die as it fell, so that no seed decides anything."""
    kinds = machine.definition.states[step.after.state].kinds
    drawn = tuple(each.kind for each in step.after.offer if each.kind) if kinds else None
    return replace(move, dice={die.name: die.value for die in step.outcome.dice}, kinds=drawn)


def refused(machine: Machine, session: Session, refusal: Refusal) -> Step | None:
    """What a refusal shows of the guards that it is about, as a step that changes nothing; None where nothing."""
    by_name = {each.full_name: each for each in machine.table.get(session.state, ())}
    told = [each for each in refusal.facts.get("considered", ()) if each["edge"] in by_name]
    seen = tuple(Considered(by_name[each["edge"]], each["verdict"], each["reason"], None) for each in told)  # type: ignore[arg-type]
    return Step(before=session, after=session, outcome=NOTHING, considered=seen) if seen else None


# As a replay.


def replay_of(machine: Machine, moves: Sequence[Move], name: str) -> Replay:
    """A path as a replay that expects nothing yet."""
    begins = moves[0].begins if moves else {}
    given = Given(
        machine=machine.name,
        language=begins.get("language", machine.definition.language),
        seed=begins.get("seed", SEED),
        slots=begins.get("slots", {}),
        player_count=begins.get("player_count", 1),
        difficulty=begins.get("difficulty", "NORMAL"),
    )
    return Replay(name=name, given=given, steps=tuple(replay_step(machine, each) for each in moves))


def replay_step(machine: Machine, move: Move) -> ReplayStep:
    """A move as a replay's step."""
    chosen = Chosen(key=move.key) if move.key else Chosen(kind=move.kind) if move.kind else None
    return ReplayStep(
        choose=chosen,
        send=None if chosen else move.event,
        with_=dict(move.payload),
        dice=_all_dice(move),
        narrate=answered(machine, move.learned) or None,
        after_ms=move.after_ms,
    )


def answered(machine: Machine, learned: Mapping[str, Any]) -> dict[str, Any]:
    """What a model writes that teaches this: what no prompt has as an output, `ai_state` asks for."""
    prompts = (prompt for variants in machine.prompts.values() for prompt in variants.values())
    declared = {path.partition(".")[0] for prompt in prompts for path in prompt.fields}
    inside = {*asked_ai_state(machine.definition)} - declared
    outputs = {name: value for name, value in learned.items() if name not in inside}
    told = {name: value for name, value in learned.items() if name in inside}
    return {**outputs, "ai_state": told} if told else outputs


def expecting(step: ReplayStep, came: Step | Refusal, machine: Machine) -> ReplayStep:
    """A step that expects what came: the edge, the state, what changed, where it leads, and what is offered."""
    if isinstance(came, Refusal):
        return replace(step, expect=Expect(error=came.code))
    after, routing = came.after, came.after.routing
    before = came.before.context if came.before.state else begun(machine)
    return replace(
        step,
        expect=Expect(
            edge=came.outcome.edge,
            state=after.state,
            context={name: value for name, value in after.context.items() if value != before[name]},
            next=routing.next_event_type,
            should_end=routing.should_end,
            options=tuple(each.key or each.kind for each in after.offer),
            ended=after.ended,
            ending=after.state if after.ended else None,
        ),
    )


def played_again(trial: Trial, moves: Sequence[Move]) -> list[Step | Refusal]:
    """What comes of a path; a refusal leaves the session as it was. Raises what is no refusal."""
    came: list[Step | Refusal] = []
    session: Session | None = None
    for move in moves:
        try:
            step = tried(trial, session, move)
        except Refusal as refusal:
            came.append(refusal)
            continue
        came.append(step)
        session = step.after
    return came


def recorded(trial: Trial, moves: Sequence[Move], name: str) -> Replay:
    """A path as a replay that expects what comes of it."""
    replay = replay_of(trial.machine, moves, name)
    came = played_again(trial, moves)
    steps = (expecting(step, each, trial.machine) for step, each in zip(replay.steps, came, strict=True))
    return replace(replay, steps=tuple(steps))
