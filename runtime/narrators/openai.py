"""The narrator that asks a language model, over any OpenAI-compatible chat API.

The only door to httpx and the transport under it. Calls narrow step by step, in this order:
`narrate` (the total deadline) → `_tell` (retries) → `_attempt` (one answer, judged) → `_post`
(one request, its size and time bounded).

No key, prompt or player's text is ever logged or put into an error.
"""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import logging
import math
import random
import time
import urllib.request
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from runtime.errors import NarrationInvalid, NarratorUnavailable, WorldError
from runtime.narrators import answer, chat
from runtime.narrators.profile import Profile, deepseek
from runtime.session import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runtime.narrators import Narration, Task
    from runtime.narrators.release import Release

__all__ = ["OpenAI", "Profile", "deepseek"]

MAX_CALLS = 3
"""Calls to the model in one turn, retries and re-asks alike."""
MAX_ANSWER_BYTES = 256 * 1024
"""The largest response that is read."""
CONNECT_TIMEOUT_S = 5.0
FIRST_WAIT_S = 0.5
"""The longest wait before the second call; it doubles from call to call, and half of it is jitter."""
LONGEST_WAIT_S = 86_400.0
"""A provider that asks for a longer wait is taken to ask for a day."""
SPARE_CONNECTIONS = 16
"""How many more connections the pool has than calls that may run at once."""
WORTH_RETRYING = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may pass by themselves; every status from 500 on may."""
BALANCE_EMPTY = "insufficient_quota"
"""OpenAI says this with a 429; it doesn't pass by itself."""

_LOG = logging.getLogger(__name__)

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


class _CallError(Exception):
    """One call that brought no narration; it stays in this module.

    `why` continues the sentence "the model …". `answered`: the model spoke, and not within the
    rules; `refused` is what to tell it of that. `wait_s` is what the provider asked for.
    """

    def __init__(
        self,
        *,
        why: str,
        worth_retrying: bool = True,
        answered: bool = False,
        refused: tuple[str, ...] = (),
        wait_s: float = 0.0,
        mend: str = _LATER,
    ) -> None:
        super().__init__(why)
        self.why, self.worth_retrying, self.answered = why, worth_retrying, answered
        self.refused, self.wait_s, self.mend = refused, wait_s, mend


class _Calls:
    """The calls of one turn so far: how many, what they cost, and how each failed."""

    def __init__(self) -> None:
        self.made = 0
        self.usage = Usage()
        self.failed: list[_CallError] = []

    def add(self, used: Usage) -> None:
        self.usage = Usage(
            self.usage.prompt_tokens + used.prompt_tokens,
            self.usage.completion_tokens + used.completion_tokens,
            self.usage.cached_tokens + used.cached_tokens,
        )

    @property
    def refused(self) -> tuple[str, ...]:
        """What to tell the model of its last answer; it holds until it has answered again."""
        return next((failed.refused for failed in reversed(self.failed) if failed.answered), ())


class OpenAI:
    """Asks a model for each narration. One serves a whole process: calls of many turns run at once."""

    name = "openai"

    def __init__(
        self,
        profile: Profile,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the profile; nothing is connected until the first call.

        For tests: `transport`, `sleep` (seconds), `jitter` (0 to 1), `clock` (seconds since the epoch).
        """
        _quieten()
        self.profile = profile
        self._sleep, self._jitter, self._clock = sleep, jitter, clock
        # Below the pool's own limit: calls cancelled while they wait inside the pool can break it for good.
        self._slots = asyncio.Semaphore(profile.max_in_flight)
        self._client = httpx.AsyncClient(
            base_url=profile.base_url,
            headers=_headers(profile),
            # No cookies: what one player's call brings is never sent with another's.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            transport=transport or _transport(profile),
            follow_redirects=False,
        )

    async def open(self) -> None:
        """Nothing is connected before the first call."""

    async def narrate(self, task: Task, release: Release) -> Narration:  # noqa: ARG002
        """Ask for the task's narration, at most three times within `profile.timeout_s`.

        Raises NarratorUnavailable where no answer came and NarrationInvalid where answers came and
        none kept to the rules; both with the facts `rungs` and `attempts`.
        """
        calls = _Calls()
        try:
            async with asyncio.timeout(self.profile.timeout_s) as deadline:
                return await self._tell(task, calls, deadline)
        except TimeoutError:
            calls.failed.append(_CallError(why=f"gave no usable answer within {self.profile.timeout_s:g} s"))
            raise self._failure(calls) from None

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def _tell(self, task: Task, calls: _Calls, deadline: asyncio.Timeout) -> Narration:
        while True:
            try:
                return await self._attempt(task, calls)
            except _CallError as failed:
                calls.failed.append(failed)
                _LOG.warning("call %d of %d: the model at %s %s", calls.made, MAX_CALLS, self.profile.host, failed.why)
            wait_s = self._wait_s(calls)
            if not _may_retry(calls, wait_s, deadline):
                raise self._failure(calls)
            if wait_s:
                await self._sleep(wait_s)

    async def _attempt(self, task: Task, calls: _Calls) -> Narration:
        body = chat.request_body(self.profile, task, calls.refused)
        async with self._slots:
            calls.made += 1
            raw = await self._post(body)
        reply = _reply(raw, self.profile)
        calls.add(reply.usage)
        return answer.narration_of(
            task,
            _judged(task, reply, body["max_tokens"]),
            narrator=self.name,
            model=reply.model,
            attempts=calls.made,
            rungs=self._rungs(calls),
            usage=calls.usage,
        )

    async def _post(self, body: Mapping[str, Any]) -> bytes:
        limit_s = self.profile.attempt_timeout_s
        content = msgspec.json.encode(body)
        try:
            async with (
                asyncio.timeout(limit_s),
                self._client.stream("POST", "chat/completions", content=content) as response,
            ):
                raw = await _bounded(response)
        except TimeoutError:
            raise _CallError(why=f"gave no answer within {limit_s:g} s") from None
        except (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError) as error:
            raise _CallError(why=f"could not be reached, or broke off ({type(error).__name__})") from None
        if response.status_code != httpx.codes.OK:
            raise _bad_status(response, raw, self._clock())
        return raw

    def _wait_s(self, calls: _Calls) -> float:
        failed = calls.failed[-1]
        if failed.answered:
            return 0.0
        longest_s = FIRST_WAIT_S * 2.0 ** (calls.made - 1)
        return max(longest_s * (1 + self._jitter()) / 2, failed.wait_s)

    def _rungs(self, calls: _Calls) -> tuple[str, ...]:
        return (self.profile.response_format, *(["retry"] if calls.made > 1 else []))

    def _failure(self, calls: _Calls) -> WorldError:
        last = calls.failed[-1]
        facts: dict[str, Any] = {"rungs": self._rungs(calls), "attempts": calls.made}
        asked = "1 call" if calls.made == 1 else f"{calls.made} calls"
        message = f"the model at {self.profile.host} {last.why}, after {asked}"
        if any(failed.answered for failed in calls.failed):
            return NarrationInvalid(message, last.mend, **facts)
        if last.wait_s:
            facts["retry_after_seconds"] = math.ceil(last.wait_s)
        return NarratorUnavailable(message, last.mend, **facts)


def _may_retry(calls: _Calls, wait_s: float, deadline: asyncio.Timeout) -> bool:
    ends_at = deadline.when()
    left_s = ends_at - asyncio.get_running_loop().time() if ends_at is not None else math.inf
    return calls.failed[-1].worth_retrying and calls.made < MAX_CALLS and wait_s < left_s


def _quieten() -> None:
    # httpx logs every URL at INFO; a level that someone set on purpose stays.
    for name in ("httpx", "httpcore"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)


def _headers(profile: Profile) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        # A small compressed body may be huge once unzipped, and only then could it be counted.
        "Accept-Encoding": "identity",
        "User-Agent": "edgewise",
    }
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


async def _bounded(response: httpx.Response) -> bytes:
    """The whole body; raises _CallError where it is larger than we read, or compressed."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _CallError(why="compressed its answer although asked not to", worth_retrying=False, mend=_NO_API)
    raw = bytearray()
    async for chunk in response.aiter_raw():
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise _CallError(why=f"sent more than {MAX_ANSWER_BYTES // 1024} KB")
    return bytes(raw)


def _bad_status(response: httpx.Response, raw: bytes, now_s: float) -> _CallError:
    status, code = response.status_code, chat.error_code(raw)
    may_pass = status in WORTH_RETRYING or status >= httpx.codes.INTERNAL_SERVER_ERROR
    return _CallError(
        why=f"answered {status} ({code})" if code else f"answered {status}",
        worth_retrying=may_pass and code != BALANCE_EMPTY,
        wait_s=_retry_after_s(response.headers.get("retry-after", ""), now_s),
        mend=_MENDS.get(status, _NO_API if response.is_redirect else _LATER),
    )


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


def _reply(raw: bytes, profile: Profile) -> chat.Reply:
    try:
        return chat.reply_of(raw, profile)
    except chat.NoReplyError as error:
        raise _CallError(why=f"answered 200 with {error}", mend=_NO_API) from None


def _judged(task: Task, reply: chat.Reply, max_tokens: int) -> answer.Judged:
    """The reply's answer where it keeps to the rules; raises _CallError where it doesn't."""
    if reply.finish == "content_filter":
        raise _CallError(why="answered, and the provider's content filter cut it", answered=True)
    try:
        judged = answer.judge(task, answer.read(reply.content))
    except answer.AnswerError as error:
        cut_off = reply.finish == "length"
        why = f"it is cut off at max_tokens = {max_tokens}: write less" if cut_off else str(error)
        raise _CallError(why=f"answered, and not usably: {why}", answered=True, refused=(why,)) from None
    if judged.breaches:
        why = f"answered, and against the rules: {answer.rules_of(judged.breaches)}"
        raise _CallError(why=why, answered=True, refused=answer.told_of(judged.breaches))
    return judged
