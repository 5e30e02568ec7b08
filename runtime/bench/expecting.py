"""What came of a step against what a replay expects of it. Pure: the same for a turn in memory and one over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from runtime.bench.replay import Expect, Parts, ReplayStep, Text
from runtime.bench.trial import Step
from runtime.bench.why import why
from runtime.expression import EvaluationError, Names, activation, evaluate
from runtime.machine import Machine
from runtime.session import Entry, Session

Differing = tuple[str, Any, Any]
"""A field, what was expected of it, and what it is."""
_NAME_ONE = "Write more of its text, or its key."
_MATCHES = Names({"text": "str", "pattern": "str"}).compile("text.matches(pattern)")


class Came(Struct, frozen=True, kw_only=True):
    """What came of a step; `number` counts from 1.

    `answer` is the `data` of the answer, None where it was refused or only the rules were asked.
    `error` is a refusal's code, and `refusal` all that it says: error, message, hint and its facts.
    `session` is where it stands then. `context` has variables that are known without a session.
    `turn` is None for what was refused, `prompt` is what it was told by, `entry` what a journal keeps of
    it, where there is one. `is_replayed` where its key was answered before. `broken` is what no replay may
    expect: a field, and what is wrong with it.
    """

    number: int
    step: ReplayStep
    error: str | None = None
    answer: Parts | None = None
    session: Session | None = None
    turn: Step | None = None
    refusal: Parts | None = None
    context: Parts | None = None
    prompt: str | None = None
    entry: Entry | None = None
    is_replayed: bool = False
    broken: tuple[str, str] | None = None


class Difference(Struct, frozen=True):
    """The first thing that is otherwise than expected: in which step (0 = what was given), and why.

    `field` is `edge`, `context.hp`, `scene`, `meta.rungs`, `dice.attack`, …; `why` has lines to read.
    """

    step: int
    field: str
    expected: Any
    got: Any
    why: str


def difference(came: Came, expect: Expect, machine: Machine, language: str) -> Difference | None:
    """The first difference, None where all is as expected."""
    for name, expected, got in differing(came, expect, language):
        is_unclear = came.broken is not None and name == "choose"
        return Difference(came.number, name, expected, got, _NAME_ONE if is_unclear else why(came, name, machine))
    return None


def differing(came: Came, expect: Expect, language: str) -> Iterator[Differing]:
    """Every field that is otherwise: the rules' first, then texts and meta."""
    if came.broken is not None:
        name, what = came.broken
        yield name, "one option" if name == "choose" else None, what
    yield from _unfit(came)
    if came.error != expect.error:
        yield "error", expect.error, came.error
        return
    seen = seen_of(came)
    yield from _ruled(expect, seen)
    told = _told_in(came)
    if told is None:
        return
    for path, text in expect.texts.items():
        yield from _text(path, text, value_at(told, path), language)
    meta = told.get("meta", {})
    for name, value in expect.meta.items():
        if not _is_equal(value, meta.get(name)):
            yield f"meta.{name}", value, meta.get(name)


def _unfit(came: Came) -> Iterator[Differing]:
    """Dice that can't fall as they are fixed: no refusal of the machine's, so no `error` may expect it."""
    for detail in (came.refusal or {}).get("details", ()):
        if detail.get("loc", [""])[0] == "dice":
            name = detail["loc"][1]
            yield f"dice.{name}", came.step.dice.get(name), detail["msg"]


def seen_of(came: Came) -> Parts:
    """What the rules came to, by `expect`'s names; what isn't known is absent."""
    if came.answer is not None:
        return {**_of_answer(came.answer), **_context(came)}
    if came.session is None:
        return {}
    edge = {} if came.turn is None else {"edge": came.turn.outcome.edge}
    return {**edge, **_of_session(came.session), **_context(came)}


def _context(came: Came) -> Parts:
    if came.session is not None:
        return {"context": came.session.context}
    return {"context": came.context} if came.context is not None else {}


def _of_answer(answer: Parts) -> dict[str, Any]:
    session, payload = answer["session"], answer["payload"]
    routing = payload["routing"]
    return {
        "edge": payload["outcome"]["edge"],
        "state": session["state"],
        "context": {name: shown["value"] for name, shown in payload.get("status", {}).items()},
        "next": routing["next_event_type"],
        "allowed": routing["allowed_event_types"],
        "should_end": routing["should_end"],
        "ended": session["ended"],
        "ending": (payload.get("ending") or {}).get("id"),
        "options": [each.get("key") or each.get("kind") for each in payload["options"]],
    }


def _of_session(session: Session) -> dict[str, Any]:
    return {
        "state": session.state,
        "next": session.routing.next_event_type,
        "allowed": session.routing.allowed_event_types,
        "should_end": session.routing.should_end,
        "ended": session.ended,
        "ending": session.state if session.ended else None,
        "options": [each.key or each.kind for each in session.offer],
    }


def _ruled(expect: Expect, seen: Parts) -> Iterator[Differing]:
    for name in ("edge", "state"):
        yield from _plain(expect, seen, name)
    context = seen.get("context", {})
    for name, value in expect.context.items():
        if name not in context or not _is_same(value, context[name]):
            yield f"context.{name}", value, context.get(name)
    for name in ("next", "should_end", "ended", "ending"):
        yield from _plain(expect, seen, name)
    if expect.allowed is not None and {*expect.allowed} != {*seen.get("allowed", ())}:
        yield "allowed", list(expect.allowed), list(seen.get("allowed", ()))
    if expect.options is not None and [*expect.options] != [*seen.get("options", ())]:
        yield "options", list(expect.options), list(seen.get("options", ()))


def _plain(expect: Expect, seen: Parts, name: str) -> Iterator[Differing]:
    expected = getattr(expect, name)
    if expected is not None and expected != seen.get(name):
        yield name, expected, seen.get(name)


def _is_same(expected: Any, got: Any) -> bool:
    """Whether a variable has a value; a set's members in any order, a number in either spelling."""
    if isinstance(expected, list) and isinstance(got, list | tuple):
        return len(expected) == len(got) and {*map(str, expected)} == {*map(str, got)}
    return _is_equal(expected, got)


def _is_equal(expected: Any, got: Any) -> bool:
    """Whether two values are the same through and through: false is not 0, and 1.0 is 1."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        return expected.keys() == got.keys() and all(_is_equal(expected[name], got[name]) for name in expected)
    if isinstance(expected, list) and isinstance(got, list | tuple):
        return len(expected) == len(got) and all(map(_is_equal, expected, got))
    return isinstance(expected, bool) == isinstance(got, bool) and bool(expected == got)


def _told_in(came: Came) -> Parts | None:
    """Where texts are looked for: the answer's payload, or what the refusal says."""
    return came.answer["payload"] if came.answer is not None else came.refusal


def value_at(told: Parts, path: str) -> Any:
    """What stands at a dotted path, None where nothing does; an item of a list by its number from 0."""
    value: Any = told
    for name in path.split("."):
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(path: str, text: Text, got: Any, language: str) -> Iterator[Differing]:
    said = got if isinstance(got, str) else None
    for name in ("contains", "pattern"):
        asked = getattr(text, name)
        if asked is None:
            continue
        words = in_language(asked, language)
        if words is None:
            yield path, f"a text for language {language}; there is one for {', '.join(asked)}", got
        elif said is None or not (words in said if name == "contains" else is_found(words, said)):
            yield path, {name: words}, got


def in_language(words: str | Mapping[str, str], language: str) -> str | None:
    """The words for a language, else for its base; None where there are none."""
    if isinstance(words, str):
        return words
    return words.get(language, words.get(language.partition("-")[0]))


def is_found(pattern: str, text: str) -> bool:
    """Whether a regular expression matches somewhere in a text. Raises EvaluationError where it is none.

    It is RE2's, in a time that grows with the text and no faster: no test hangs on its pattern. So it has
    neither lookarounds nor references back, and its word characters and digits are those of ASCII.
    """
    return bool(evaluate(_MATCHES, activation({"text": text, "pattern": pattern})))


def pattern_fault(pattern: str) -> str:
    """What is wrong with a regular expression; '' where nothing is."""
    try:
        is_found(pattern, "")
    except EvaluationError as error:
        return str(error).removeprefix("invalid regular expression: ")
    return ""
