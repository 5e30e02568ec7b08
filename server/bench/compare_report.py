"""What `edgewise compare` found, told: lines for a terminal, JSON, Markdown, and one page to read. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.compare import Compared, Parting, Prompts, Turn, Unwalked
from runtime.bench.spans import Span
from runtime.flow_yaml import flow
from server.bench.played import counted
from server.tend.pages import clean

CONTEXT = 24
"""How many characters of what is the same stand around a difference."""
MOST_UNWALKED = 12
"""How many edges that nobody walked are named on a terminal."""
_COLOURS = {"-": "red", "+": "green"}
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~])")
STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--paper:#fff;--rule:#d1d9e0;
--gone:#ffd7d5;--come:#ccffd8;--bad:#cf222e}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--paper:#0d1117;--rule:#3d444d;
--gone:#5d1f1f;--come:#1b4a2a;--bad:#ff7b72}}
body{font:15px/1.6 system-ui,"Noto Sans CJK SC",sans-serif;color:var(--ink);background:var(--paper);
max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{border-top:1px solid var(--rule);padding-top:1rem}
del{background:var(--gone)}ins{background:var(--come)}
.bad{color:var(--bad);font-weight:bold}.soft{color:var(--soft)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,Menlo,"Noto Sans Mono CJK SC",monospace}
pre del,pre ins{text-decoration:none}
"""


class Report(Struct, frozen=True, kw_only=True):
    """A comparison: the machine, who played on each side, every path, and the edges that none walked."""

    machine: str
    here: str
    there: str
    found: tuple[Compared, ...]
    unwalked: tuple[Unwalked, ...]

    @property
    def parted(self) -> int:
        """On how many paths the rules part."""
        return sum(1 for each in self.found if each.parting)

    @property
    def words(self) -> int:
        """How many texts are told otherwise."""
        return sum(each.words for each in self.found)

    @property
    def prompts(self) -> int:
        """How many turns are told by other prompts."""
        return sum(each.prompts for each in self.found)

    @property
    def notes(self) -> int:
        """How often a side's model failed."""
        return sum(len(turn.notes) for each in self.found for turn in each.turns)


def summed(report: Report) -> str:
    """The whole in a line."""
    turns = sum(each.steps for each in report.found)
    told = (
        f"{counted(len(report.found), 'path')}, {counted(turns, 'turn')}: {report.parted} part in state, "
        f"{report.words} texts are told otherwise, {report.prompts} prompts differ"
    )
    return told + (f"; told offline where a model failed: {report.notes}" if report.notes else "")


class _Path(Struct, frozen=True):
    """A path as it is told. The same edit shows in every turn that it tells: it is shown once, and then named.

    `repeated` is prompt → the turns in which it parts as was shown before.
    """

    name: str
    language: str
    turns: tuple[Turn, ...]
    repeated: dict[str, list[int]]

    @property
    def again(self) -> Iterator[str]:
        """A sentence for each prompt that parts as before."""
        for name, steps in self.repeated.items():
            yield clean(f"prompts part as above: {name}, turn {', '.join(map(str, steps))}")


def _read(report: Report) -> Iterator[_Path]:
    """The paths in which something parts."""
    seen: set[tuple[str, ...]] = set()
    for each in report.found:
        turns, repeated = [], dict[str, list[int]]()
        for turn in each.turns:
            changed = tuple(line for line in turn.prompts.lines if line[:1] in _COLOURS) if turn.prompts else ()
            if turn.prompts and changed in seen:
                repeated.setdefault(turn.prompts.name, []).append(turn.step)
                turn = replace(turn, prompts=None)  # noqa: PLW2901 - the turn, without what was shown
            seen.add(changed)
            turns += [turn] if turn.is_telling else []
        if each.turns:
            yield _Path(each.name, each.language, tuple(turns), repeated)


def _unwalked_lines(report: Report) -> Iterator[str]:
    """Each edge that no path took, those of one version alone first."""
    for each in sorted(report.unwalked, key=lambda each: (not each.is_only, each.side == "both")):
        where = "on either side" if each.side == "both" else each.side
        yield clean(f"{each.edge} {where}{' (the other has none such)' if each.is_only else ''}: {each.where}")


# On a terminal.


def lines(report: Report) -> Iterator[str]:
    """What is printed: each path in which something parts, the edges that none walked, then the sum."""
    for each in _read(report):
        yield click.style(clean(each.name), bold=True)
        for turn in each.turns:
            yield f"  turn {turn.step} ({clean(turn.sent)})"
            yield from (f"    {line}" for line in _told(turn))
        yield from (f"  {line}" for line in each.again)
    missed = [*_unwalked_lines(report)]
    if missed:
        yield f"edges that no path walked: {len(missed)}"
        yield from (f"  {line}" for line in missed[:MOST_UNWALKED])
    if len(missed) > MOST_UNWALKED:
        yield f"  … and {len(missed) - MOST_UNWALKED} more"
    yield summed(report)


def _told(turn: Turn) -> Iterator[str]:
    if parting := turn.parting:
        yield click.style(f"PARTS at {_values(parting)}", fg="red", bold=True)
        for name, why in _whys(parting):
            yield from (f"  {name}: {clean(line)}" for line in why.splitlines())
    for words in turn.words:
        yield f"{words.path}: {_coloured(words.spans)}"
    if prompts := turn.prompts:
        yield f"prompts part: {clean(prompts.name)}"
        yield from (f"  {_coloured_line(line)}" for line in prompts.lines)
    yield from (click.style(clean(note), fg="yellow") for note in turn.notes)


def _values(parting: Parting) -> str:
    return clean(f"{parting.field}: {flow(parting.here)} ≠ {flow(parting.there)}")


def _whys(parting: Parting) -> list[tuple[str, str]]:
    return [(name, why) for name, why in (("here", parting.why_here), ("there", parting.why_there)) if why]


def _coloured(spans: Sequence[Span]) -> str:
    marks = {"-": ("[-", "-]"), "+": ("{+", "+}")}
    return "".join(
        text if sign == "=" else click.style(text.join(marks[sign]), fg=_COLOURS[sign]) for sign, text in _shown(spans)
    )


def _coloured_line(line: str) -> str:
    colour = _COLOURS.get(line[:1])
    return click.style(clean(line), fg=colour) if colour else clean(line)


def _shown(spans: Sequence[Span]) -> Iterator[Span]:
    """A text's parts; of what is the same only what stands beside a difference."""
    for number, (sign, text) in enumerate(spans):
        near = _near(text, is_first=number == 0, is_last=number == len(spans) - 1) if sign == "=" else text
        yield sign, clean(near)


def _near(text: str, *, is_first: bool, is_last: bool) -> str:
    head, tail = ("" if is_first else text[:CONTEXT]), ("" if is_last else text[-CONTEXT:])
    return text if len(text) <= len(head) + len(tail) else f"{head}…{tail}"


# For machines.


def plain(report: Report) -> dict[str, Any]:
    """As JSON holds it; of paths those in which something parts."""
    return {
        "machine": report.machine,
        "here": report.here,
        "there": report.there,
        "paths": len(report.found),
        "parted": report.parted,
        "words": report.words,
        "prompts": report.prompts,
        "unwalked": [{name: getattr(each, name) for name in each.__struct_fields__} for each in report.unwalked],
        "differing": [
            {"path": each.name, "turns": [_plain_turn(turn) for turn in each.turns]}
            for each in report.found
            if each.turns
        ],
    }


def _plain_turn(turn: Turn) -> dict[str, Any]:
    parting, prompts = turn.parting, turn.prompts
    return {
        "turn": turn.step,
        "sent": turn.sent,
        "parting": None if parting is None else {each: getattr(parting, each) for each in parting.__struct_fields__},
        "words": [{"path": each.path, "spans": [list(span) for span in each.spans]} for each in turn.words],
        "prompts": None if prompts is None else {"here": prompts.here, "there": prompts.there, "diff": prompts.lines},
        "notes": list(turn.notes),
    }


# To read.


def markdown(report: Report) -> str:
    """The report as Markdown; what was taken out and put in stands in `<del>` and `<ins>`."""
    told = [f"# Compared: {_md(report.machine)}", "", f"- here: {_md(report.here)}", f"- there: {_md(report.there)}"]
    told += ["", _md(summed(report)), ""]
    for each in _read(report):
        told += [f"## {_md(each.name)}", ""]
        for turn in each.turns:
            told += [f"### Turn {turn.step}: {_md(turn.sent)}", "", *_md_turn(turn), ""]
        told += [*(f"- {_md(line)}" for line in each.again), ""] if each.repeated else []
    if missed := [*_unwalked_lines(report)]:
        told += ["## Edges that no path walked", "", *(f"- {_md(line)}" for line in missed), ""]
    return "\n".join(told)


def _md(text: str) -> str:
    """A text that Markdown takes for nothing else."""
    return _MARKDOWN.sub(r"\\\1", escape(clean(text), quote=False))


def _md_turn(turn: Turn) -> Iterator[str]:
    if parting := turn.parting:
        yield f"- **parts at {_md(_values(parting))}**"
        for name, why in _whys(parting):
            yield from (f"  - {name}: {_md(line.strip())}" for line in why.splitlines())
    for words in turn.words:
        yield f"- {_md(words.path)}: {_tagged(words.spans, _md)}"
    if prompts := turn.prompts:
        yield f"- prompts part: {_md(prompts.name)}"
        # Indented code: no text of a prompt can end it.
        yield from ("", *(f"      {clean(line)}" for line in prompts.lines), "")
    yield from (f"- {_md(note)}" for note in turn.notes)


def _tagged(spans: Sequence[Span], written: Callable[[str], str] = escape) -> str:
    tags = {"=": ("", ""), "-": ("<del>", "</del>"), "+": ("<ins>", "</ins>")}
    return "".join(f"{tags[sign][0]}{written(text)}{tags[sign][1]}" for sign, text in _shown(spans))


def page(report: Report) -> str:
    """The report as one page, light or dark as its reader has it; it holds no script and no other file."""
    rows = [row for each in _read(report) for row in _html_path(each)]
    if missed := [*_unwalked_lines(report)]:
        rows += ["<h2>Edges that no path walked</h2><ul>", *(f"<li>{escape(each)}</li>" for each in missed), "</ul>"]
    title = f"Compared: {escape(report.machine)}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>",
        f'<p class="soft">here: {escape(report.here)}<br>there: {escape(report.there)}</p>',
        f"<p>{escape(summed(report))}</p>",
        *rows,
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _html_path(found: _Path) -> Iterator[str]:
    """A path; the story's own words are in its language."""
    said = f'lang="{escape(found.language)}"'
    yield f"<section><h2>{escape(clean(found.name))}</h2>"
    for turn in found.turns:
        yield f"<h3>Turn {turn.step}: <span {said}>{escape(clean(turn.sent))}</span></h3><ul>"
        yield from (f"<li>{line}</li>" for line in _html_turn(turn, said))
        yield "</ul>"
    yield from (f'<p class="soft">{escape(line)}</p>' for line in found.again)
    yield "</section>"


def _html_turn(turn: Turn, said: str) -> Iterator[str]:
    if parting := turn.parting:
        whys = "".join(f"{name}<pre {said}>{escape(_cleaned(why))}</pre>" for name, why in _whys(parting))
        yield f'<span class="bad">parts at {escape(_values(parting))}</span><br>{whys}'
    for words in turn.words:
        yield f"<code>{escape(words.path)}</code>: <span {said}>{_tagged(words.spans)}</span>"
    if turn.prompts:
        yield _html_prompts(turn.prompts, said)
    yield from (escape(clean(note)) for note in turn.notes)


def _html_prompts(prompts: Prompts, said: str) -> str:
    tags = {"-": "del", "+": "ins"}
    told = [(tags.get(line[:1]), escape(clean(line))) for line in prompts.lines]
    rows = "\n".join(f"<{tag}>{line}</{tag}>" if tag else line for tag, line in told)
    return f"prompts part: <code>{escape(clean(prompts.name))}</code><pre {said}>{rows}</pre>"


def _cleaned(text: str) -> str:
    return "\n".join(map(clean, text.splitlines()))
