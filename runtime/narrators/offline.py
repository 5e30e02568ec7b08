"""The default narrator: no model, no key, no network, and the same words for the same turn.

A text is looked for in this order, for each output of the prompt:
1. the designer's fragments, as `fragments.draws` orders them, told whole;
2. the same, without the sentences that the session's constraints exclude;
3. for a required output, what `plain` makes of titles, labels, `tell` and changes;
4. the first of these, cut to length and with forbidden terms masked.
A `result` is the edge's `tell` before it is a fragment that fits anywhere, since that says nothing
of what happened; a scene begins with the `tell` where no `result` is told. In a story (a prompt
with a scene) what was heard within ten turns gives way to what was not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runtime.constraints import AI_STATE_CHARS, find_term, fit, max_chars_of, schema_at
from runtime.cutting import is_balanced
from runtime.fragments import Draw, draws
from runtime.machine import asked_ai_state
from runtime.narrators import Narration, Task, plain
from runtime.narrators.sample import smallest
from runtime.narrators.satisfiable import is_told
from runtime.narrators.telling import Draft, Telling
from runtime.narrators.wording import worded
from runtime.prompt import PromptError, say
from runtime.terms import free_mark

if TYPE_CHECKING:
    from runtime.narrators.release import Release

MEMORY = "memory_summary"
MEMORY_MAX_CHARS = {"zh": 120}
MEMORY_MAX_CHARS_ELSEWHERE = 300
"""The longest memory summary that is made without fragments, in code points."""
_NOTHING: dict[str, Any] = {"int": 0, "float": 0.0, "bool": False}
_SENTENCE = re.compile(r".+?(?:[。！？…!?]+[”’」』）)]*|\.+[\"”’)]*(?=\s|$)|$)\s*", re.DOTALL)


class Offline:
    """Tells every turn from fragments and from the machine's own words; never fails, never waits."""

    name = "offline"

    async def open(self) -> None:
        """Nothing needs to be made ready."""

    async def narrate(self, task: Task, release: Release) -> Narration:  # noqa: ARG002 - it is told at once
        """Tell the task."""
        return tell(task)

    def tell(self, task: Task) -> Narration:
        """Tell the task, at once."""
        return tell(task)

    async def close(self) -> None:
        """Nothing is held."""


def tell(task: Task, standing: Mapping[str, Any] | None = None) -> Narration:
    """The task's narration: a pure function of the task.

    `standing` is what is told already, as an answer has it (`options` as {key or kind: text}): the
    rest alone is told, and no option in the same words.
    """
    telling, standing = Telling(task), standing or {}
    output = _outputs(telling, standing)
    ai_state = _ai_state(telling, standing.get("ai_state", {}))
    options = _options(telling, standing.get("options", {}))
    if find_term(telling.own(task.edge.tell), task.bounds.forbidden_terms):
        telling.warnings.append("tell: its text breaks the session's constraints; it is told otherwise")
    return Narration(
        narrator=Offline.name,
        output=output,
        ai_state=ai_state,
        options=options,
        said=telling.heard,
        warnings=tuple(telling.warnings),
    )


def _outputs(telling: Telling, standing: Mapping[str, Any]) -> dict[str, Any]:
    prompt = telling.task.prompt
    output: dict[str, Any] = {}
    for path, kind in prompt.fields.items():
        value = None if _stands(standing, path) else _value(telling, path, kind)
        if value is not None:
            _put(output, path, value)
    return output


def _stands(standing: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(standing, Mapping) or name not in standing:
            return False
        standing = standing[name]
    return True


def _put(output: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        output = output.setdefault(name, {})
    output[leaf] = value


def _value(telling: Telling, path: str, kind: str) -> Any:
    """One output's value, None where it is optional and nothing fits."""
    prompt = telling.task.prompt
    schema = schema_at(prompt.outputs, path)
    is_required = path in prompt.required
    if is_told(kind, schema):
        return _text(telling, path, kind, schema, is_required=is_required)
    return _datum(telling, path, kind, schema) if is_required else None


def _datum(telling: Telling, path: str, kind: str, schema: Mapping[str, Any]) -> Any:
    """A value that is no text: what the variable of that name holds now, else the smallest."""
    current = _variable(telling, path)
    terms = telling.task.bounds.forbidden_terms
    if "enum" in schema and current in schema["enum"] and find_term(str(current), terms) is None:
        return current
    if kind in _NOTHING and type(current) is type(_NOTHING[kind]) and _within(current, schema):
        return current
    return smallest(schema, terms) if schema else _NOTHING.get(kind, {})


def _variable(telling: Telling, path: str) -> Any:
    """The value of the open variable that is called like an output, None where there is none."""
    name = path.rpartition(".")[2]
    variable = telling.task.machine.definition.context.get(name)
    return telling.task.session.context.get(name) if variable and not variable.secret else None


def _within(value: float, schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def _text(telling: Telling, path: str, kind: str, schema: Mapping[str, Any], *, is_required: bool) -> str | None:
    current = _variable(telling, path) if kind == "str" and is_required else None
    limit = max_chars_of(schema, kind, telling.task.bounds)
    if isinstance(current, str) and telling.passes(current, limit):
        return current
    written = _written(telling, path)
    tried: list[Draft] = []
    found = _first(telling, _kept(written, tried), limit)
    found = found or _first(telling, _trimmed(telling, tried, limit), limit)
    if found is None and not is_required:
        return None
    found = found or _plain(telling, plain.drafts_for(telling, path, kind), tried, limit)
    return _lengthened(telling, telling.take(found), schema.get("minLength", 0), limit)


def _first(telling: Telling, drafts: Iterable[Draft], limit: int) -> Draft | None:
    return next((draft for draft in drafts if telling.passes(draft.text, limit)), None)


def _kept(drafts: Iterable[Draft], tried: list[Draft]) -> Iterator[Draft]:
    """The drafts, each noted as it is tried."""
    for draft in drafts:
        tried.append(draft)
        yield draft


def _plain(telling: Telling, drafts: Iterable[Draft], tried: list[Draft], limit: int) -> Draft:
    """A text for a required output: whole, else trimmed, else forced to fit."""
    made: list[Draft] = []
    found = _first(telling, _kept((draft for draft in drafts if draft.text), made), limit)
    found = found or _first(telling, _trimmed(telling, made, limit), limit)
    return found or _forced(telling, [*tried, *made], limit)


def _forced(telling: Telling, drafts: list[Draft], limit: int) -> Draft:
    """The first draft of which a word is left once it is cut and masked; a neutral mark where none is."""
    terms = telling.task.bounds.forbidden_terms
    fitted = (Draft(fit(draft.text, limit, terms)[0], draft.ids) for draft in drafts)
    legible = (draft for draft in fitted if any(map(str.isalnum, draft.text)))
    return _first(telling, legible, limit) or Draft(_marks(terms))


def _marks(terms: tuple[str, ...]) -> str:
    """The least that can be said: a mark that no term holds."""
    return free_mark(terms) or "…"


def _trimmed(telling: Telling, drafts: Iterable[Draft], limit: int) -> Iterator[Draft]:
    """Each draft's whole sentences that the constraints let stand, as many as fit."""
    for draft in drafts:
        text = _trim(draft.text, limit, telling.task.bounds.forbidden_terms)
        if text:
            yield Draft(text, draft.ids)


def _trim(text: str, limit: int, terms: tuple[str, ...]) -> str:
    kept: list[str] = []
    length = 0
    for sentence in _SENTENCE.findall(text):
        if terms and find_term(sentence, terms) is not None:
            continue
        length += len(sentence)
        if length > limit + len(sentence) - len(sentence.rstrip()):
            break
        kept.append(sentence)
    while kept and not is_balanced("".join(kept)):
        kept.pop()
    return "".join(kept).strip()


def _lengthened(telling: Telling, text: str, at_least: int, limit: int) -> str:
    """The text with quiet sentences after it until an output's own minLength is reached; marks where none fits."""
    while 0 < len(text) < at_least:
        longer = telling.voice.join((text, telling.take(telling.pick("quiet"))))
        if not telling.passes(longer, limit):
            return _marks(telling.task.bounds.forbidden_terms) * at_least
        text = longer
    return text


def _written(telling: Telling, path: str) -> Iterator[Draft]:
    """The drafts that the designer wrote for an output, best first."""
    found = _rendered(telling, path)
    if path.partition(".")[0] == "result":
        return _result(telling, path)
    if _begins_with_tell(telling, path):
        told = plain.tell(telling)
        return (telling.joined((told, draft)) for draft in found)
    return found


def _begins_with_tell(telling: Telling, path: str) -> bool:
    is_scene = telling.task.prompt.fields.get(path) == "scene"
    return is_scene and not telling.is_written and not telling.outputs("result")


def _draws(telling: Telling, path: str) -> Iterator[Draw]:
    if telling.fragments is None:
        return iter(())
    drawn = draws(telling.fragments, path, telling.place, fresh_first=telling.is_story)
    if telling.is_story and path not in telling.task.prompt.required:
        return (each for each in drawn if telling.is_fresh(each.id))
    return drawn


def _rendered(telling: Telling, path: str) -> Iterator[Draft]:
    return (draft for draw in _draws(telling, path) if (draft := _spoken(telling, draw)) is not None)


def _spoken(telling: Telling, draw: Draw) -> Draft | None:
    """The text of a draw; None where it can't be rendered with what this turn knows."""
    try:
        text = say(draw.say, telling.inputs if draw.say.names else {}).strip()
    except PromptError:
        return None
    return Draft(text, (draw.id,)) if text else None


def _result(telling: Telling, path: str) -> Iterator[Draft]:
    """Fragments for this edge or state, then the tell, then fragments for anywhere."""
    told = False
    for drawn in _draws(telling, path):
        is_last_resort = drawn.is_general or (telling.is_story and not telling.is_fresh(drawn.id))
        if is_last_resort and not told:
            told = True
            yield from _told(telling)
        draft = _spoken(telling, drawn)
        if draft is not None:
            yield draft
    if not told:
        yield from _told(telling)


def _told(telling: Telling) -> Iterator[Draft]:
    draft = plain.tell(telling)
    if draft.text:
        yield draft


def _ai_state(telling: Telling, standing: Mapping[str, str]) -> dict[str, str]:
    """What fragments say of `ai_state`, and always the memory summary where the machine reads one."""
    limit = min(AI_STATE_CHARS, telling.task.bounds.max_chars_text)
    told: dict[str, str] = {}
    for name in asked_ai_state(telling.task.machine.definition):
        if name in standing:
            continue
        found = _first(telling, _rendered_state(telling, name), limit)
        if found is not None:
            told[name] = telling.take(found)
        elif name == MEMORY:
            told[name] = telling.take(_plain(telling, plain.memory_summary(telling), [], _memory_limit(telling)))
    return told


def _rendered_state(telling: Telling, name: str) -> Iterator[Draft]:
    if telling.fragments is None:
        return iter(())
    drawn = draws(telling.fragments, f"ai_state.{name}", telling.place, fresh_first=False)
    return (draft for draw in drawn if (draft := _spoken(telling, draw)) is not None)


def _memory_limit(telling: Telling) -> int:
    longest = MEMORY_MAX_CHARS.get(telling.voice.language, MEMORY_MAX_CHARS_ELSEWHERE)
    return min(longest, AI_STATE_CHARS, telling.task.bounds.max_chars_text)


def _options(telling: Telling, standing: Mapping[str, str]) -> dict[str, str]:
    """Each option's words within the constraints, no two alike; those that don't stand yet."""
    task = telling.task
    words, warnings = worded(task.machine.definition, telling.state, task.offer, task.bounds, standing)
    telling.warnings += warnings
    return {key: text for key, text in words.items() if key not in standing}
