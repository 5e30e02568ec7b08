"""One provider of a language model, over HTTP: its connections, its places, and one call at a time.

The only door to httpx and the transport under it. A call narrows step by step, in this order:
`ask` (whether it rests) → `_placed` (a free place, or the queue) → `_counted` (the breaker, and what
is counted) → `_called` (what came of it, and its tokens) → `_read` (the deadlines).

No key, prompt or player's text is ever logged or put into an error.
"""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import logging
import time
import urllib.request
from collections import Counter
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, urlsplit

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport
from msgspec import Struct

from runtime.narrators import chat
from runtime.narrators.breaker import LONG_REST_S, Breaker, State
from runtime.narrators.streamed import Streamed
from runtime.session import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runtime.narrators.profile import Profile, ResponseFormat

MAX_ANSWER_BYTES = 256 * 1024
"""The largest answer that is read, in bytes of its text; of a stream, this and `TOKEN_BYTES` for each token."""
TOKEN_BYTES = 1024
"""How much of a stream one token may take, with the JSON around it and what keeps the connection alive."""
CONNECT_TIMEOUT_S = 5.0
END_GRACE_S = 0.5
"""How long the rest of a stream is waited for once the answer in it has ended: its usage, its end mark."""
LONGEST_WAIT_S = 86_400.0
"""A provider that asks for a longer wait is taken to ask for a day."""
LEAST_S = 1.0
"""With less time left no call is made; of a short budget a tenth."""
HURRIED = 0.9
"""A call with less than this part of the time that it usually has says nothing of the provider where it is late."""
SPARE_CONNECTIONS = 16
"""How many more connections the pool has than calls that may run at once."""
MAY_PASS = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may pass by themselves; every status from 500 on may."""
OWNERS = frozenset({401, 402, 404})
"""Statuses that only whoever set the provider up can mend: its breaker opens at once."""
ABOUT_THE_REQUEST = frozenset({400, 422})
BALANCE_EMPTY = "insufficient_quota"
"""OpenAI says this with a 429; it doesn't pass by itself."""

_LOG = logging.getLogger(__name__)

Transport = httpx.AsyncBaseTransport
"""What carries requests; tests bring their own."""
Outcome = Literal[
    "answered", "cut", "late", "unreachable", "busy", "refused", "rejected", "format", "unreadable", "left"
]
"""How a call ended, as it is counted: `left` where whoever asked gave it up, or gave it less time than usual."""

_LATER = "Send the same event again later."
_NO_API = "Check the base URL: no chat API answers there."
_MENDS = {
    400: "The provider refuses the request: check the model's name, and that it can answer in the response format.",
    401: "Check the API key.",
    402: "The balance with the provider is empty: top it up.",
    403: "The API key may not use this model: check the key and the model's name.",
    404: "Check the base URL and the model's name.",
    422: "The provider refuses the request: check the model's name and the prompt's model options.",
    429: "The provider asks for fewer calls: wait, or have its limit raised.",
}


class CallError(Exception):
    """One call that brought no text.

    `why` continues the sentence "the model …". `may_pass`: the same call may do better later.
    `wait_s` is what the provider asked for, `rest_s` for how long it is left alone from now on.
    `is_made`: the provider was called at all. `usage` is what a call took that reached it.
    """

    usage = Usage()

    def __init__(
        self,
        outcome: Outcome,
        why: str,
        *,
        may_pass: bool = True,
        wait_s: float = 0.0,
        rest_s: float = 0.0,
        mend: str = _LATER,
        is_made: bool = True,
    ) -> None:
        super().__init__(why)
        self.outcome, self.why, self.may_pass, self.is_made = outcome, why, may_pass, is_made
        self.wait_s, self.rest_s, self.mend = wait_s, rest_s, mend


class Answer(Struct, frozen=True):
    """What a call brought. `finish` is the provider's finish_reason, or `cut`, and `why` says then what cut it.

    `usage` is an estimate where the provider told none. `outcome` is how the call is counted.
    Times in milliseconds: `queue_ms` was waited for a free place, `first_token_ms` from then to the first word.
    """

    text: str
    finish: str
    model: str
    usage: Usage
    queue_ms: int
    first_token_ms: int
    why: str = ""
    outcome: Outcome = "answered"


class Standing(Struct, frozen=True):
    """How a provider stands: for pages and figures that operators watch. `calls` counts them by how they ended."""

    name: str
    host: str
    model: str
    response_format: str
    breaker: State
    rest_s: float
    in_flight: int
    queued: int
    calls: Mapping[str, int]


class Provider:
    """Calls one model. One serves a whole process: calls of many turns run at once."""

    def __init__(
        self,
        profile: Profile,
        *,
        name: str = "",
        transport: Transport | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the profile; nothing is connected until the first call.

        For tests: `transport`, `clock` (seconds since the epoch), `steady` (seconds, the breaker's).
        """
        _quieten()
        self.profile = profile
        self.name = name or profile.name
        self.breaker = Breaker(profile.failures, steady)
        self.format: ResponseFormat = profile.response_format or profile.safe_format
        self.calls: Counter[str] = Counter()
        self.in_flight = self.queued = 0
        self._clock = clock
        # Below the pool's own limit: calls cancelled while they wait inside the pool can break it for good.
        self._places = asyncio.Semaphore(profile.max_in_flight)
        self._client = httpx.AsyncClient(
            base_url=profile.base_url,
            headers=_headers(profile),
            # No cookies: what one player's call brings is never sent with another's.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            transport=transport or _transport(profile),
            follow_redirects=False,
        )

    @property
    def is_full(self) -> bool:
        """Whether the next call would be turned away."""
        return self._places.locked() and self.queued >= self.profile.queue

    def standing(self) -> Standing:
        """How it stands now."""
        profile, breaker = self.profile, self.breaker
        return Standing(
            self.name,
            profile.host,
            profile.model,
            self.format,
            breaker.state,
            breaker.rest_s,
            self.in_flight,
            self.queued,
            dict(self.calls),
        )

    async def ask(
        self, body: Mapping[str, Any], hear: Callable[[str], None], within_s: float, usual_s: float | None = None
    ) -> Answer:
        """Make one call, to be over within so many seconds; `hear` is told each word as it comes.

        `usual_s` is what a call has for which nothing was waited before, `within_s` where it is None:
        one that has much less is no measure of the provider. An answer that breaks off after its
        first word is one with the finish `cut`. Raises CallError where no word came. Whether it rests
        and whether it is full is the caller's to ask before.
        """
        if self.breaker.is_open:
            raise _resting()
        usual_s = within_s if usual_s is None else usual_s
        began = time.monotonic()
        await self._place(within_s)
        try:
            waited_s = time.monotonic() - began
            left_s = within_s - waited_s
            if left_s <= least_of(usual_s):
                why = f"had no free place within {within_s:.3g} s"
                raise CallError("left", why, may_pass=False, is_made=False)
            # While it waited for a place others may have found that the provider fails.
            if not self.breaker.may_call():
                raise _resting()
            return await self._counted(body, hear, _Limit.of(self.profile, left_s, usual_s), round(waited_s * 1000))
        finally:
            self.in_flight -= 1
            self._places.release()

    def refuse_format(self, asked: str) -> bool:
        """The response format that was asked for was refused: there is another now; False where there is none.

        Of several calls that are refused the same format at once, only the first goes on to the next one.
        """
        if self.format != asked:
            return True
        formats = self.profile.formats if self.profile.response_format is None else ()
        after = formats[formats.index(self.format) + 1 :] if self.format in formats else ()
        if after:
            self.format = after[0]
        return bool(after)

    async def models(self, within_s: float) -> tuple[str, ...] | None:
        """The models that the provider lists, None where it lists none. Raises CallError."""
        try:
            async with asyncio.timeout(within_s), self._client.stream("GET", "models") as response:
                raw = await _bounded(response, MAX_ANSWER_BYTES * 16)
        except TimeoutError:
            raise CallError("late", f"listed no models within {within_s:.3g} s") from None
        except (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError) as error:
            raise _unreachable(error) from None
        if response.status_code != httpx.codes.OK:
            raise _bad_status(response, raw, self._clock())
        return chat.models_of(raw)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def _place(self, within_s: float) -> None:
        """Take a place, which is the caller's to give back. Raises CallError where none was free in time."""
        self.queued += 1
        try:
            async with asyncio.timeout(within_s):
                await self._places.acquire()
        except TimeoutError:
            # Nothing was asked: it says nothing of the provider.
            why = f"had no free place within {within_s:.3g} s"
            raise CallError("left", why, may_pass=False, is_made=False) from None
        finally:
            self.queued -= 1
        self.in_flight += 1

    async def _counted(
        self, body: Mapping[str, Any], hear: Callable[[str], None], limit: _Limit, queue_ms: int
    ) -> Answer:
        outcome: Outcome = "left"
        why, rest_s = "", 0.0
        try:
            answer = await self._called(body, hear, limit, queue_ms)
            outcome, why = answer.outcome, answer.why
        except CallError as failed:
            outcome, why, rest_s = failed.outcome, failed.why, _rest_s(failed, limit.left_s)
            raise
        finally:
            self._count(outcome, why, rest_s)
        return answer

    def _count(self, outcome: Outcome, why: str, rest_s: float) -> None:
        self.calls[outcome] += 1
        before = self.breaker.state
        if outcome == "answered":
            self.breaker.succeeded()
        elif outcome in ("left", "rejected", "format"):
            # A player's own words may be why a request is rejected: that is no fault of the provider's.
            self.breaker.left()
        else:
            self.breaker.failed(rest_s)
        self._log_change(before, why)

    def _log_change(self, before: State, why: str) -> None:
        """Say that the breaker opened or closed; an outage leaves no other trace while turns are told offline."""
        now, host = self.breaker.state, self.profile.host
        if now == "open" != before:
            rest_s = self.breaker.rest_s
            _LOG.warning("provider %s is left alone for %.0f s: the model at %s %s", self.name, rest_s, host, why)
        elif now == "closed" != before:
            _LOG.info("provider %s is asked again: the model at %s answers", self.name, host)

    async def _called(
        self, body: Mapping[str, Any], hear: Callable[[str], None], limit: _Limit, queue_ms: int
    ) -> Answer:
        streamed = Streamed(self.profile)
        reading = _Reading(streamed, hear, self.profile, time.monotonic(), _most_bytes(body))
        why = ""
        outcome: Outcome = "cut"
        try:
            await self._read(msgspec.json.encode(body), reading, limit)
        except CallError as failed:
            if reading.is_begun or failed.outcome in ("late", "left"):
                failed.usage = chat.billed(streamed.usage, body, streamed.written)
            if not streamed.text.strip():
                raise
            why, outcome = failed.why, "left" if failed.outcome == "left" else "cut"
        finish = "cut" if why and not streamed.finish else streamed.finish or "cut"
        is_cut = finish == "cut"
        return Answer(
            streamed.text,
            finish,
            streamed.model,
            chat.billed(streamed.usage, body, streamed.written),
            queue_ms,
            reading.first_token_ms,
            (why or "broke off") if is_cut else "",
            outcome if is_cut else "answered",
        )

    async def _read(self, content: bytes, reading: _Reading, limit: _Limit) -> None:
        """Read one answer, within the call's deadlines. Raises CallError."""
        try:
            async with (
                asyncio.timeout(limit.whole_s) as whole,
                asyncio.timeout(limit.first_s) as patience,
                self._client.stream("POST", "chat/completions", content=content) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise _bad_status(response, await _bounded(response, MAX_ANSWER_BYTES), self._clock())
                reading.is_begun = True
                await reading.all_of(response, patience)
        except TimeoutError:
            if not reading.is_whole:
                raise _late(reading, self.profile, limit, is_gap=patience.expired() and not whole.expired()) from None
        except (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError) as error:
            if not reading.is_whole:
                raise _unreachable(error) from None
        except chat.NoReplyError as error:
            raise CallError("unreadable", f"answered 200 with {error}", mend=_NO_API) from None


class _Limit(Struct, frozen=True):
    """The deadlines of one call, in seconds: for all of it, for its first word, and what its turn has left.

    Whether each is less than such a call usually has: then it is no measure of the provider.
    """

    whole_s: float
    first_s: float
    left_s: float
    is_hurried: bool
    is_first_hurried: bool

    @classmethod
    def of(cls, profile: Profile, left_s: float, usual_s: float) -> _Limit:
        """The deadlines where so much is left, and usually so much."""
        own_s, own_first_s = profile.attempt_timeout_s, min(profile.attempt_timeout_s, profile.first_token_s)
        return cls(
            min(left_s, own_s),
            min(left_s, own_first_s),
            left_s,
            left_s < min(own_s, usual_s * HURRIED),
            left_s < min(own_first_s, usual_s * HURRIED),
        )


class _Reading:
    """One answer being read: each word is heard as it comes, each byte counted. `is_begun`: its status was 200."""

    def __init__(
        self, streamed: Streamed, hear: Callable[[str], None], profile: Profile, began: float, most_bytes: int
    ) -> None:
        self._streamed, self._hear, self._profile = streamed, hear, profile
        self._began, self._most_bytes = began, most_bytes
        self._bytes = 0
        self.is_begun = False
        self.first_token_ms = 0

    @property
    def is_whole(self) -> bool:
        """Whether the answer itself has ended, whatever of its stream has not."""
        return bool(self._streamed.is_over or self._streamed.finish)

    async def all_of(self, response: httpx.Response, patience: asyncio.Timeout) -> None:
        """Read to the end. Raises CallError, chat.NoReplyError, and what the transport raises."""
        _refuse_compressed(response)
        async for piece in response.aiter_raw():
            self._bytes += len(piece)
            was_whole = self.is_whole
            self._told(self._streamed.feed(piece), patience)
            self._refuse_trouble()
            if self.is_whole and not was_whole:
                patience.reschedule(asyncio.get_running_loop().time() + END_GRACE_S)
            if self._bytes > self._most_bytes or len(self._streamed.text) > MAX_ANSWER_BYTES:
                raise CallError("unreadable", f"sent more than {self._most_bytes // 1024} KB")
        self._told(self._streamed.end(), patience)
        self._refuse_trouble()

    def _refuse_trouble(self) -> None:
        if self._streamed.trouble:
            raise CallError("unreadable", f"answered 200 with {self._streamed.trouble}")

    def _told(self, word: str, patience: asyncio.Timeout) -> None:
        if not word:
            return
        if not self.first_token_ms and not word.strip():
            self._hear(word)
            return  # blanks before the first word are none
        self.first_token_ms = self.first_token_ms or max(1, round((time.monotonic() - self._began) * 1000))
        if not self.is_whole:
            patience.reschedule(asyncio.get_running_loop().time() + self._profile.gap_s)
        self._hear(word)


def least_of(budget_s: float) -> float:
    """The seconds with which a call is still worth making, of a budget of so many."""
    return max(0.0, min(LEAST_S, budget_s / 10))


def _resting() -> CallError:
    return CallError("left", "rests after failures", may_pass=False, is_made=False)


def _late(reading: _Reading, profile: Profile, limit: _Limit, *, is_gap: bool) -> CallError:
    if not reading.first_token_ms:
        why = f"gave no answer within {limit.first_s:.3g} s"
        return CallError("left" if limit.is_first_hurried else "late", why)
    why = f"gave no whole answer within {limit.whole_s:.3g} s, or no word for {profile.gap_s:.3g} s"
    return CallError("left" if limit.is_hurried and not is_gap else "late", why)


def _most_bytes(body: Mapping[str, Any]) -> int:
    return MAX_ANSWER_BYTES + TOKEN_BYTES * chat.most_tokens(body)


def _rest_s(failed: CallError, within_s: float) -> float:
    """For how long a failure leaves the provider alone; a wait that no turn can wait is one."""
    return failed.rest_s or (failed.wait_s if failed.wait_s > within_s else 0.0)


def _unreachable(error: Exception) -> CallError:
    return CallError("unreachable", f"could not be reached, or broke off ({type(error).__name__})")


def _quieten() -> None:
    # httpx logs every URL at INFO; a level that someone set on purpose stays.
    for name in ("httpx", "httpcore"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)


def _headers(profile: Profile) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json",
        # A small compressed body may be huge once unzipped, and only then could it be counted.
        "Accept-Encoding": "identity",
        "User-Agent": "edgewise",
    }
    if not profile.keeps_connections:
        headers["Connection"] = "close"
    return {**headers, "Authorization": f"Bearer {profile.key}"} if profile.key else headers


def _transport(profile: Profile) -> AiohttpTransport:
    url = urlsplit(profile.base_url)
    transport = AiohttpTransport(verify=url.scheme == "https", proxy=_proxy(url))

    def session() -> aiohttp.ClientSession:
        limit = profile.max_in_flight + SPARE_CONNECTIONS
        connector = aiohttp.TCPConnector(limit=limit, ssl=transport.ssl_context)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    transport.client = session
    return transport


def _proxy(url: SplitResult) -> httpx.Proxy | None:
    """The environment's HTTP proxy for the URL; none for a server on this machine."""
    host = str(url.hostname)
    proxy = urllib.request.getproxies().get(url.scheme)
    if not proxy or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return httpx.Proxy(proxy)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _refuse_compressed(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        why = "compressed its answer although asked not to"
        raise CallError("unreadable", why, may_pass=False, mend=_NO_API)


async def _bounded(response: httpx.Response, most_bytes: int) -> bytes:
    """The whole body; raises CallError where it is larger than we read, or compressed."""
    _refuse_compressed(response)
    raw = bytearray()
    async for chunk in response.aiter_raw():
        raw += chunk
        if len(raw) > most_bytes:
            raise CallError("unreadable", f"sent more than {most_bytes // 1024} KB")
    return bytes(raw)


def _bad_status(response: httpx.Response, raw: bytes, now_s: float) -> CallError:
    status, code = response.status_code, chat.error_code(raw)
    is_owners = status in OWNERS or code == BALANCE_EMPTY
    return CallError(
        _outcome_of(status, raw, is_owners=is_owners),
        f"answered {status} ({code})" if code else f"answered {status}",
        may_pass=not is_owners and _may_pass(status),
        wait_s=_retry_after_s(response.headers.get("retry-after", ""), now_s),
        rest_s=LONG_REST_S if is_owners else 0.0,
        mend=_MENDS.get(status, _NO_API if response.is_redirect else _LATER),
    )


def _may_pass(status: int) -> bool:
    return status in MAY_PASS or status >= httpx.codes.INTERNAL_SERVER_ERROR


def _outcome_of(status: int, raw: bytes, *, is_owners: bool) -> Outcome:
    if is_owners:
        return "refused"
    if status in ABOUT_THE_REQUEST and chat.speaks_of_format(raw):
        return "format"
    return "busy" if _may_pass(status) else "rejected"


def _retry_after_s(value: str, now_s: float) -> float:
    """Seconds to wait, given as a number or a date; 0 where it says nothing sane.

    Source: RFC 9110 section 10.2.3.
    """
    if value.strip().isdecimal():
        return min(float(value), LONGEST_WAIT_S)
    try:
        until_s: float = email.utils.parsedate_to_datetime(value).timestamp() - now_s
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(0.0, until_s), LONGEST_WAIT_S)
