"""A story as Markdown: front matter for machines, plain headings for people, every text escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runtime.flow_yaml import flow
from server.markdown import escaped, quoted
from server.play.words import labelled
from server.story import Chapter, Story, label, looking_back

if TYPE_CHECKING:
    from server.play.passages import Passage


class Markdown:
    """Writes CommonMark."""

    def head(self, story: Story) -> str:
        """Front matter, title and label."""
        facts = {
            "title": story.title,
            "lang": story.language,
            "generator": "Edgewise",
            "ai_generated": story.generated,
            "ai_models": story.models,
            "machine": story.machine,
            "version": story.version,
            "session": story.session_id,
            "date": story.told_at,
            "turns": story.turns,
            **({"AIGC": story.aigc} if story.aigc else {}),
        }
        front = "".join(f"{name}: {flow(value)}\n" for name, value in facts.items())
        return f"---\n{front}---\n\n# {_line(story.title)}\n\n> {_line(story.label)}\n"

    def chapter(self, story: Story, chapter: Chapter) -> str:
        """A turn under a heading."""
        return self._written(story, chapter, "##")

    def others(self, story: Story) -> str:
        """A rule and a heading."""
        return f"{self._left(story)}\n---\n\n## {label('others', story.language)}\n"

    def other(self, story: Story, chapter: Chapter) -> str:
        """A turn one level deeper."""
        return self._written(story, chapter, "###")

    def end(self, story: Story, *, has_others: bool) -> str:
        """Where it stands, if that has not been said."""
        return "" if has_others else self._left(story)

    def _left(self, story: Story) -> str:
        return f"\n*{_line(story.unfinished)}*\n" if story.unfinished else ""

    def _written(self, story: Story, chapter: Chapter, level: str) -> str:
        title = chapter.heading + (f" · {chapter.choice}" if chapter.choice else "")
        parts = [f"{level} {_line(title)}", _mark(chapter)]
        parts += [part for each in chapter.body for part in _passage(each, chapter.language)]
        parts += [f"**{_line(chapter.ending)}**"] if chapter.ending else []
        if chapter.looking_back:
            rows = "\n".join(f"- {turn} · {_line(text)}" for turn, text in chapter.looking_back)
            parts += [f"{level}# {looking_back(chapter.language)}", rows]
        parts += [f"*{_line(chapter.teller)}*"] if story.are_labelled else []
        return "".join(f"\n{part}\n" for part in parts)


def _line(text: str) -> str:
    return escaped(" ".join(text.split()))


def _mark(chapter: Chapter) -> str:
    """Who told the turn, for machines: a comment that no name can end."""
    facts = {"turn": chapter.turn, "ai_generated": chapter.is_ai_generated, "model": chapter.model or None}
    told = msgspec.json.encode(facts).replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
    return f"<!-- {told.decode()} -->"


def _passage(passage: Passage, language: str) -> list[str]:
    lines = [escaped(line.strip()) for line in passage.text.split("\n") if line.strip()]
    if passage.label and lines:
        lines[0] = labelled(f"**{escaped(passage.label)}**", lines[0], language)
    if passage.style == "speech":
        return [quoted("\n\n".join(lines))]
    return [f"*{line}*" for line in lines] if passage.style == "aside" and not passage.label else lines
