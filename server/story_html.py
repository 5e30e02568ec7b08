"""A story as one HTML file that needs nothing else: no script, no network, every text escaped."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from server.play.wrapping import plain
from server.story import Chapter, Story, label, looking_back

if TYPE_CHECKING:
    from server.play.passages import Passage

_PAGE = Path(__file__).with_name("story.html")
_TAGS = {"speech": "blockquote", "aside": "p class=aside"}


@cache
def _style() -> str:
    return _PAGE.read_text(encoding="utf-8")


class Html:
    """Writes HTML 5."""

    def head(self, story: Story) -> str:
        """All up to the label that every reader sees first."""
        facts = {
            "generator": "Edgewise",
            "ai-generated": story.generated,
            "ai-models": ", ".join(story.models),
            "edgewise-machine": f"{story.machine} {story.version}",
            "edgewise-session": story.session_id,
            "AIGC": msgspec.json.encode(story.aigc).decode() if story.aigc else "",
        }
        metas = "".join(f'<meta name="{name}" content="{_safe(value)}">\n' for name, value in facts.items() if value)
        return (
            f'<!doctype html>\n<html lang="{_safe(story.language)}" dir="{story.direction}" '
            f'data-ai-generated="{story.generated}">\n<head>\n{_style()}{metas}<title>{_safe(story.title)}</title>\n'
            f"</head>\n<body>\n<header>\n<h1>{_safe(story.title)}</h1>\n"
            f'<p class="label">{_safe(story.label)}</p>\n</header>\n<main>\n'
        )

    def chapter(self, story: Story, chapter: Chapter) -> str:
        """A turn, with an anchor."""
        turn = f'<span class="turn">{_safe(chapter.heading)}</span>'
        choice = f'<span class="choice"><bdi>{_safe(chapter.choice)}</bdi></span>' if chapter.choice else ""
        return (
            f'<article id="turn-{chapter.turn}" {_about(chapter)}>\n'
            f"<h2>{turn}{choice}</h2>\n{_inside(story, chapter)}</article>\n"
        )

    def others(self, story: Story) -> str:
        """Where it stands, and the heading of what was told otherwise."""
        return f'{_left(story)}</main>\n<section class="others">\n<h2>{_safe(label("others", story.language))}</h2>\n'

    def other(self, story: Story, chapter: Chapter) -> str:
        """A turn that is folded away until it is wanted."""
        choice = f" · <bdi>{_safe(chapter.choice)}</bdi>" if chapter.choice else ""
        return (
            f'<details id="turn-{chapter.turn}" {_about(chapter)}>\n'
            f"<summary>{_safe(chapter.heading)}{choice}</summary>\n{_inside(story, chapter)}</details>\n"
        )

    def end(self, story: Story, *, has_others: bool) -> str:
        """Whose story it is."""
        machine = f"{label('machine', story.language)} {story.machine} {story.version}"
        session = f"{label('session', story.language)} {story.session_id}"
        return (
            f"{'</section>' if has_others else f'{_left(story)}</main>'}\n"
            f"<footer>{_safe(machine)} · {_safe(session)} · {story.told_at} · Edgewise</footer>\n</body>\n</html>\n"
        )


def _safe(text: object) -> str:
    return escape(plain(str(text)))


def _about(chapter: Chapter) -> str:
    """Who told the turn, and in which language, for machines."""
    model = f' data-model="{_safe(chapter.model)}"' if chapter.model else ""
    generated = str(chapter.is_ai_generated).lower()
    return f'lang="{_safe(chapter.language)}" data-turn="{chapter.turn}" data-ai-generated="{generated}"{model}'


def _inside(story: Story, chapter: Chapter) -> str:
    parts = [_passage(each) for each in chapter.body]
    parts += [f'<p class="ending">{_safe(chapter.ending)}</p>\n'] if chapter.ending else []
    if chapter.looking_back:
        rows = "".join(f'<li value="{turn}"><bdi>{_safe(text)}</bdi></li>\n' for turn, text in chapter.looking_back)
        parts += [f"<h3>{_safe(looking_back(chapter.language))}</h3>\n<ol>\n{rows}</ol>\n"]
    parts += [f'<p class="teller">{_safe(chapter.teller)}</p>\n'] if story.are_labelled else []
    return "".join(parts)


def _passage(passage: Passage) -> str:
    named = f"<b>{_safe(passage.label)}</b> " if passage.label else ""
    tag = "p class=named" if passage.label else _TAGS.get(passage.style, "p")
    lines = [line.strip() for line in passage.text.split("\n") if line.strip()]
    return "".join(
        f"<{tag}>{named if at == 0 else ''}{_safe(line)}</{tag.partition(' ')[0]}>\n" for at, line in enumerate(lines)
    )


def _left(story: Story) -> str:
    return f'<p class="unfinished">{_safe(story.unfinished)}</p>\n' if story.unfinished else ""
