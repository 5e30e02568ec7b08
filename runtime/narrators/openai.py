"""The narrator that asks a language model, over any OpenAI-compatible chat API, at one provider or several.

A turn narrows step by step, in this order: `narrate` (one budget for all of it) → `_tell` (at most
three calls) → `_call` (one answer, read into the draft) → `_next` (who is asked then, and when).
It always ends in `ladder.concluded`: what the calls didn't bring is told offline, unless the machine
refuses that.

| what a call came to | the next call |
|---|---|
| an answer that is not whole | asks once for what is missing or wrong, saying why |
| an answer cut by its provider or by our time limit | the same, of another provider where there is one |
| a status that may pass | the same again, after a wait; after the second, another provider |
| no word in time, no connection | another provider; the same one, after a wait, where there is no other |
| 401, 402, 404 | another provider; this one is left alone |
| 400 or 422 about the response format | the next format at once, and from then on |
| any other 400 or 422 | another provider, whose rules for a request are its own |

No key, prompt or player's text is ever logged or put into an error.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from typing import TYPE_CHECKING, Any

from runtime.errors import NarrationInvalid, NarratorUnavailable, Overloaded, WorldError
from runtime.narrators import answer, chat, ladder, probing
from runtime.narrators.profile import Profile, deepseek
from runtime.narrators.provider import MAX_ANSWER_BYTES, Answer, CallError, Provider, Standing, least_of
from runtime.prices import cost_micros
from runtime.session import Spent, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from runtime.narrators import Narration, Task
    from runtime.narrators.probing import Known
    from runtime.narrators.provider import Transport
    from runtime.narrators.release import Release

__all__ = ["MAX_ANSWER_BYTES", "OpenAI", "Profile", "deepseek"]

MAX_CALLS = 3
"""Calls in one turn: retries, the re-ask and other providers alike."""
FIRST_WAIT_S = 0.5
"""The longest wait before the second call; it doubles from call to call, and half of it is jitter."""
LONGEST_WAIT_BESIDE_S = 1.0
"""The longest wait for a provider while another one could be asked at once."""
RESERVE_S = 0.5
"""How much of the task's deadline is kept for concluding; a tenth of a short one."""

_LOG = logging.getLogger(__name__)


class _Turn:
    """One turn's calls so far: what they brought, what they cost, and how the last one failed."""

    def __init__(self, task: Task, release: Release, began: float, budget_s: float) -> None:
        self.task, self.release, self.began = task, release, began
        self.budget_s, self.ends_at = budget_s, began + budget_s
        self.draft = ladder.EMPTY
        self.made = self.cost = self.queue_ms = self.first_token_ms = 0
        self.usage = Usage()
        self.rungs: list[str] = []
        self.failed: CallError | None = None
        self.asked: list[Provider] = []
        self.told_by: Provider | None = None
        self.model: str | None = None
        self.form = ""
        self.is_answered = self.is_reasked = self.is_cut = False
        self.why = ""

    def climb(self, *rungs: str) -> None:
        """Note rungs, each once."""
        self.rungs += [rung for rung in rungs if rung not in self.rungs]

    def left_s(self) -> float:
        """The seconds of its budget that are left."""
        return self.ends_at - time.monotonic()

    def has_time(self) -> bool:
        """Whether enough is left for another call."""
        return self.left_s() > least_of(self.budget_s)

    def take(self, provider: Provider, got: Answer) -> None:
        """Take an answer: what stands of it, and what it cost."""
        before = self.draft.parts
        self.draft = ladder.received(self.task, got.text, got.finish, self.draft)
        self.climb(*self.draft.rungs)
        self.bill(provider, got.usage)
        if not self.is_answered:
            self.first_token_ms = got.first_token_ms
        self.queue_ms += got.queue_ms
        if not before or self.draft.parts != before:
            # Who added nothing to what stands has told nothing of it.
            self.told_by, self.model = provider, got.model
        self.is_answered, self.is_cut, self.failed = True, got.finish == "cut", None

    def bill(self, provider: Provider, used: Usage) -> None:
        """Count what a call took, be it that it brought nothing."""
        self.cost += cost_micros(provider.profile.prices, used)
        self.usage = Usage(
            self.usage.prompt_tokens + used.prompt_tokens,
            self.usage.completion_tokens + used.completion_tokens,
            self.usage.cached_tokens + used.cached_tokens,
        )

    def spent(self) -> Spent:
        """What it took so far."""
        return Spent(
            provider=self.told_by.name if self.told_by else "",
            calls=self.made,
            cost_micros=self.cost,
            queue_ms=self.queue_ms,
            first_token_ms=self.first_token_ms,
            total_ms=round((time.monotonic() - self.began) * 1000),
        )


class OpenAI:
    """Asks a model for each narration. One serves a whole process: calls of many turns run at once."""

    name = "openai"

    def __init__(
        self,
        *profiles: Profile,
        known: Known | None = None,
        transport: Transport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the profiles of the providers, in the order in which they are asked.

        `known` keeps what each can do; without it nothing is tried beforehand. For tests:
        `transport`, `sleep` (seconds), `jitter` (0 to 1), `clock` (seconds since the epoch),
        `steady` (seconds, for the breakers).
        """
        names = _names(profiles)
        self.providers = tuple(
            Provider(profile, name=name, transport=transport, clock=clock, steady=steady)
            for profile, name in zip(profiles, names, strict=True)
        )
        self._known = known
        self._sleep, self._jitter = sleep, jitter

    async def open(self) -> None:
        """Find out, where nobody knows, what each provider can do: all at once, and not for long."""
        if self._known is not None:
            await probing.learn(self.providers, self._known)

    def standing(self) -> tuple[Standing, ...]:
        """How each provider stands, in the order in which they are asked."""
        return tuple(provider.standing() for provider in self.providers)

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Ask for the task's narration: at most three calls, within the first profile's `timeout_s` and the deadline.

        What they don't bring is told offline. Raises Overloaded where too many turns wait; and, where
        the machine refuses to go on without, NarratorUnavailable where no answer came, NarrationInvalid
        where none was whole. All with the facts `rungs` and `attempts`, and what was spent.
        """
        budget_s = min(self.providers[0].profile.timeout_s, task.deadline_s - min(RESERVE_S, task.deadline_s / 10))
        turn = _Turn(task, release, time.monotonic(), budget_s)
        try:
            await self._tell(turn)
            release.hold()
            return self._concluded(turn)
        except WorldError as error:
            vars(error).update(usage=turn.usage, spent=turn.spent())
            raise

    async def close(self) -> None:
        """Let go of the connections."""
        for provider in self.providers:
            await provider.close()

    async def _tell(self, turn: _Turn) -> None:
        provider = self._free(self.providers)
        full = [each for each in self.providers if each.is_full]
        if provider is None and any(not each.breaker.is_open for each in full):
            message = "as many turns wait for the model as may"
            raise Overloaded(message, "Send the same again in a moment.", rungs=(), attempts=0, retry_after_seconds=1)
        while provider is not None:
            await self._call(turn, provider)
            provider = await self._next(turn, provider)

    async def _call(self, turn: _Turn, provider: Provider) -> None:
        """Make one call, and take what it brings."""
        form = turn.form = provider.format
        turn.made += 1
        turn.asked.append(provider)
        schema = ladder.still_asked(turn.task, turn.draft)
        body = chat.request_body(provider.profile, turn.task, schema, answer.told_of(turn.draft.wrong), form)
        try:
            # Only a first answer is heard as it comes: what a later one brings has its place in the whole.
            hear = _unheard if turn.is_answered else turn.release.feed
            got = await provider.ask(body, hear, turn.left_s(), turn.budget_s)
        except CallError as failed:
            turn.failed = failed
            if failed.is_made:
                turn.climb(form)
                turn.bill(provider, failed.usage)
            else:
                turn.made -= 1
            # No word of it was heard, or it would be an answer that was cut: the next call's are heard as they come.
            self._log(turn, provider, failed.why)
            return
        turn.climb(form)
        turn.release.hold()
        turn.take(provider, got)
        if not turn.draft.is_whole:
            turn.why = f"answered, and {_fault_of(got)}: {answer.rules_of(turn.draft.wrong)}"
            self._log(turn, provider, turn.why)

    async def _next(self, turn: _Turn, provider: Provider) -> Provider | None:
        """Whom to ask now, None where the turn is to be concluded; it has been waited for then."""
        if turn.draft.is_whole or turn.made >= MAX_CALLS or not turn.has_time():
            return None
        if turn.failed is None:
            return self._reasked(turn, provider)
        if turn.failed.outcome == "format":
            return await self._reformatted(turn, provider)
        return await self._retried(turn, provider, turn.failed)

    def _reasked(self, turn: _Turn, provider: Provider) -> Provider | None:
        if turn.is_reasked:
            return None
        turn.is_reasked = True
        others = [each for each in self.providers if each is not provider]
        # One that was cut, for being slow or broken, would be so again.
        asked = self._free((*others, provider) if turn.is_cut else (provider, *others))
        if asked is not None:
            turn.climb("reask", *(["failover"] if asked is not provider else []))
        return asked

    async def _reformatted(self, turn: _Turn, provider: Provider) -> Provider | None:
        """The same provider with its next format, which is remembered; else another one."""
        if not provider.refuse_format(turn.form):
            return self._other(turn)
        _LOG.warning(
            "the model at %s can't answer in that format: asking for %s", provider.profile.host, provider.format
        )
        if self._known is not None:
            await asyncio.to_thread(self._known.note, provider)
        return provider

    async def _retried(self, turn: _Turn, provider: Provider, failed: CallError) -> Provider | None:
        wait_s = self._wait_s(turn, failed)
        has_time = wait_s < turn.left_s() - least_of(turn.budget_s)
        may_retry = failed.may_pass and has_time and self._free((provider,)) is not None
        is_better_off = (
            failed.outcome in ("late", "unreachable")
            or turn.asked.count(provider) > 1
            or wait_s > LONGEST_WAIT_BESIDE_S
        )
        if (is_better_off or not may_retry) and (other := self._other(turn)):
            return other
        if not may_retry:
            return None
        await self._sleep(wait_s)
        turn.climb("retry")
        return provider

    def _other(self, turn: _Turn) -> Provider | None:
        """The first provider that was not asked in this turn and may be."""
        other = self._free(each for each in self.providers if each not in turn.asked)
        if other is not None:
            turn.climb("failover")
        return other

    def _free(self, providers: Iterable[Provider]) -> Provider | None:
        """The first of these that may be asked now."""
        return next((each for each in providers if not each.breaker.is_open and not each.is_full), None)

    def _wait_s(self, turn: _Turn, failed: CallError) -> float:
        longest_s = FIRST_WAIT_S * 2.0 ** (turn.made - 1)
        return max(longest_s * (1 + self._jitter()) / 2, failed.wait_s)

    def _concluded(self, turn: _Turn) -> Narration:
        """The narration of what the calls brought. Raises NarratorUnavailable and NarrationInvalid."""
        if not turn.is_answered and turn.task.machine.definition.on_failure == "refuse":
            raise self._unavailable(turn)
        try:
            return ladder.concluded(
                turn.task,
                turn.draft,
                narrator=self.name,
                model=turn.model,
                attempts=turn.made,
                rungs=tuple(turn.rungs),
                usage=turn.usage,
                spent=turn.spent(),
            )
        except NarrationInvalid as error:
            raise _invalid(turn, error) from None

    def _unavailable(self, turn: _Turn) -> WorldError:
        facts: dict[str, Any] = {"rungs": tuple(turn.rungs), "attempts": turn.made}
        rest_s = min(provider.breaker.rest_s for provider in self.providers)
        if turn.failed is None:
            message = f"every provider rests after failures, for {math.ceil(rest_s)} s more"
            return NarratorUnavailable(message, "Send the same again then.", **facts, **_after(rest_s))
        host = turn.asked[-1].profile.host
        message = f"the model at {host} {turn.failed.why}{_after_calls(turn)}"
        return NarratorUnavailable(message, turn.failed.mend, **facts, **_after(turn.failed.wait_s or rest_s))

    def _log(self, turn: _Turn, provider: Provider, why: str) -> None:
        _LOG.warning("call %d of %d: the model at %s %s", turn.made, MAX_CALLS, provider.profile.host, why)


def _invalid(turn: _Turn, error: NarrationInvalid) -> NarrationInvalid:
    """The same, with whom was asked and how often."""
    last = turn.failed.why if turn.failed else turn.why
    message = f"the model at {turn.asked[-1].profile.host} {last}{_after_calls(turn)}"
    hint = turn.failed.mend if turn.failed else error.hint
    return NarrationInvalid(message, hint, rungs=tuple(turn.rungs), attempts=turn.made)


def _fault_of(got: Answer) -> str:
    """What an answer that is not whole came to, without a word of it."""
    if got.finish == "content_filter":
        return "the provider's content filter cut it"
    return got.why or "against the rules"


def _unheard(_: str) -> None:
    """Hear nothing of a call."""


def _after(seconds: float) -> dict[str, int]:
    return {"retry_after_seconds": math.ceil(seconds)} if seconds else {}


def _after_calls(turn: _Turn) -> str:
    """How many calls were made, as a sentence ends; nothing where none was."""
    if not turn.made:
        return ""
    return f", after {turn.made} call{'s' if turn.made > 1 else ''}"


def _names(profiles: tuple[Profile, ...]) -> list[str]:
    """A name for each: its profile's; the second of one kind is called `ollama-2`."""
    names: list[str] = []
    for profile in profiles:
        same = sum(name.partition("-")[0] == profile.name for name in names)
        names.append(f"{profile.name}-{same + 1}" if same else profile.name)
    return names
