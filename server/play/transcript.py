"""A play as a Markdown file, written turn by turn, so that a crash loses nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from runtime.exported import Aigc
from server.markdown import escaped
from server.play.passages import Passage, ending, facts, key_choices, told, told_by
from server.play.table import Answer, Card
from server.play.words import bracketed, labelled, say


class Transcript:
    """The file of one play. A file that is there already is replaced when the play begins."""

    def __init__(self, path: Path, producer: str = "edgewise") -> None:
        self._path = path
        self._producer = producer
        self._told_by = ""

    def begin(self, card: Card, answer: Answer, seed: str, language: str) -> None:
        """Write the head: title, machine, seed, language, who tells, and how to play it again. Raises OSError."""
        self._told_by = told_by(answer, language)
        rows = [
            ("machine", card.name + bracketed(f"{say('version', language)} {answer['session']['version']}", language)),
            ("seed", seed),
            ("language", language),
            ("told_by", self._told_by),
            ("again", f"`edgewise play {card.name} --seed {seed} --language {language}`"),
        ]
        listed = "".join(f"- {labelled(say(what, language), text, language)}\n" for what, text in rows)
        title = f"# {escaped(card.title_in(language))}\n\n{listed}"
        self._path.write_text(title, encoding="utf-8")
        self._append(self._label(answer))

    def turn(self, answer: Answer, choice: str, language: str) -> None:
        """Add a turn: the choice, what was told, what changed, and what was offered next."""
        title = f"## {answer['session']['turn']}" + (f" · {escaped(choice)}" if choice else "")
        parts = [title, *self._teller(answer, language), *map(_paragraph(language), told(answer, language, choice))]
        parts += [f"### {escaped(each.text)}" for each in ending(answer, language)]
        parts += [line for line in (_changes(answer, language), _status(answer, language)) if line]
        parts += _listed(answer["payload"]["options"])
        self._append([*parts, *_looking_back(answer, language)])

    def _teller(self, answer: Answer, language: str) -> list[str]:
        """Who told this turn, where it is another than before."""
        teller = told_by(answer, language)
        if teller == self._told_by:
            return []
        self._told_by = teller
        return [*self._label(answer), f"*{labelled(say('told_by', language), escaped(teller), language)}*"]

    def _label(self, answer: Answer) -> list[str]:
        """The label for machines, where a model told the turn; it can't end its comment early."""
        if not answer["payload"]["meta"]["ai_generated"]:
            return []
        aigc = Aigc(content_producer=self._producer, produce_id=answer["session"]["session_id"])
        told = msgspec.json.encode({"AIGC": aigc.told}).replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
        return [f"<!-- {told.decode()} -->"]

    def _append(self, parts: Iterable[str]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"\n{part}\n" for part in parts))


def _paragraph(language: str) -> Callable[[Passage], str]:
    def written(passage: Passage) -> str:
        text = escaped(passage.text)
        if passage.label:
            return labelled(f"**{passage.label}**", text, language)
        return {"speech": f"> {text}", "aside": f"*{text}*"}.get(passage.style, text)

    return written


def _changes(answer: Answer, language: str) -> str:
    return _aside([fact.line(language) for fact in facts(answer, language) if fact.is_moved])


def _status(answer: Answer, language: str) -> str:
    """The whole status, once at the beginning; later turns tell their changes only."""
    if answer["session"]["step"] != 1:
        return ""
    return _aside([f"{fact.label} {fact.value}" for fact in facts(answer, language)])


def _aside(parts: list[str]) -> str:
    return f"*{escaped(' · '.join(parts))}*" if parts else ""


def _listed(options: list[dict[str, object]]) -> list[str]:
    rows = [f"{option['id']}. {escaped(str(option['text']))}" for option in options]
    return ["\n".join(rows)] if rows else []


def _looking_back(answer: Answer, language: str) -> list[str]:
    found = key_choices(answer, language)
    rows = [f"- {escaped(each.text.strip())}" for each in found[1:]]
    return [f"#### {found[0].text}", "\n".join(rows)] if found else []
