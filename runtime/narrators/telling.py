"""What one offline telling knows: the task, the language's voice, and what was heard before.

Everything follows from the task alone: no clock, no chance, no order of a set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runtime.constraints import find_term, speaks
from runtime.expression import activation
from runtime.fragments import FRESH_TURNS, Fragments, Place, by_seed
from runtime.model import CONTINUE, Text, Variable, said_in
from runtime.narrators.voices import voice_for

if TYPE_CHECKING:
    from runtime.narrators import Task

TELL = "~tell:"
"""Begins the id of an edge's own words: they are told each time, and are never one of many to draw."""
SPOKEN_MAX_CHARS = 200
"""The longest value that `words` speaks, in code points: a slot's own limit."""


class Draft(Struct, frozen=True):
    """A text that might be told; `ids` are what the branch has heard once it is."""

    text: str
    ids: tuple[str, ...] = ()


class Telling:
    """One turn on its way to words. `heard` collects the ids of what was told."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.language = task.bounds.language
        self.voice = voice_for(self.language)
        self.said = dict(task.session.said)
        self.heard: dict[str, int] = {}
        self.warnings: list[str] = []
        self.state = task.machine.definition.states[task.outcome.target]

    @cached_property
    def fragments(self) -> Fragments | None:
        """The designer's texts in the session's language."""
        return self.task.machine.fragments_for(self.language)

    @cached_property
    def place(self) -> Place:
        """Where fragments are drawn."""
        outcome, session = self.task.outcome, self.task.session
        known = activation(self.task.scope)
        return Place(outcome.edge, outcome.target, known, self.said, session.step, session.run_seed)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What a fragment may read: the turn's inputs, and `words`."""
        return {**self.task.inputs, "words": self.words}

    @property
    def is_written(self) -> bool:
        """Whether the state's texts are told as they stand, always."""
        return self.state.narrate == "written"

    @cached_property
    def is_story(self) -> bool:
        """Whether the turn tells a scene, so that a repeated sentence gives way to a fresh one.

        A desk's flow has no scenes: there the exact text counts, however often it was heard.
        """
        return not self.is_written and "scene" in self.task.prompt.fields.values()

    def outputs(self, name: str) -> bool:
        """Whether the prompt has an output of that name, or one below it."""
        return any(path.partition(".")[0] == name for path in self.task.prompt.fields)

    def take(self, draft: Draft) -> str:
        """Tell a draft: its ids count as heard in this turn."""
        for each in draft.ids:
            self.said[each] = self.heard[each] = self.task.session.step
        return draft.text

    def passes(self, text: str, max_chars: int) -> bool:
        """Whether a text may be told as it stands."""
        bounds = self.task.bounds
        fits = 0 < len(text) <= max_chars and find_term(text, bounds.forbidden_terms) is None
        return fits and speaks(text, self.language)

    def is_fresh(self, identity: str) -> bool:
        """Whether the branch has not heard it within ten turns."""
        heard = self.said.get(identity)
        return heard is None or self.task.session.step - heard >= FRESH_TURNS

    def pick(self, pool: str, *parts: object) -> Draft:
        """A sentence of the voice's pool: never heard, in the seed's order, else heard longest ago."""
        sentences = self.voice.pools[pool]
        start = by_seed(self.task.session.run_seed, pool)[0]
        count = len(sentences)
        index = min(range(count), key=lambda each: (self.said.get(f"~{pool}:{each}", -1), (each - start) % count))
        return Draft(sentences[index].format(*parts), (f"~{pool}:{index}",))

    def joined(self, drafts: Iterable[Draft]) -> Draft:
        """Drafts as one text."""
        drafts = [draft for draft in drafts if draft.text]
        text = self.voice.join(draft.text for draft in drafts)
        return Draft(text, tuple(each for draft in drafts for each in draft.ids))

    def own(self, text: Text | None) -> str:
        """A designer's text where it is in the session's language, else ''."""
        found = said_in(text, self.language, self.task.machine.definition.language).strip()
        return found if found and speaks(found, self.language) else ""

    def clean(self, texts: Iterable[str]) -> list[str]:
        """Those that hold no forbidden term and are in the language, each once."""
        terms = self.task.bounds.forbidden_terms
        stripped = (text.strip().rstrip(".。") for text in texts)
        return [
            text
            for text in dict.fromkeys(stripped)
            if text and find_term(text, terms) is None and speaks(text, self.language)
        ]

    @cached_property
    def title(self) -> str:
        """The machine's title in the language, or ''."""
        return self.own(self.task.machine.definition.title)

    @cached_property
    def label(self) -> str:
        """The name of the state entered in the language, or ''; an ending's own title goes first."""
        ending = self.own(self.state.ending.title) if self.state.ending else ""
        return ending or self.own(self.state.label)

    def named(self, name: str, variable: Variable) -> str:
        """A variable's label; its own name, spaced, in a language written in Latin letters; or ''."""
        readable = name.replace("_", " ")
        return self.own(variable.label) or (self.voice.sentence(readable).rstrip(".") if self.voice.gap else "")

    @cached_property
    def shown(self) -> dict[str, Variable]:
        """The variables that a player sees."""
        context = self.task.machine.definition.context
        return {name: variable for name, variable in context.items() if variable.show and not variable.secret}

    @cached_property
    def words(self) -> dict[str, str]:
        """Each slot's and each open variable's value as it is spoken."""
        session, context = self.task.session, self.task.machine.definition.context
        values: dict[str, Any] = {name: "" if value is None else value for name, value in session.slots.items()}
        values |= {name: value for name, value in session.context.items() if not context[name].secret}
        vocabulary = self.fragments.words if self.fragments else {}
        return {name: self._speak(vocabulary.get(name, {}), value) for name, value in values.items()}

    def _speak(self, vocabulary: Mapping[str, str], value: Any) -> str:
        if isinstance(value, list | tuple):
            return self.voice.listed([self._speak(vocabulary, member) for member in value])
        written = value if isinstance(value, str) else written_as(value)
        return vocabulary.get(written, written)[:SPOKEN_MAX_CHARS]

    def _vocabulary(self, name: str) -> Mapping[str, str]:
        return self.fragments.words.get(name, {}) if self.fragments else {}

    def spoken(self, name: str, value: Any) -> str:
        """A member or value as a sentence may hold it, '' where it has no word in the language."""
        written = written_as(value)
        word = self._vocabulary(name).get(written) or (written.replace("_", " ") if self.voice.gap else "")
        return word if word and speaks(word, self.language) else ""

    def choices(self, most: int) -> list[str]:
        """The weightiest choices of the branch in the order played, this turn's last."""
        kept = sorted(self.task.session.key_choices, key=lambda each: (-each.weight, each.turn))[:most]
        texts = [each.text for each in sorted(kept, key=lambda each: each.turn)]
        return self.clean([*texts, *self._chosen_now()])[-most:]

    def _chosen_now(self) -> Iterator[str]:
        choice = self.task.outcome.choice
        if choice.key != CONTINUE:
            yield choice.text


def written_as(value: Any) -> str:
    """A value as `words` names it: `true`, `12`, `2.5`, a member's name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)
