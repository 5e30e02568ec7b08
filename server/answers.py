"""The shapes of answers, for the OpenAPI document; tests hold real answers against them.

Answers are made elsewhere (`runtime.view`, `server.reading`): these Structs describe, and build
nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from runtime.errors import Retry

Text = dict[str, str]
"""One text by language."""


class Shape(Struct, frozen=True):
    """A part of an answer."""


class EventTold(Shape, frozen=True):
    """The event that was played, in the client's spelling."""

    type: str


class TimeTold(Shape, frozen=True):
    """The session's clock; `remaining_seconds` is 2147483647 where there is no limit."""

    elapsed_active_seconds: int
    remaining_seconds: int


class SessionTold(Shape, frozen=True):
    """Where a session stands. `turn` counts turns and never comes again; `step` is the depth on the branch."""

    session_id: str
    machine: str
    version: int | str
    state: str
    turn: int
    step: int
    ended: bool
    language: str
    run_seed: str
    time: TimeTold


class OptionTold(Shape, frozen=True):
    """A choice: send its `id` as payload.selected_option_id, with its `event_type`.

    Ids count from 1 in the order offered. After a rewind an option that is still open keeps the id
    that its turn gave it, so that ids may be missing; what has opened since comes after the others.
    """

    id: int
    text: str
    event_type: str
    key: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET


class InputTold(Shape, frozen=True):
    """Where free text is taken; `max_chars` in code points."""

    event_type: str
    field: str
    max_chars: int


class RoutingTold(Shape, frozen=True):
    """What may come next. `next_event_type` is null once ended."""

    next_event_type: str | None
    should_end: bool
    allowed_event_types: list[str]


class DieTold(Shape, frozen=True):
    """A die that was rolled."""

    name: str
    spec: str
    value: bool | int | str


class ChangeTold(Shape, frozen=True):
    """A shown variable that the rules changed."""

    name: str
    before: Any = field(name="from")
    after: Any = field(name="to")


class OutcomeTold(Shape, frozen=True):
    """The machine's own word on the turn."""

    edge: str
    source: str | None = field(name="from")
    target: str = field(name="to")
    dice: list[DieTold]
    changes: list[ChangeTold]


class StatusTold(Shape, frozen=True):
    """A shown variable; `text` is its value in words, for a set one word a member."""

    value: bool | int | float | str | list[str]
    min: float | None
    max: float | None
    label: str
    text: str | list[str]


class EndingTold(Shape, frozen=True):
    """How the story ended."""

    id: str
    title: str
    good: bool | None


class KeyChoiceTold(Shape, frozen=True):
    """A choice that weighed."""

    turn: int
    text: str


class UsageTold(Shape, frozen=True):
    """Tokens, over all attempts."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class MetaTold(Shape, frozen=True):
    """How the turn was told."""

    trace_id: str
    narrator: str
    model: str | None
    ai_generated: bool
    attempts: int
    rungs: list[str]
    fallback: list[str]
    usage: UsageTold
    warnings: list[str]


class PayloadTold(Shape, frozen=True):
    """What happened. Beside these keys stand the outputs that the turn's prompt declares, such as `scene`."""

    ai_state: dict[str, Any]
    status: dict[str, StatusTold]
    outcome: OutcomeTold
    options: list[OptionTold]
    inputs: list[InputTold]
    routing: RoutingTold
    meta: MetaTold
    ending: EndingTold | UnsetType = UNSET
    key_choices: list[KeyChoiceTold] | UnsetType = UNSET


class Answer(Shape, frozen=True):
    """The answer to one event."""

    event: EventTold
    session: SessionTold
    payload: PayloadTold


class Accepted(Shape, frozen=True):
    """A stream's first event: nothing refuses the turn any more, and it is being told."""

    session_id: str
    turn: int
    event: EventTold


class FieldTold(Shape, frozen=True):
    """A text of a turn under way: `path` is its place under `payload`, such as `opening.scene`."""

    path: str
    text: str


class Health(Shape, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Ready(Shape, frozen=True):
    """A turn could be taken now; `checks` has store, machines and narrator."""

    status: Literal["ready"]
    checks: dict[str, dict[str, Any]]


class MachineLine(Shape, frozen=True):
    """A machine that new sessions can get."""

    name: str
    version: int | str
    digest: str
    title: Text
    languages: list[str]
    slots: dict[str, str | None]
    is_default: bool


class MachineList(Shape, frozen=True):
    """All machines."""

    items: list[MachineLine]
    next_after: None


class EventLine(Shape, frozen=True):
    """An event: who may send it, and the JSON Schema of its payload."""

    role: Literal["player", "operator"]
    payload: dict[str, Any]


class MachineTold(MachineLine, frozen=True, kw_only=True):
    """A machine. `definition` is for operators."""

    initial_event: str
    limits: dict[str, int | None]
    events: dict[str, EventLine]
    definition: dict[str, Any] | UnsetType = UNSET


class GraphTold(Shape, frozen=True):
    """A machine's states and edges."""

    machine: str
    version: int | str
    digest: str
    initial_event: str
    states: list[dict[str, Any]]
    edges: list[dict[str, Any]]


class SessionLine(Shape, frozen=True):
    """A session in a list; `at` is when its head turn was answered."""

    session: SessionTold
    routing: RoutingTold
    player_id: str | None
    run_seed: str
    language: str
    at: str


class SessionList(Shape, frozen=True):
    """Sessions, newest first; `next_after` goes on."""

    items: list[SessionLine]
    next_after: str | None


class SessionShown(Shape, frozen=True):
    """A session. `answer` is the head turn's data exactly as it was sent.

    `session`, `routing`, `options` and `inputs` are where it stands now, after a rewind too. `context`, and
    `spent` over all its branches, are for operators.
    """

    answer: Answer
    session: SessionTold
    allowed_event_types: list[str]
    routing: RoutingTold
    options: list[OptionTold]
    inputs: list[InputTold]
    in_progress: bool
    can_rewind_to: Annotated[
        list[int],
        Meta(description="The turns that a rewind may go to, ascending; the newest 200, older ones may be named too."),
    ]
    context: dict[str, Any] | UnsetType = UNSET
    spent: TotalTold | UnsetType = UNSET


class TotalTold(Shape, frozen=True):
    """What was spent: tokens, calls of a model, and what they cost in the price table's currency.

    `tokens` are prompt and completion together; `cached_tokens` is the part of the prompt that was cheap,
    `miss_tokens` the rest of it.
    """

    tokens: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    miss_tokens: int
    calls: int
    cost: float


class CostTold(TotalTold, frozen=True):
    """What a turn took, over all its attempts; for operators. Times in milliseconds.

    `queue_ms` was waited for a free call, `first_token_ms` from then to the model's first word.
    """

    provider: str
    queue_ms: int
    first_token_ms: int
    total_ms: int
    attempts: int


class ExpenseTold(TotalTold, frozen=True):
    """What one provider and model took in a day; `failed` counts turns that cost something and came to nothing."""

    provider: str
    model: str
    turns: int
    failed: int


class LedgerDay(TotalTold, frozen=True):
    """A day of the ledger, by UTC."""

    day: str
    turns: int
    failed: int
    by: list[ExpenseTold]


class BudgetsTold(Shape, frozen=True):
    """How much may be spent; 0 = no limit."""

    session_tokens: int
    session_cost: float
    day_tokens: int
    day_cost: float
    on_budget: Literal["offline", "refuse"]


class LedgerList(Shape, frozen=True):
    """The ledger's days, newest first, those without a cost too."""

    items: list[LedgerDay]
    next_after: None
    budgets: BudgetsTold


class Deleted(Shape, frozen=True):
    """The session is gone, or never was."""

    session_id: str
    deleted: Literal[True]


class OriginTold(Shape, frozen=True):
    """Where a fork's entry was copied from."""

    session_id: str
    turn: int


class TurnLine(Shape, frozen=True, kw_only=True):
    """An entry of a session's history; `parent` is the turn that it grew from.

    A turn and a regenerate tell something. A rewind goes `from_turn` `to_turn`; a fork names the
    `child` that it made, and in the child its `origin`.
    """

    turn: int
    parent: int | None
    kind: Literal["turn", "regenerate", "rewind", "fork", "migration"]
    at: str
    session: SessionTold
    options: list[OptionTold]
    routing: RoutingTold
    from_turn: int | UnsetType = UNSET
    to_turn: int | UnsetType = UNSET
    origin: OriginTold | UnsetType = UNSET
    child: str | UnsetType = UNSET
    event: EventTold | UnsetType = UNSET
    choice: str | UnsetType = UNSET
    outcome: OutcomeTold | UnsetType = UNSET
    narration: dict[str, Any] | UnsetType = UNSET
    narrator: str | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    ai_generated: bool | UnsetType = UNSET
    spent: CostTold | UnsetType = UNSET


class TurnList(Shape, frozen=True):
    """Turns, oldest first; `next_after` goes on."""

    items: list[TurnLine]
    next_after: int | None


class Explained(Shape, frozen=True):
    """Why a turn went as it did: each edge considered, with its guard, the values read and the verdict.

    `properties` has what the machine says must be so, as written, with the `verdict` after this turn:
    `holds`, `broken` (and the `reason`), or `open`, an `eventually` that has `turns_left` turns left.
    """

    turn: int
    parent: int | None
    event: str
    choice: dict[str, str]
    edge: str
    source: str | None = field(name="from")
    target: str = field(name="to")
    dice: list[dict[str, Any]]
    changes: list[ChangeTold]
    considered: list[dict[str, Any]]
    routing: dict[str, Any]
    properties: list[dict[str, Any]]
    prompt_hash: str
    warnings: list[str]


class Failure(Shape, frozen=True):
    """What a refusal tells, beside its own facts.

    `retry` is `same` (send the same again), `refresh` (read the session, then choose again) or `never`.
    `player_message` is one sentence for the player.
    """

    error: str
    hint: str
    retry: Retry
    player_message: str
    request_id: str
