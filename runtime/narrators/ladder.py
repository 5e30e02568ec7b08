"""The ladder that always ends: from what a model wrote to a narration that may be told.

`received` reads an answer and keeps what passed, part by part; `still_asked` is what the model is
asked for again; `concluded` mends what can be mended and has the offline narrator tell the rest.
A part is an output, a name of `ai_state` or an option, as in `answer.Judged`. Pure: no I/O, and
nothing here waits. Nothing that a model writes ends it otherwise: where judging it fails, that is noted
for the operator, and the answer is one that can't be used.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.constraints import Breach, key_of
from runtime.cutting import finished
from runtime.errors import NarrationInvalid
from runtime.narrators import Narration, answer, offline
from runtime.narrators.answer import AI_STATE, CUT_OFF, OPTIONS, Judged, nested
from runtime.narrators.mending import mended
from runtime.narrators.reading import AnswerError, read
from runtime.quoting import unmarked

if TYPE_CHECKING:
    from runtime.narrators import Task


_LOG = logging.getLogger(__name__)


class Draft(Struct, frozen=True):
    """What of a telling stands after the answers so far.

    `parts` passed as they were written, by path. `wrong` is what was wrong in the last answer ('' for
    the whole), `raw` what was written at wrong parts and may be mended. `missing` is what is needed
    and does not stand yet.
    """

    parts: Mapping[str, Any] = {}
    wrong: tuple[Breach, ...] = ()
    raw: Mapping[str, Any] = {}
    rungs: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("",)

    @property
    def kept(self) -> Mapping[str, Any]:
        """What stands, nested as an answer is: outputs, `ai_state`, and `options` as {key: text}."""
        return nested(self.parts)

    @property
    def is_whole(self) -> bool:
        """Whether nothing that is required is missing or wrong; what else was wrong is worth no call."""
        return not self.missing


EMPTY = Draft()
"""Before any answer."""


def received(task: Task, text: str, finish: str, before: Draft = EMPTY) -> Draft:
    """What stands once this answer has been read, beside what stood before it.

    `finish` is how the answer ended: `stop`, `length`, `content_filter`, or `cut` where its stream broke.
    """
    if finish == "content_filter":
        # Nothing of it stands: what the filter left may be the beginning of what it took.
        return replace(before, wrong=(Breach("", "schema", "was cut by the provider's filter."),), rungs=(), ignored=())
    cut = (Breach("", "length", CUT_OFF),) if finish == "length" else ()
    try:
        reading = read(text)
    except AnswerError as error:
        return replace(before, wrong=cut or (Breach("", "schema", f"{error}."),), rungs=(), ignored=())
    try:
        # A model that quotes the player may write the marks of its prompt back.
        judged = answer.joined(task, before.parts, unmarked(reading.value), reading.incomplete)
    except Exception as error:  # noqa: BLE001 - the ladder always ends
        _note(error)
        return replace(before, wrong=(Breach("", "schema", "can't be judged."),), rungs=(), ignored=())
    still_raw = {path: text for path, text in before.raw.items() if path not in judged.parts}
    return Draft(
        parts=judged.parts,
        wrong=(*(cut if judged.missing else ()), *judged.breaches),
        raw={**still_raw, **_mendable(judged)},
        rungs=("parsed",) if reading.repairs else (),
        ignored=judged.ignored,
        missing=judged.missing,
    )


def _note(error: Exception) -> None:
    """Say where judging failed, and no word of the answer: its message may quote one."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    _LOG.error("an answer can't be judged: %s in %s, line %s", type(error).__name__, at.name, at.lineno)


def _mendable(judged: Judged) -> dict[str, Any]:
    """What was written at the wrong parts; of a text that breaks off, its whole sentences."""
    cut = {each.path for each in judged.breaches if each.message == CUT_OFF}
    return {path: finished(str(text)) if path in cut else text for path, text in judged.wrong.items()}


def still_asked(task: Task, draft: Draft) -> Mapping[str, Any]:
    """The JSON Schema of what is missing, and beside it of what else was wrong; all where nothing stands."""
    if not draft.parts:
        return task.schema
    asked = (*draft.missing, *(each.path for each in draft.wrong if each.path not in draft.parts))
    return _asked(task.schema, [path.split(".") for path in asked if path not in {"", OPTIONS}])


def _asked(schema: Mapping[str, Any], paths: list[list[str]]) -> dict[str, Any]:
    """The schema with the properties alone that the paths lead to; a path that ends takes all below it."""
    properties: dict[str, Any] = {}
    for name, part in schema.get("properties", {}).items():
        below = [path[1:] for path in paths if path[0] == name]
        if name == OPTIONS and below:
            properties[name] = _asked_options(part, [path[0] for path in below if path])
        elif below:
            properties[name] = part if [] in below or "properties" not in part else _asked(part, below)
    required = [name for name in schema.get("required", ()) if name in properties]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _asked_options(schema: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    items = schema["items"]
    key = items["properties"]["key"]
    named = {**key, "enum": [each for each in key["enum"] if each in keys]}
    fewer = {"minItems": len(named["enum"]), "maxItems": len(named["enum"])}
    return {**schema, **fewer, "items": {**items, "properties": {**items["properties"], "key": named}}}


def concluded(task: Task, draft: Draft, **more: Any) -> Narration:
    """The narration of what stands, mended where that is enough, and told offline where it is not.

    `more` has its narrator, model, attempts, rungs, usage and spent. Raises NarrationInvalid where
    something needed is missing and the machine refuses to go on without; `more` is on it as well.
    """
    is_refusing = task.machine.definition.on_failure == "refuse"
    try:
        whole = _mended(task, draft)
        narration = None if whole.missing and is_refusing else _told(task, draft, whole, more)
    except Exception as error:  # noqa: BLE001 - the ladder always ends
        _note(error)
        narration = None if is_refusing else _all_offline(task, more)
    if narration is None:
        raise invalid(draft, **more)
    return narration


def filled(task: Task, draft: Draft, **more: Any) -> Narration:
    """As `concluded`, also where the machine would refuse."""
    try:
        return _told(task, draft, _mended(task, draft), more)
    except Exception as error:  # noqa: BLE001 - the ladder always ends
        _note(error)
        return _all_offline(task, more)


def invalid(draft: Draft, **more: Any) -> NarrationInvalid:
    """The error for a draft that can't be told: it names rules and places, and no word of the text."""
    message = f"the narrator's answer breaks the rules: {answer.rules_of(draft.wrong)}"
    facts = {"rungs": tuple(more.get("rungs", ())), "attempts": more.get("attempts", 1)}
    error = NarrationInvalid(message, "Send the same event again later.", **facts)
    vars(error).update({name: more[name] for name in ("usage", "spent") if name in more})
    return error


def _mended(task: Task, draft: Draft) -> Judged:
    """The parts that stand, and beside them those that do once they are mended."""
    tried = {path: mended(task, path, text) for path, text in draft.raw.items()}
    beside = {path: text for path, text in tried.items() if text is not None}
    if not draft.parts and not beside:
        return Judged({}, missing=draft.missing)
    return answer.held(task, {**draft.parts, **beside})


def _told(task: Task, draft: Draft, whole: Judged, more: Mapping[str, Any]) -> Narration:
    told = offline.tell(task, _standing(task, whole)) if whole.missing and whole.parts else None
    filled = dict(_filled(task, told)) if told else {}
    parts = {**whole.parts, **filled}
    if not whole.parts or answer.held(task, parts).wrong.keys() & whole.parts.keys():
        return _all_offline(task, more)
    dropped = [path for path in draft.raw if path not in parts]
    is_mended = bool(dropped) or any(path not in draft.parts for path in whole.parts)
    output = nested(parts, task.schema)
    ai_state, options = output.pop(AI_STATE, {}), output.pop(OPTIONS, {})
    narration = Narration(
        output=output,
        ai_state=ai_state,
        options={key: options[key] for key in map(key_of, task.offer)},
        learned=_learned({path: value for path, value in draft.parts.items() if path in whole.parts}),
        ai_generated=True,
        fallback=tuple(filled),
        said=told.said if told else {},
        warnings=(*answer.warnings_of(task, draft.ignored), *_dropped(task, dropped), *(told.warnings if told else ())),
        **more,
    )
    return _climbed(narration, *(["mended"] if is_mended else []), *(["offline"] if told else []))


def _learned(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What may be learned from. An output goes before an `ai_state` of the same name: it has the declared type."""
    written = nested({path: value for path, value in parts.items() if not path.startswith(f"{OPTIONS}.")})
    return {**written.pop(AI_STATE, {}), **written}


def _standing(task: Task, whole: Judged) -> dict[str, Any]:
    """What offline need not tell: where options alone are missing, what a model left out on purpose stays out."""
    is_told = all(path.startswith(f"{OPTIONS}.") for path in whole.missing)
    left_out = (*task.prompt.fields, *(f"{AI_STATE}.{name}" for name in _ai_state_names(task))) if is_told else ()
    return nested({**dict.fromkeys(left_out), **whole.parts})


def _ai_state_names(task: Task) -> tuple[str, ...]:
    return tuple(task.schema.get("properties", {}).get(AI_STATE, {}).get("properties", ()))


def _filled(task: Task, told: Narration) -> Iterator[tuple[str, Any]]:
    """What offline told, part by part."""
    for path in task.prompt.fields:
        value: Any = told.output
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            yield path, value
    yield from ((f"{AI_STATE}.{name}", text) for name, text in told.ai_state.items())
    yield from ((f"{OPTIONS}.{key}", text) for key, text in told.options.items())


def _dropped(task: Task, paths: list[str]) -> tuple[str, ...]:
    names = (*task.prompt.fields, *(f"{AI_STATE}.{name}" for name in _ai_state_names(task)))
    named = [path for path in paths if path in names]
    return (f"dropped: {', '.join(named)}",) if named else ()


def _all_offline(task: Task, more: Mapping[str, Any]) -> Narration:
    """What a player reads is then all the machine's own: no model is named."""
    cost = {name: more[name] for name in ("attempts", "rungs", "usage", "spent") if name in more}
    return _climbed(replace(offline.tell(task), fallback=("*",), **cost), "offline")


def _climbed(narration: Narration, *rungs: str) -> Narration:
    return replace(narration, rungs=tuple(dict.fromkeys((*narration.rungs, *rungs))))
