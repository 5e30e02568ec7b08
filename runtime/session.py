"""How far one player got: what a client asks, what a turn settles, and what the journal keeps.

All values are frozen and plain enough to be written as JSON and read again unchanged. The
machine's own words are in `model`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

JOURNAL_FORMAT = 3
"""The version of `Entry` as written; an older one is always read (see `formats`)."""
RECENT_TURNS = 24
"""How many turns back `recent` reaches in a prompt at most, whatever the machine's budget of tokens."""
COUNTED_SINCE = 3
"""The first format whose entries carry what their session has spent."""
DAY_MS = 86_400_000
"""A day, in ms; a ledger's days are UTC's."""
KEY_CHOICES = 8
"""How many choices an ending looks back on."""

Value = bool | int | float | str | list[str]
"""A variable's value; a set is a list in its `of` order."""
Role = Literal["player", "operator"]


class Constraints(Struct, frozen=True, omit_defaults=True):
    """What a session's texts must keep to; lengths in code points, None = the machine's."""

    language: str
    content_rating: Literal["G", "PG", "PG13", "R"] | None = None
    max_chars_scene: int | None = None
    max_chars_option: int | None = None
    forbidden_terms: tuple[str, ...] = ()


class Invoke(Struct, frozen=True, kw_only=True):
    """One event as a client sends it, its shape already checked; None = not sent.

    `constraints` holds only the keys that were sent. `payload` is without `selected_option_id`.
    Times are in seconds. `payload` values have JSON's types; the machine's event declares theirs.
    `dice` fixes what would be rolled, by name: a replay's alone, no client can send it.
    """

    event: str | None = None
    session_id: str | None = None
    machine: str | None = None
    on_exists: Literal["refuse", "restart", "resume"] = "refuse"
    player_id: str | None = None
    player_count: int = 1
    difficulty: Literal["EASY", "NORMAL", "HARD"] = "NORMAL"
    expected_turn: int | None = None
    hard_limit_seconds: float | None = None
    elapsed_active_seconds: float | None = None
    run_seed: str | None = None
    constraints: Mapping[str, Any] = {}
    slots: Mapping[str, str | None] = {}
    selected_option_id: int | None = None
    payload: Mapping[str, Any] = {}
    client_context: Mapping[str, Any] = {}
    context: Mapping[str, Any] = {}
    dice: Mapping[str, Any] = {}


class Offer(Struct, frozen=True, omit_defaults=True):
    """One choice as offered: `id` counts from 1; `key` for an authored one, `kind` for a free one."""

    id: int
    text: str
    event_type: str
    key: str = ""
    kind: str = ""


class Input(Struct, frozen=True):
    """Where free text is taken."""

    event_type: str
    field: str
    max_chars: int


class Routing(Struct, frozen=True):
    """What may come next, as the machine's edges and guards say."""

    next_event_type: str | None
    should_end: bool
    allowed_event_types: tuple[str, ...]


class Rolled(Struct, frozen=True, omit_defaults=True):
    """A die that was rolled."""

    name: str
    spec: str
    value: bool | int | str
    secret: bool = False


class Change(Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A variable that the rules changed."""

    name: str
    before: Value
    after: Value


class Choice(Struct, frozen=True, omit_defaults=True):
    """What the player chose: an option's key, kind and text as offered; '' where there was none."""

    key: str = ""
    kind: str = ""
    text: str = ""


class Outcome(Struct, frozen=True):
    """What the machine settled for one turn, before a word is told.

    `edge` is the full name. `changes` has secret variables too: strip them before showing.
    """

    event: str
    edge: str
    source: str
    target: str
    choice: Choice
    dice: tuple[Rolled, ...]
    changes: tuple[Change, ...]


NOTHING = Outcome(event="", edge="", source="", target="", choice=Choice(), dice=(), changes=())
"""The outcome of an entry that settled nothing."""


class Told(Struct, frozen=True):
    """A past turn as prompts see it."""

    choice: str
    scene: str


class KeyChoice(Struct, frozen=True):
    """A choice worth remembering at the end; `weight` = how many variables it changed."""

    turn: int
    text: str
    weight: int


class Usage(Struct, frozen=True):
    """Tokens of one turn, over all its attempts."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Spent(Struct, frozen=True, omit_defaults=True):
    """What a telling took beside its tokens, over all its calls; times in milliseconds.

    `provider` is the profile that answered, '' where none did. `cost_micros` counts millionths of
    the price table's currency. `queue_ms` was waited for a free call, `first_token_ms` from then to
    the first word of the answer that was told, `total_ms` is the whole.
    """

    provider: str = ""
    calls: int = 0
    cost_micros: int = 0
    queue_ms: int = 0
    first_token_ms: int = 0
    total_ms: int = 0


class Total(Struct, frozen=True, omit_defaults=True):
    """What a session has spent from its first entry to this one, on all its branches: a rewind gives nothing back."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    cost_micros: int = 0

    @property
    def tokens(self) -> int:
        """What a budget counts: all that was asked and answered, cached or not."""
        return self.prompt_tokens + self.completion_tokens


NO_USAGE, NO_COST, NO_TOTAL = Usage(), Spent(), Total()
"""What stands in no entry's body: a telling that cost nothing, a session that has spent nothing."""


class Expense(Struct, frozen=True, kw_only=True):
    """What was spent on one day with one provider and model; one telling's, or the sum of many.

    `day` counts days since 1970-01-01 UTC. `provider` and `model` are '' where none answered. `turns`
    counts tellings that are in the journal, `failed` those that cost something and came to nothing.
    """

    day: int
    provider: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    cost_micros: int = 0
    turns: int = 0
    failed: int = 0

    @property
    def tokens(self) -> int:
        """What a budget counts: all that was asked and answered, cached or not."""
        return self.prompt_tokens + self.completion_tokens


class Session(Struct, frozen=True, kw_only=True):
    """A session after a turn: all that the next turn reads. Plain data; a turn makes a new one.

    `step` is the depth on the branch, `turn` the serial number. `used` are the once-names used up
    on this branch. `said` counts which offline fragments were drawn: fragment id → the number of
    the draw. Times in milliseconds; `answered_at_ms` since the epoch, by the server's clock.
    """

    session_id: str
    machine: str
    version: int | str
    digest: str
    run_seed: str
    constraints: Constraints
    salt: str = ""
    player_id: str | None = None
    player_count: int = 1
    difficulty: str = "NORMAL"
    slots: Mapping[str, str | None] = {}
    limit_ms: int | None = None
    elapsed_ms: int = 0
    answered_at_ms: int = 0
    state: str = ""
    turn: int = 0
    step: int = 0
    ended: bool = False
    context: Mapping[str, Value] = {}
    visits: Mapping[str, int] = {}
    used: tuple[str, ...] = ()
    ai_state: Mapping[str, Any] = {}
    offer: tuple[Offer, ...] = ()
    routing: Routing = Routing(None, False, ())  # noqa: FBT003 - a Struct's fields, not flags
    recent: tuple[Told, ...] = ()
    key_choices: tuple[KeyChoice, ...] = ()
    said: Mapping[str, int] = {}


class Origin(Struct, frozen=True):
    """Where a fork's entry was copied from: the source's session, turn, and the entry's hash there."""

    session_id: str
    turn: int
    hash: str


class Judged(Struct, frozen=True):
    """What a telling was judged with, where its parent may say otherwise: the time known, and the dice's salt."""

    elapsed_ms: int
    salt: str


EntryKind = Literal["turn", "regenerate", "rewind", "fork", "migration"]
TELLINGS: tuple[EntryKind, ...] = ("turn", "regenerate")
"""The kinds that told something: each has a turn number of its own, an outcome and a narration."""


NOT_SHOWN = msgspec.Raw()
"""What an entry shows beside its answer, where that is all that was answered."""


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the journal. `seq` counts from 1 in its session, without gaps, and never again.

    `turn` is the head turn after it: the telling's own number, or the one that a rewind went back
    to. `last_turn` is the highest number used so far, 0 in what format 1 wrote (then `turn`).
    `parent` is the turn that it grew from (None at a root; for a rewind, the turn that was left);
    `prev_hash` is the hash of the entry with `seq - 1`, '' at the first. `judged` says what a rewind
    or a fork had changed since the parent was told, and a regenerate what it stood on (None: the
    parent's). `answer` is the `data` exactly as it was answered to the request that made the entry
    (JSON); a regenerate keeps there the turn's own data, and in `shown` the rest of what it answered
    (see `data`). `total` is what the session has spent since format 3; a copy in a fork's child, or in
    an import under another id, has none: what it took was spent elsewhere. `key` is that request's
    Idempotency-Key and `request_hash` its fingerprint. `child` is the session that a fork made, on the
    source's side; `origin` says on the child's side where an entry was copied from.
    """

    format: int
    session_id: str
    seq: int
    turn: int
    parent: int | None
    at_ms: int
    digest: str
    after: Session
    answer: msgspec.Raw
    kind: EntryKind = "turn"
    last_turn: int = 0
    shown: msgspec.Raw = NOT_SHOWN
    judged: Judged | None = None
    request: Mapping[str, Any] = {}
    outcome: Outcome = NOTHING
    prompt_hash: str = ""
    narration: Mapping[str, Any] = {}
    narrator: str = ""
    model: str | None = None
    usage: Usage = NO_USAGE
    spent: Spent = NO_COST
    total: Total = NO_TOTAL
    key: str | None = None
    request_hash: str = ""
    origin: Origin | None = None
    child: str = ""
    prev_hash: str = ""
    hash: str = ""

    @property
    def data(self) -> bytes:
        """The `data` of the answer to the request that made it, exactly as it was sent."""
        if self.shown is NOT_SHOWN:
            return bytes(self.answer)
        return b'{"answer":%b,%b' % (self.answer, bytes(self.shown)[1:])

    @property
    def is_telling(self) -> bool:
        """Whether it told a turn: then its outcome is a turn's, and it has a narration."""
        return self.kind in TELLINGS

    @property
    def next_turn(self) -> int:
        """The number of the next telling: never one that was used."""
        return max(self.last_turn, self.turn) + 1


class Node(Struct, frozen=True, kw_only=True):
    """An entry without its texts: what a session's tree is drawn from.

    `source` is the state before ('' at a root, and for what is no telling), `state` the one after.
    """

    seq: int
    turn: int
    parent: int | None
    kind: EntryKind
    source: str
    state: str
    digest: str
    at_ms: int


def total_after(before: Total, usage: Usage, spent: Spent) -> Total:
    """The session's sum after a telling; the sum itself where the telling cost nothing."""
    if not is_spent(usage, spent):
        return before
    return Total(
        prompt_tokens=before.prompt_tokens + usage.prompt_tokens,
        completion_tokens=before.completion_tokens + usage.completion_tokens,
        cached_tokens=before.cached_tokens + usage.cached_tokens,
        calls=before.calls + spent.calls,
        cost_micros=before.cost_micros + spent.cost_micros,
    )


def is_spent(usage: Usage, spent: Spent) -> bool:
    """Whether a model was asked, be it in vain."""
    return usage != NO_USAGE or bool(spent.calls or spent.cost_micros)


def expense_of(entry: Entry, *, is_kept: bool = True) -> Expense | None:
    """What a telling adds to its day, None where it cost nothing; `is_kept` unless it came to nothing."""
    usage, spent = entry.usage, entry.spent
    if not is_spent(usage, spent):
        return None
    return expense(entry.at_ms, entry.model, usage, spent, is_kept=is_kept)


def expense(at_ms: int, model: str | None, usage: Usage, spent: Spent, *, is_kept: bool) -> Expense:
    """What was spent at a time (epoch, ms)."""
    return Expense(
        day=at_ms // DAY_MS,
        provider=spent.provider,
        model=model or "",
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        calls=spent.calls,
        cost_micros=spent.cost_micros,
        turns=int(is_kept),
        failed=int(not is_kept),
    )


def summed(expenses: Iterable[Expense]) -> list[Expense]:
    """One for each day, provider and model, in that order."""
    sums: dict[tuple[int, str, str], Expense] = {}
    for each in expenses:
        key = (each.day, each.provider, each.model)
        sums[key] = each if key not in sums else _added(sums[key], each)
    return [sums[key] for key in sorted(sums)]


def more_than(one: Expense, other: Expense) -> Expense:
    """What one sum has and the other has not, in each count; 0 where the other has more."""
    counts = {name: max(0, getattr(one, name) - getattr(other, name)) for name in EXPENSE_COUNTS}
    return msgspec.structs.replace(one, **counts)


def _added(one: Expense, other: Expense) -> Expense:
    counts = {name: getattr(one, name) + getattr(other, name) for name in EXPENSE_COUNTS}
    return msgspec.structs.replace(one, **counts)


EXPENSE_COUNTS = Expense.__struct_fields__[3:]
"""What of an expense is added up; the rest says whose it is."""

_HELD_BYTES = 2047
_canonical = msgspec.json.Encoder(order="sorted")


def canonical(value: object) -> bytes:
    """JSON bytes that are equal for equal values: all keys sorted, no spaces, UTF-8."""
    return _canonical.encode(value)


def sha256_of(value: object) -> str:
    """The SHA-256 of a value's canonical JSON, in hex."""
    return digest_of(canonical(value))


def digest_of(data: bytes) -> str:
    """The SHA-256 of bytes, in hex.

    Fed piece by piece: a longer piece makes hashlib let go of the interpreter, and to get it back
    from the journal's writer takes many times as long as the hash.
    """
    digest = hashlib.sha256()
    for start in range(0, len(data), _HELD_BYTES):
        digest.update(data[start : start + _HELD_BYTES])
    return digest.hexdigest()


def body_of(entry: Entry) -> bytes:
    """What a store keeps of an entry: its canonical JSON without its own hash."""
    return canonical(msgspec.structs.replace(entry, hash=""))


def hash_of(entry: Entry) -> str:
    """The SHA-256 of an entry's body, in hex."""
    return digest_of(body_of(entry))


def sealed(entry: Entry) -> Entry:
    """The entry with its own hash."""
    return msgspec.structs.replace(entry, hash=hash_of(entry))


class Meta(Struct, frozen=True):
    """What is read back of how a stored answer was told; see `payload.meta`."""

    ai_generated: bool
    attempts: int = 1
    rungs: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Payload(Struct, frozen=True):
    meta: Meta


class _Answer(Struct, frozen=True):
    payload: _Payload


_read_meta = msgspec.json.Decoder(_Answer).decode


def meta_of(answer: msgspec.Raw) -> Meta:
    """How a telling's stored answer was told. Raises msgspec.DecodeError."""
    return _read_meta(answer).payload.meta
