"""A session as a story to read: what was told, turn by turn, and who told it. Pure but for the reading.

What is shown is what was answered, so no secret can be in it. The way to the head comes first;
what was told beside it (another telling, another choice taken back) stands at the end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
from msgspec import Struct

from runtime.export import Survey, entries_of, told_in
from runtime.model import said_in
from runtime.outputs import TEXTS
from runtime.session import Choice
from runtime.view import ANSWER_KEYS
from server.play import passages
from server.play.passages import Passage
from server.play.words import is_zh, say

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.session import Entry
    from runtime.turn import Runtime

Generated = Literal["all", "some", "none"]

_SAID: Final[Mapping[str, tuple[str, str]]] = {
    "all": (
        "AI 生成：文字由模型 {models} 讲述，发生了什么由规则裁定。",
        "AI-generated: told by the model {models}. The rules decided what happened; the model only told it.",
    ),
    "some": (
        "部分文字由 AI 生成（模型 {models}），每一回合分别标明；其余出自预先写好的文本。",
        "Partly AI-generated, by the model {models}: each turn says so. The rest is told by the machine's own texts.",
    ),
    "none": (
        "文字出自预先写好的文本，不是 AI 生成。",
        "Told by the machine's own texts, not AI-generated.",
    ),
    "turn": ("第 {turn} 回合", "Turn {turn}"),
    "unfinished": ("未完：停在第 {turn} 回合。", "Unfinished: it stands at turn {turn}."),
    "others": ("另外的讲法与岔路", "Told otherwise"),
    "telling": ("第 {turn} 回合的另一种讲法", "Another telling of turn {turn}"),
    "choice": ("第 {turn} 回合的另一种选择", "Another choice at turn {turn}"),
    "branch": ("岔路上，接在第 {parent} 回合之后", "On another branch, after turn {parent}"),
    "beginning": ("另一次开头", "Another beginning"),
    "session": ("会话", "Session"),
    "machine": ("机器", "Machine"),
}
_RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ps", "sd", "ug", "ur", "yi", "dv"})


def label(what: str, language: str, **facts: Any) -> str:
    """A sentence of the export's own, in Chinese or English."""
    zh, en = _SAID[what]
    return (zh if is_zh(language) else en).format(**facts)


class Chapter(Struct, frozen=True, kw_only=True):
    """A turn to read. `heading` says which it is; `choice` is what the player chose or said.

    `teller` says in words who told it, `model` is the model's name or ''. `ending` and
    `looking_back` are filled at an end.
    """

    turn: int
    language: str
    heading: str
    choice: str
    body: tuple[Passage, ...]
    teller: str
    is_ai_generated: bool
    model: str
    ending: str = ""
    looking_back: tuple[tuple[int, str], ...] = ()


class Story(Struct, frozen=True, kw_only=True):
    """What is told before and after the chapters. `told_at` is the day of the last turn, in UTC.

    `aigc` is the label for machines, where a model told any of it.
    `are_labelled` where the chapters have not all the same teller: then each says its own.
    """

    title: str
    language: str
    generated: Generated
    label: str
    models: tuple[str, ...]
    machine: str
    version: int | str
    session_id: str
    told_at: str
    turns: int
    are_labelled: bool
    unfinished: str
    aigc: Mapping[str, str] | None = None

    @property
    def direction(self) -> str:
        """Where lines begin: `ltr` or `rtl`."""
        return "rtl" if self.language.partition("-")[0] in _RIGHT_TO_LEFT else "ltr"


class Form(Protocol):
    """How a story is written down. Ships as Markdown and HTML."""

    def head(self, story: Story) -> str:
        """All that comes before the first chapter."""
        ...

    def chapter(self, story: Story, chapter: Chapter) -> str:
        """A turn on the way to the head."""
        ...

    def others(self, story: Story) -> str:
        """What comes between the last chapter and those beside the way."""
        ...

    def other(self, story: Story, chapter: Chapter) -> str:
        """A turn beside the way."""
        ...

    def end(self, story: Story, *, has_others: bool) -> str:
        """All that comes after."""
        ...


class _Taken(Struct, frozen=True):
    """What happened in a turn on the way to the head."""

    turn: int
    edge: str
    choice: Choice


async def written(runtime: Runtime, about: Survey, form: Form) -> AsyncIterator[bytes]:
    """The story, piece by piece. Raises StoreUnavailable."""
    story = story_of(about)
    yield form.head(story).encode()
    taken: dict[int | None, _Taken] = {}
    async for entry in entries_of(runtime.store, about.head):
        if entry.is_telling and entry.turn in about.branch:
            taken[entry.parent] = _Taken(entry.turn, entry.outcome.edge, entry.outcome.choice)
            yield form.chapter(story, chapter_of(about, entry)).encode()
    has_others = len(about.nodes) > len(about.branch)
    if has_others:
        yield form.others(story).encode()
        async for entry in entries_of(runtime.store, about.head):
            if entry.is_telling and entry.turn not in about.branch:
                yield form.other(story, chapter_of(about, entry, _beside(entry, taken.get(entry.parent)))).encode()
    yield form.end(story, has_others=has_others).encode()


def story_of(about: Survey) -> Story:
    """What a survey says of the story as a whole."""
    session, language = about.head.after, about.language
    flags = {is_generated for _, _, is_generated in about.tellers}
    generated: Generated = "none" if True not in flags else "some" if False in flags else "all"
    return Story(
        title=_title(about),
        language=language,
        generated=generated,
        label=label(generated, language, models=", ".join(about.models)),
        models=about.models,
        machine=session.machine,
        version=session.version,
        session_id=about.session_id,
        told_at=datetime.fromtimestamp(about.head.at_ms / 1000, UTC).strftime("%Y-%m-%d"),
        turns=len(about.branch),
        are_labelled=len(about.tellers) > 1,
        unfinished="" if session.ended else label("unfinished", language, turn=about.head.turn),
        aigc=about.aigc.told if about.aigc else None,
    )


def _title(about: Survey) -> str:
    machine = about.machines.get(about.head.after.digest)
    if machine is None:
        return about.head.after.machine
    return said_in(machine.definition.title, about.language, machine.definition.language)


def _beside(entry: Entry, taken: _Taken | None) -> str:
    """What a turn beside the way is; `taken` is the turn on the way that grew from the same one."""
    language = entry.after.constraints.language
    if taken is None:
        return label("branch", language, parent=entry.parent)
    if entry.parent is None and entry.kind == "turn":
        return label("beginning", language)
    is_same = (entry.outcome.edge, entry.outcome.choice) == (taken.edge, taken.choice)
    return label("telling" if is_same else "choice", language, turn=taken.turn)


def chapter_of(about: Survey, entry: Entry, beside: str = "") -> Chapter:
    """A turn as it is read; `beside` says what it is where it is not on the way to the head."""
    language = entry.after.constraints.language
    machine = about.machines.get(entry.digest)
    answer = msgspec.json.decode(entry.answer)
    meta, choice = told_in(entry).payload.meta, _choice(machine, entry)
    heading = label("turn", language, turn=entry.turn)
    return Chapter(
        turn=entry.turn,
        language=language,
        heading=f"{heading} · {beside}" if beside else heading,
        choice=choice,
        body=tuple(passages.told({"payload": _texts(machine, entry, answer["payload"])}, language, choice)),
        teller=passages.told_by(answer, language),
        is_ai_generated=meta.ai_generated,
        model=(meta.model or meta.narrator) if meta.ai_generated else "",
        ending=" ".join(each.text for each in passages.ending(answer, language)),
        looking_back=tuple((each.turn, each.text) for each in told_in(entry).payload.key_choices),
    )


def _choice(machine: Machine | None, entry: Entry) -> str:
    """The option that was chosen, and what the player said in words of their own."""
    said = [f"「{text}」" if is_zh(entry.after.constraints.language) else f"“{text}”" for text in _said(machine, entry)]
    return " ".join(" ".join([entry.outcome.choice.text, *said]).split())


def _said(machine: Machine | None, entry: Entry) -> Iterator[str]:
    declared = machine.definition.event(entry.outcome.event).payload if machine else {}
    for name, value in entry.request.get("payload", {}).items():
        if isinstance(value, str) and declared.get(name, "").rstrip("?") == "text":
            yield value


def _texts(machine: Machine | None, entry: Entry, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What was told, by path, in the order of the prompt: its texts, and where it declares none, all of it."""
    edge = next((each for each in machine.edges if each.full_name == entry.outcome.edge), None) if machine else None
    if machine is None or edge is None:
        return {name: value for name, value in payload.items() if name not in ANSWER_KEYS}
    fields = machine.prompt_for(edge, entry.after.constraints.language).fields
    texts = [path for path, kind in fields.items() if kind in TEXTS]
    return {path: value for path in texts or fields if (value := _at(payload, path)) is not None}


def _at(payload: Mapping[str, Any], path: str) -> Any:
    value: Any = payload
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def looking_back(language: str) -> str:
    """The heading of the choices that weighed most."""
    return say("looking_back", language)
