"""One turn, from a client's event to the answer. Start reading at `take_turn`.

Nothing is written before the narration is valid; nothing is answered before the append is
durable. Whatever fails on the way raises a Refusal and leaves the session as it was.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime import loader, request, view
from runtime.advance import (
    Route,
    Settled,
    ai_state_of,
    arrived,
    learn,
    remaining_seconds,
    roll_dice,
    route,
    settle,
    turn_scope,
)
from runtime.claims import Idempotency, append, claiming, must_hold, session_id_from
from runtime.constraints import answer_schema, bounds_of
from runtime.errors import (
    MachineChanged,
    MachineFault,
    NarratorUnavailable,
    Overloaded,
    Refusal,
    SessionEnded,
    StoreUnavailable,
    WorldError,
)
from runtime.facts import facts_of
from runtime.leaks import instructions
from runtime.ledger import NO_BUDGETS, Budget, Budgets, Ledger, cost_of
from runtime.machine import CompiledEdge, Considered, Machine, asked_ai_state, known_values
from runtime.memory import remembered
from runtime.narrators import Narration, Narrator, Task
from runtime.narrators.offline import Offline
from runtime.narrators.release import Hear, Release, unheard
from runtime.narrators.wording import offered
from runtime.prompt import Message, Prompt, PromptError, render
from runtime.quoting import session_mark
from runtime.request import Asked, Opened
from runtime.session import (
    JOURNAL_FORMAT,
    NO_TOTAL,
    NOT_SHOWN,
    Choice,
    Entry,
    Invoke,
    Judged,
    KeyChoice,
    Offer,
    Role,
    Rolled,
    Session,
    Told,
    sealed,
    sha256_of,
    total_after,
)
from runtime.stores import Claim, Store

Result = TypeVar("Result")

KEPT_CHOICES = 24
"""How many choices a session remembers for its ending; the lightest are forgotten first."""
STORE_RESERVE_S = 10.0
"""How much of a turn's deadline is kept for making it durable; a quarter of a short one."""
UNPAID = "told offline"
"""How the warning ends of a telling for which no budget was left."""
_RESTATED = ("digest", "offer", "routing", "elapsed_ms")
"""What of a session may have changed since its head turn was told."""


class Played(Struct, frozen=True):
    """A turn that was answered: the durable entry, and where its time went (seconds).

    `is_replayed` where the entry was there before: its stored answer is sent again.
    """

    entry: Entry
    narrate_s: float = 0.0
    store_s: float = 0.0
    is_replayed: bool = False

    @property
    def data(self) -> bytes:
        """The answer's `data`, exactly as it was sent."""
        return self.entry.data


class Chosen(Struct, frozen=True):
    """The edge that an event takes, the edges that were looked at for it, and what they were judged by."""

    compiled: CompiledEdge
    considered: tuple[Considered, ...]
    rolled: tuple[Rolled, ...]
    scope: dict[str, Any]


class Runtime:
    """What turns are taken with: the store, the narrator, the machines, and the clock.

    `machines` is name → the version that new sessions get. `clock_ms` gives milliseconds since the
    epoch. `observe` is told of every turn that was answered, also where its client has gone.
    `producer` is who answers for machine-made text, in the label that files carry.
    `trouble` is the world's last fault and when it was (ms), until a turn is answered again.
    """

    def __init__(
        self,
        store: Store,
        narrator: Narrator,
        machines: Mapping[str, Machine],
        default_machine: str,
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(18),
        turn_deadline_s: float = 45.0,
        observe: Callable[[Played], None] = lambda _: None,
        budgets: Budgets = NO_BUDGETS,
        producer: str = "edgewise",
    ) -> None:
        self.store = store
        self.narrator = narrator
        self.written = Offline()
        self.ledger = Ledger(lambda: self.store, budgets, clock_ms)
        self.machines = machines
        self.default_machine = default_machine
        self.clock_ms = clock_ms
        self.new_id = new_id
        self.secret = b""
        self.turn_deadline_s = turn_deadline_s
        self.observe = observe
        self.producer = producer
        self.trouble: tuple[str, int] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._by_digest = {machine.digest: machine for machine in machines.values()}

    async def open(self) -> None:
        """Open the store and keep the definitions that are served."""
        await self.store.open()
        self.secret = await self.store.secret()
        await self.ledger.open()
        await self.narrator.open()
        for machine in self.machines.values():
            await self.store.keep(machine.digest, machine.files)

    async def close(self) -> None:
        """Finish the turns under way, then let go of the narrator and the store."""
        await self.drain()
        await self.narrator.close()
        await self.store.close()

    async def machine_of(self, session: Session) -> Machine:
        """The very definition that a session began with, from memory or the store.

        Raises MachineChanged where it is nowhere.
        """
        known = self._by_digest.get(session.digest)
        if known is not None:
            return known
        files = await self.store.kept(session.digest)
        if files is None:
            raise MachineChanged(
                f"the definition of machine '{session.machine}' that this session began with is not in the store",
                "Start a new session.",
                machine=session.machine,
                digest=session.digest,
                reasons=["definition_missing"],
            )
        self._by_digest[session.digest] = await asyncio.to_thread(loader.load_kept, files)
        return self._by_digest[session.digest]

    @property
    def under_way(self) -> int:
        """How many turns are being played in this process."""
        return len(self._tasks)

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do work to its end, even where whoever asked for it goes away. Raises what it raises."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for all work under way; what it raises went to its own callers."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def play(
    runtime: Runtime, invoke: Invoke, role: Role = "operator", once: Idempotency | None = None, hear: Hear = unheard
) -> Played:
    """Take a turn to its end, even where the client goes away. Raises Refusal; nothing changed then.

    `hear` is told of the turn once nothing refuses it any more, and of its texts as they are released.
    """
    return await runtime.finish(noticed(runtime, take_turn(runtime, invoke, role, once, hear)))


async def take_turn(
    runtime: Runtime, invoke: Invoke, role: Role = "operator", once: Idempotency | None = None, hear: Hear = unheard
) -> Played:
    """Play one event: the whole of what Edgewise does, in the order in which it does it."""
    ends_at = time.monotonic() + runtime.turn_deadline_s
    session_id = await session_named(runtime, invoke, once)
    async with claiming(runtime.store, session_id, once, runtime.clock_ms()) as claim:
        if claim.answered is not None:
            return Played(claim.answered, is_replayed=True)
        opened = await open_session(runtime, invoke, claim)
        if opened.is_resumed and opened.head is not None:
            return Played(await resumed(runtime.store, opened, opened.head))
        with spoken_in(opened):
            asked = request.read(opened, invoke, role)
            chosen = choose_edge(opened, asked, role)
            settled = settled_by(chosen, opened, asked)
            entry, narrate_s = await told(runtime, opened, settled, asked, once, ends_at, hear)
            appending = append(runtime.store, entry, claim, once, runtime.clock_ms())
            kept, store_s = await clocked(runtime.ledger.kept(entry, appending))
    if kept is not entry:
        return Played(kept, is_replayed=True)
    played = Played(entry, narrate_s, store_s)
    runtime.trouble = None
    runtime.observe(played)
    return played


async def session_named(runtime: Runtime, invoke: Invoke, once: Idempotency | None) -> str:
    """The session's id: the client's, else one made from its key, else a new one. Raises ValidationError."""
    if invoke.session_id is not None:
        return invoke.session_id
    if once is None:
        return runtime.new_id()
    return session_id_from(await runtime.store.secret(), once, invoke.player_id)


async def told(
    runtime: Runtime, opened: Opened, settled: Settled, asked: Asked, once: Idempotency | None, ends_at: float,
    hear: Hear = unheard,
) -> tuple[Entry, float]:  # fmt: skip
    """Have a settled turn narrated, learn from it, and write its entry; also the seconds of narration.

    `ends_at` is when the turn must have been answered, by the monotonic clock.
    """
    preview = route(opened.machine, arrived(settled.session), opened.dice)
    mark = session_mark(runtime.secret, settled.session.session_id)
    task = brief(opened, settled, asked, preview.offer, left_to_tell(runtime, ends_at), mark)
    short = None if costs_nothing(runtime, task) else await runtime.ledger.short_of(opened.head)
    release = Release(task, hear)
    hear("turn.accepted", view.accepted_of(opened, settled, asked))
    async with runtime.ledger.billing(settled.session.session_id) as bill:
        narration, narrate_s = await clocked(narrate(runtime, task, release, short))
        bill.charge(narration.usage, narration.spent, narration.model)
        release.settle(narration.output)
        session, routed, warnings = conclude(opened, settled, asked, task, narration, preview)
    entry = record(opened, settled, asked, task, narration, session, routed, warnings)
    return sealed(noted(entry, once)), narrate_s


def left_to_tell(runtime: Runtime, ends_at: float) -> float:
    """The seconds that a narration may take, so that the turn is durable by its end."""
    reserve_s = min(STORE_RESERVE_S, runtime.turn_deadline_s / 4)
    return max(0.0, ends_at - time.monotonic() - reserve_s)


def noted(entry: Entry, once: Idempotency | None) -> Entry:
    """The entry with the key that asked for it."""
    return entry if once is None else replace(entry, key=once.key, request_hash=once.request_hash)


async def resumed(store: Store, opened: Opened, head: Entry) -> Entry:
    """The head turn, to be answered again: as it was sent, or where the session stands otherwise now, as it stands.

    A rewind may have left less open, and less time; a migration led to another version.
    """
    # What a regenerate answered beside the turn's own data is no part of that.
    telling = replace(await telling_of(store, head), shown=NOT_SHOWN)
    if all(getattr(telling.after, name) == getattr(head.after, name) for name in _RESTATED):
        return telling
    routed = route(opened.machine, head.after)
    return replace(telling, answer=view.restated(opened.machine, telling.answer, head.after, routed))


async def telling_of(store: Store, head: Entry) -> Entry:
    """The telling that a head stands on: itself, or the turn that a rewind or a fork leads to."""
    if head.is_telling:
        return head
    found = await store.entry(head.session_id, head.turn)
    if found is None:
        raise StoreUnavailable(
            f"turn {head.turn} of session '{head.session_id}' is not in the journal", "Run `edgewise db verify`."
        )
    return found


async def open_session(runtime: Runtime, invoke: Invoke, claim: Claim) -> Opened:
    """Load the session, or begin one; the refusals are in the order that the contract gives."""
    now_ms, session_id, head = runtime.clock_ms(), claim.session_id, claim.head
    if head is None:
        machine = request.machine_for_new(runtime.machines, runtime.default_machine, invoke)
        request.refuse_unbegun(machine, invoke)
        must_hold(claim)
        return request.begin(machine, invoke, session_id, runtime.new_id, now_ms)
    with spoken_in_language(head.after.constraints.language):
        machine = await runtime.machine_of(head.after)
        if request.is_first_event(machine, head.after, invoke):
            if invoke.on_exists == "restart":
                must_hold(claim)
            return request.begin_again(runtime.machines, machine, invoke, head, runtime.new_id, now_ms)
        if head.after.ended:
            raise _ended(machine, head)
        must_hold(claim)
        return request.go_on(machine, invoke, head, now_ms)


def _ended(machine: Machine, head: Entry) -> SessionEnded:
    ending = view.ending_of(machine, head.after)
    return SessionEnded(
        f"the session has ended in state '{head.after.state}' at turn {head.turn}",
        "Start a new session, or send the initial event with session.on_exists: restart.",
        ending=ending,
        turn=head.turn,
    )


def choose_edge(opened: Opened, asked: Asked, role: Role) -> Chosen:
    """Roll, then find the edge that the event takes. Raises EventNotAllowed, GuardRefused, MachineFault."""
    machine, session = opened.machine, opened.session
    rolled = roll_dice(machine, session, asked.event, asked.choice.key, opened.dice)
    scope = turn_scope(machine, session, asked.event, asked.choice, asked.payload, rolled)
    if not session.state:
        return Chosen(machine.initial, (), rolled, scope)
    known = known_values(scope, session.used, asked.choice.key)
    request.refuse_shut(machine, session, asked, known)
    compiled, considered = machine.choose(session.state, asked.event, known)
    if compiled is None:
        raise request.guard_refused(machine, session, asked, considered, role)
    return Chosen(compiled, considered, rolled, scope)


def settled_by(chosen: Chosen, opened: Opened, asked: Asked) -> Settled:
    """The turn by the edge that was chosen, with the time that this request brought. Raises MachineFault."""
    compiled, scope, rolled = chosen.compiled, chosen.scope, chosen.rolled
    settled = settle(opened.machine, opened.session, compiled, asked.event, asked.choice, scope, rolled)
    return timed(settled, opened)


def timed(settled: Settled, opened: Opened) -> Settled:
    """Let the time that this request brought count, now that the edge was judged without it."""
    session = replace(settled.session, elapsed_ms=opened.elapsed_ms, constraints=opened.constraints)
    return replace(settled, session=session)


def brief(
    opened: Opened, settled: Settled, asked: Asked, preview: tuple[Offer, ...], deadline_s: float = 0.0, mark: str = ""
) -> Task:
    """Put together what the narrator is told; `preview` is what will be offered unless it teaches otherwise."""
    machine, session = opened.machine, settled.session
    language = session.constraints.language
    prompt = machine.prompt_for(settled.compiled.edge, language)
    bounds = bounds_of(machine, session.constraints)
    inputs = view.inputs_of(machine, settled, asked.text, preview, bounds)
    messages = _rendered(prompt, inputs, settled)
    return Task(
        machine=machine,
        session=session,
        edge=settled.compiled.edge,
        outcome=settled.outcome,
        prompt=prompt,
        inputs=inputs,
        scope=story_scope(settled, asked),
        offer=preview,
        bounds=replace(
            bounds,
            instructions=instructions(prompt, messages, inputs),
            facts=facts_of(machine, session, settled.outcome),
        ),
        messages=messages,
        schema=answer_schema(prompt, asked_ai_state(machine.definition), preview, bounds),
        deadline_s=deadline_s,
        mark=mark,
    )


def _rendered(prompt: Prompt, inputs: Mapping[str, Any], settled: Settled) -> tuple[Message, ...]:
    """The prompt's messages. Raises MachineFault where the template errs."""
    try:
        return render(prompt, inputs)
    except PromptError as error:
        edge = settled.outcome.edge
        message = f"edge {edge}: {prompt.file} can't be rendered: {error}"
        raise MachineFault(message, "Mend the prompt; the session is as it was.", edge=edge) from None


def story_scope(settled: Settled, asked: Asked) -> dict[str, Any]:
    """What a fragment's `when` may read: the turn's scope, secrets too, as the session now stands."""
    outcome, session = settled.outcome, settled.session
    return {
        **settled.values,
        "time.elapsed_seconds": session.elapsed_ms // 1000,
        "time.remaining_seconds": remaining_seconds(session.limit_ms, session.elapsed_ms),
        "state": outcome.target,
        "from_state": outcome.source,
        "text": asked.text,
        "option.text": asked.choice.text,
    }


async def clocked(work: Awaitable[Any]) -> tuple[Any, float]:
    """What the work gives, and the seconds that it took."""
    start = time.perf_counter()
    return await work, time.perf_counter() - start


def costs_nothing(runtime: Runtime, task: Task) -> bool:
    """Whether no model is asked for a telling, so that no budget binds it."""
    return is_written(task) or isinstance(runtime.narrator, Offline)


def is_written(task: Task) -> bool:
    """Whether the state has its own texts always."""
    return task.machine.definition.states[task.outcome.target].narrate == "written"


async def narrate(runtime: Runtime, task: Task, release: Release, short: Budget | None = None) -> Narration:
    """Have the turn told, within the turn's deadline; offline where it is `short` of a budget.

    A narrator that fails gives way to the offline one; where the machine says `on_failure: refuse`,
    its WorldError goes to the client instead and nothing has changed.
    """
    if is_written(task):
        return runtime.written.tell(task)
    if short is not None:
        return _unpaid(runtime.written.tell(task), short)
    try:
        async with asyncio.timeout(task.deadline_s):
            return await runtime.narrator.narrate(task, release)
    except (WorldError, TimeoutError) as error:
        if task.machine.definition.on_failure == "offline" and not isinstance(error, Overloaded):
            return _fallen_back(runtime.written.tell(task), error)
        if isinstance(error, WorldError):
            raise
        raise NarratorUnavailable(
            f"the narrator gave no answer within {task.deadline_s:.3g} s", "Send the same again.", rungs=[]
        ) from error


def _fallen_back(narration: Narration, error: Exception) -> Narration:
    """An offline narration that says what was tried before it."""
    facts = error.facts if isinstance(error, WorldError) else {}
    rungs = (*facts.get("rungs", ()), "offline")
    usage, spent = cost_of(error)
    attempts = facts.get("attempts", 1)
    return replace(narration, rungs=rungs, attempts=attempts, fallback=("*",), usage=usage, spent=spent)


def _unpaid(narration: Narration, short: Budget) -> Narration:
    """An offline narration that says why no model was asked."""
    why = f"budget {short} is used up: {UNPAID}"
    return replace(narration, rungs=("offline",), attempts=0, fallback=("*",), warnings=(*narration.warnings, why))


def conclude(
    opened: Opened, settled: Settled, asked: Asked, task: Task, narration: Narration, preview: Route
) -> tuple[Session, Route, tuple[str, ...]]:
    """Learn from the narration, count the step, and compute where the session may go from here.

    Where nothing was learned, that is where the preview said.
    """
    machine = opened.machine
    context, learning = learn(machine, settled, narration.learned, task.scope)
    told = {**narration.learned, **narration.ai_state}
    session = arrived(replace(settled.session, context=context, said={**settled.session.said, **narration.said}))
    routed = preview if context == settled.session.context else route(machine, session, opened.dice)
    shown = ai_state_of(machine, session, told, view.first_words(machine, session, narration.ai_state))
    offer, reworded = offered(machine, session.state, routed.offer, task.bounds, narration.options)
    session = replace(
        session,
        turn=opened.next_turn,
        answered_at_ms=opened.now_ms,
        ended=machine.definition.states[session.state].is_final,
        ai_state=shown,
        offer=offer,
        routing=routed.routing,
        recent=_recent(machine, session, asked.choice, view.scene_of(narration, task.prompt.fields)),
        key_choices=_remembered(session, opened.next_turn, settled),
    )
    warnings = (*opened.warnings, *asked.warnings, *narration.warnings, *reworded, *learning, *routed.warnings)
    return session, routed, warnings


def _recent(machine: Machine, session: Session, choice: Choice, scene: str) -> tuple[Told, ...]:
    return remembered(session.recent, Told(choice.text, scene), machine.definition.memory_tokens)


def _remembered(session: Session, turn: int, settled: Settled) -> tuple[KeyChoice, ...]:
    choice = settled.outcome.choice
    if not choice.text or choice.key == "continue":
        return session.key_choices
    kept = (*session.key_choices, KeyChoice(turn, choice.text, len(settled.outcome.changes)))
    if len(kept) <= KEPT_CHOICES:
        return kept
    lightest = min(kept, key=lambda each: (each.weight, each.turn))
    return tuple(each for each in kept if each is not lightest)


def record(
    opened: Opened, settled: Settled, asked: Asked, task: Task, narration: Narration, session: Session, routed: Route,
    warnings: tuple[str, ...],
) -> Entry:  # fmt: skip
    """The journal's entry for the turn, with the answer as it will be sent; not sealed yet."""
    data = view.answer_of(opened.machine, session, settled.outcome, narration, routed, asked.sent_as, warnings)
    texts = {"output": narration.output, "ai_state": narration.ai_state, "options": narration.options}
    head = opened.head
    return Entry(
        format=JOURNAL_FORMAT,
        session_id=session.session_id,
        seq=head.seq + 1 if head else 1,
        turn=session.turn,
        parent=opened.session.turn or None,
        at_ms=opened.now_ms,
        digest=opened.machine.digest,
        request=asked.request,
        outcome=settled.outcome,
        prompt_hash=prompt_hash(task.messages),
        narration={**texts, "learned": narration.learned},
        narrator=narration.narrator,
        model=narration.model,
        usage=narration.usage,
        spent=narration.spent,
        total=total_after(head.total if head else NO_TOTAL, narration.usage, narration.spent),
        after=session,
        answer=msgspec.Raw(msgspec.json.encode(data)),
        last_turn=session.turn,
        judged=_judged(opened),
        prev_hash=head.hash if head else "",
    )


def _judged(opened: Opened) -> Judged | None:
    """What the parent's telling doesn't say: a rewind gives no time back, a fork has dice of its own."""
    if opened.head is None or opened.head.is_telling or not opened.session.state:
        return None
    return Judged(opened.session.elapsed_ms, opened.session.salt)


def prompt_hash(messages: tuple[Message, ...]) -> str:
    """The SHA-256 of rendered messages, in hex: equal when a replay sees the same prompt."""
    return sha256_of(messages)


async def noticed(runtime: Runtime, turn: Awaitable[Played]) -> Played:
    """The turn; a fault of the world on its way is remembered as the runtime's trouble."""
    try:
        return await turn
    except WorldError as error:
        runtime.trouble = (error.code, runtime.clock_ms())
        raise


@contextmanager
def spoken_in(opened: Opened) -> Iterator[None]:
    """Give every refusal the session's language, and a machine's fault the machine's name."""
    with spoken_in_language(opened.constraints.language):
        try:
            yield
        except Refusal as refusal:
            if refusal.code == "machine_fault":
                refusal.facts.setdefault("machine", opened.machine.name)
            raise


@contextmanager
def spoken_in_language(language: str) -> Iterator[None]:
    """Give every refusal a language for the player's sentence."""
    try:
        yield
    except Refusal as refusal:
        refusal.language = language
        raise
