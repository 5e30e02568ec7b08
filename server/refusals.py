"""The error table: for each `error` its HTTP status, what it means, and what a player reads.

The engine's refusals are in `runtime.errors`; those that only HTTP knows are here. A test holds
that every code of both has its row, and the OpenAPI document is made from the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from runtime import errors
from runtime.errors import ClientError, Refusal


class BadRequest(ClientError):
    """The request itself is no HTTP that the server reads. Facts: none."""

    code = "bad_request"


class MalformedJson(ClientError):
    """The body is no JSON, or JSON that readers understand differently. Facts: position."""

    code = "malformed_json"


class Unauthenticated(ClientError):
    """No token, or one that nobody was given. Facts: role_needed."""

    code = "unauthenticated"


class NotFound(ClientError):
    """There is no such path. Facts: path."""

    code = "not_found"


class MethodNotAllowed(ClientError):
    """The path has no such method. Facts: allowed_methods."""

    code = "method_not_allowed"


class BodyTooLarge(ClientError):
    """The body is over the limit. Facts: limit_bytes."""

    code = "body_too_large"


class UnsupportedMediaType(ClientError):
    """The body is not declared as JSON. Facts: accepted_types."""

    code = "unsupported_media_type"


class RateLimited(ClientError):
    """The token has had its turns for now. Facts: retry_after_seconds."""

    code = "rate_limited"
    retry = "same"


class InternalError(Refusal):
    """A fault of ours; nothing of it leaks. The log has it under the request's id."""

    code = "internal_error"
    retry = "same"


class Row(Struct, frozen=True):
    """One error: its HTTP status, what it means to a developer, what a player reads."""

    status: int
    about: str
    zh: str
    en: str


TABLE: Final[dict[str, Row]] = {
    "bad_request": Row(
        400,
        "the request is no HTTP that the server reads",
        "这次没有听清，请再试一次。",
        "That did not come through. Please try again.",
    ),
    "malformed_json": Row(
        400,
        "the body is no JSON, is no UTF-8, is nested over 64 deep, repeats a key, or holds a number out of range",
        "这次没有听清，请再试一次。",
        "That did not come through. Please try again.",
    ),
    "unauthenticated": Row(401, "no token, or an unknown one", "请先登录再继续。", "Please sign in to go on."),
    "forbidden": Row(403, "the token's role may not do this", "这一步不由你来决定。", "That is not yours to decide."),
    "session_not_found": Row(404, "no session has this id", "找不到这段故事了。", "This story can't be found."),
    "machine_not_found": Row(404, "no machine has this name", "这里没有这样的故事。", "There is no such story here."),
    "turn_not_found": Row(404, "the session has no such turn", "找不到那一刻了。", "That moment can't be found."),
    "not_found": Row(404, "there is no such path", "这里什么也没有。", "There is nothing here."),
    "method_not_allowed": Row(405, "the path has no such method", "这里什么也没有。", "There is nothing here."),
    "session_exists": Row(
        409,
        "the initial event was sent to a session that has begun",
        "故事已经开始了，请接着玩。",
        "The story has already begun. Please go on from here.",
    ),
    "event_not_allowed": Row(
        409,
        "the state has no edge for the event, or another event must come first",
        "现在还不能这样做。",
        "That can't be done right now.",
    ),
    "guard_refused": Row(
        409, "the event has edges here and none is open", "现在还不能这样做。", "That can't be done right now."
    ),
    "session_ended": Row(
        409, "the session is in a final state", "这段故事已经结束了。", "This story has come to its end."
    ),
    "turn_in_progress": Row(
        409,
        "another turn of the session is under way",
        "请稍候，故事正在继续。",
        "One moment: the story is still unfolding.",
    ),
    "stale_turn": Row(
        409,
        "the client has not seen the head turn",
        "故事已经往前走了，请看看现在的情形。",
        "The story has moved on. Please look at where it stands.",
    ),
    "rewind_refused": Row(
        409,
        "the machine, or the session's history, doesn't let it go there",
        "回不到那里去了。",
        "There is no going back to that.",
    ),
    "machine_changed": Row(
        409,
        "the definition that the session began with is gone",
        "这段故事无法继续了，请重新开始。",
        "This story can't go on. Please begin a new one.",
    ),
    "body_too_large": Row(
        413, "the body is over 256 KB", "内容太长了，请说得短一些。", "That is too long. Please say it shorter."
    ),
    "unsupported_media_type": Row(
        415,
        "the body is not declared as JSON",
        "这次没有听清，请再试一次。",
        "That did not come through. Please try again.",
    ),
    "validation_error": Row(
        422,
        "the request has the wrong shape; `details` has every fault",
        "这次没有听清，请再试一次。",
        "That did not come through. Please try again.",
    ),
    "unknown_event_type": Row(422, "the machine has no such event", "这里不能这样做。", "That can't be done here."),
    "option_not_offered": Row(
        422,
        "the option was not in the last offer, or one is needed",
        "请从眼前的选项中选一个。",
        "Please choose one of the options at hand.",
    ),
    "option_event_mismatch": Row(
        422,
        "the option belongs to another event",
        "请从眼前的选项中选一个。",
        "Please choose one of the options at hand.",
    ),
    "text_not_allowed": Row(
        422, "a player's text holds what the session forbids", "换个说法试试吧。", "Please try other words."
    ),
    "constraints_unsatisfiable": Row(
        422,
        "no text at all is left under these constraints",
        "这样的故事讲不出来。",
        "This story can't be told that way.",
    ),
    "idempotency_mismatch": Row(
        422,
        "the Idempotency-Key was sent before with another request",
        "这次没有听清，请再试一次。",
        "That did not come through. Please try again.",
    ),
    "rate_limited": Row(
        429,
        "the token has had its turns for this minute",
        "慢一点，稍后再继续。",
        "Slow down a little and try again soon.",
    ),
    "budget_exhausted": Row(
        429,
        "the session's or the day's budget for telling is used up; `retry` is `never` where it is the session's",
        "今天的故事先讲到这里，请稍后再来。",
        "The storyteller rests for now. Please come back later.",
    ),
    "machine_fault": Row(
        500, "a guard or an assign errs: the designer's fault", "故事在这里卡住了。", "The story is stuck here."
    ),
    "internal_error": Row(
        500,
        "our own fault; the log has it under the request id",
        "出了点问题，请稍后再试。",
        "Something went wrong. Please try again later.",
    ),
    "not_implemented": Row(
        501, "the contract has it and this version has not", "现在还不能这样做。", "That can't be done yet."
    ),
    "narrator_unavailable": Row(
        503,
        "the narrator gave no answer in time",
        "讲故事的人暂时走开了，请稍后再试。",
        "The storyteller has stepped away. Please try again soon.",
    ),
    "narration_invalid": Row(
        503,
        "the narrator never answered within the schema and the constraints",
        "讲故事的人一时语塞，请再试一次。",
        "The storyteller lost the thread. Please try again.",
    ),
    "store_unavailable": Row(
        503,
        "the journal can't be read or written now",
        "暂时无法继续，请稍后再试。",
        "We can't go on just now. Please try again soon.",
    ),
    "overloaded": Row(
        503, "too much is waiting", "人太多了，请稍后再试。", "It is crowded right now. Please try again soon."
    ),
}
"""Each `error` in the order of its status."""


SESSION_BUDGET: Final = Row(
    TABLE["budget_exhausted"].status,
    "the session's budget for telling is used up: no day brings it back",
    "这段故事就讲到这里了，换一段新的吧。",
    "This story can be told no further. Please begin a new one.",
)


def player_message(refusal: Refusal, language: str) -> str:
    """One short sentence for a player: Chinese where the language is, else English."""
    row = SESSION_BUDGET if isinstance(refusal, errors.SessionBudgetExhausted) else TABLE[refusal.code]
    return row.zh if language.partition("-")[0].lower() == "zh" else row.en


def kinds() -> Iterator[type[Refusal]]:
    """Every refusal that has a code, the engine's and HTTP's."""
    open_ends: list[type[Refusal]] = [errors.Refusal]
    while open_ends:
        kind = open_ends.pop()
        open_ends += kind.__subclasses__()
        if "code" in vars(kind):
            yield kind
