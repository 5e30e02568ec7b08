"""Sessions given away and taken in: the record byte for byte, the story for readers, the replay for testers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from msgspec.structs import replace
from served import ROOT, Web, runtime_of, serving

from runtime import history, loader
from runtime.bench.player import played
from runtime.bench.recording import recorded
from runtime.bench.replay_file import findings_against, read_replays
from runtime.claims import Idempotency
from runtime.document import read
from runtime.errors import (
    EdgewiseError,
    Forbidden,
    MachineChanged,
    SessionExists,
    SessionNotFound,
    StoreUnavailable,
    ValidationError,
)
from runtime.export import PAGE, export, import_lines, refuse_secrets, survey
from runtime.flow_yaml import flow
from runtime.formats import is_intact, read_entry
from runtime.importing import MAX_LINE_BYTES, PROGRESS_EVERY
from runtime.machine import Machine
from runtime.migrate import migrate
from runtime.narrators.offline import Offline
from runtime.narrators.scripted import Scripted
from runtime.progress import Done, Found, Progress
from runtime.session import Entry, Invoke, Judged, Origin, Role, body_of, digest_of, sealed
from runtime.stores import Row
from runtime.stores.duckdb import DuckDBStore
from runtime.turn import Runtime, play
from runtime.verify import verify
from server.exporting import file_name, headers_of
from server.markdown import escaped, quoted
from server.settings import Settings
from server.story import written
from server.story_html import Html
from server.story_md import Markdown

LAMP = """
machine: lamp
title: {zh: 灯与井🏮, en: The Lamp & the Well}
language: zh
initial: {event: INIT, target: HALL}
limits: {seconds: 600}
slots: {tone: 安静, guest: null}
context:
  hp: {type: int, default: 9, min: 0, max: 9, show: true, label: {zh: 生命, en: Health}}
  luck: {type: float, default: 0.5}
  bag: {type: set, of: [key, lamp], show: true}
  mood: {type: enum, of: [calm, tense], default: calm}
events: {SAY: {payload: {text: text}}, GO: {}, LATE: {}}
on:
  LATE: [{guard: "time.remaining_seconds <= 0", target: END_OUT, must: true}]
states:
  HALL:
    prompt: hall
    learn: {mood: {from: output.mood, otherwise: mood}}
    options:
      - key: strike
        text: {zh: 出手, en: Strike}
        dice: {attack: 1d20}
        edges:
          - {name: hit, guard: dice.attack > 10, target: HALL, assign: {bag: 'add(bag, "key")', luck: luck + 0.25}}
          - {name: miss, target: HALL, assign: {hp: hp - 1}}
      - {key: hurry, text: {zh: 趁早走, en: Hurry}, guard: "time.elapsed_seconds < 100", target: FORK}
      - {key: walk, text: {zh: 走开, en: Walk off}, target: FORK}
    on:
      SAY: [{name: heard, guard: "payload.text == '灯'", target: FORK}, {name: unheard, target: HALL}]
  FORK:
    prompt: hall
    options: {free: 2, event: GO, kinds: {bold: {zh: 大胆, en: bold}, shy: {zh: 胆小, en: shy}, odd: {zh: 古怪, en: odd}}}
    on:
      GO: [{name: bold, guard: "option.kind == 'bold'", target: END_OUT}, {name: other, target: HALL, assign: {hp: hp - 1}}]
  END_OUT: {type: final, ending: {title: {zh: 天亮, en: Dawn}, good: true}}
"""  # noqa: E501 - a machine, a line each
PROMPT = """---
description: The hall
inputs: [text]
outputs: {result: {text: text}, npc_line: "text?", scene: scene, mood: "str?", danger: "int?"}
---
system:
Tell it.
user:
{{ text }}
"""
SECRET = ROOT / "tests" / "projects" / "lantern"
HOSTILE = (
    "<script>alert('灯')</script> **粗** [x](javascript:alert(1)) ![](http://e.vil/a.png) &lt; `c` | ~~~ $x$\n# no"
)
TOLD = {
    "result": {"text": "你一拳打在墙上。"},
    "npc_line": "（墙里）轻点。",
    "scene": "灯影晃了晃🏮。<b>井</b>里有水声。",
    "mood": "tense",
    "danger": 3,
}


def lamp(text: str = LAMP) -> Machine:
    return loader.load({"machines/lamp.yaml": text, "prompts/lamp/hall.prompty": PROMPT})


def lantern() -> Machine:
    """A machine that has secrets."""
    return loader.load_project(SECRET)["lantern_house"]


class Player:
    """Plays one session, and gives it away."""

    def __init__(self, runtime: Runtime, clock: list[int], session_id: str = "s1") -> None:
        self.runtime, self.clock, self.session_id = runtime, clock, session_id

    async def send(self, event: str | None = None, **more: Any) -> Entry:
        played = await play(self.runtime, Invoke(session_id=self.session_id, event=event, **more))
        return played.entry

    async def choose(self, key: str, **more: Any) -> Entry:
        head = await self.runtime.store.head(self.session_id)
        assert head is not None
        found = {each.key or each.kind: each.id for each in head.after.offer}
        return await self.send(selected_option_id=found[key], **more)

    async def out(self, form: str, role: Role = "operator") -> bytes:
        if form == "replay":
            about = await survey(self.runtime, self.session_id)
            refuse_secrets(about, form, role)
            return "".join([part async for part in recorded(self.runtime.store, about, "asked")]).encode()
        return b"".join([part async for part in export(self.runtime, self.session_id, role)])

    async def lines(self) -> list[bytes]:
        return (await self.out("jsonl")).splitlines()

    async def story(self, form: Any) -> str:
        about = await survey(self.runtime, self.session_id)
        return b"".join([part async for part in written(self.runtime, about, form)]).decode()

    async def rows(self) -> list[Row]:
        return [row async for row in self.runtime.store.walk() if row.session_id == self.session_id]


async def opened(machine: Machine, *, narrator: Any = None, session_id: str = "s1") -> Player:
    """A runtime in memory whose clock the test turns."""
    clock = [1_750_000_000_000]
    numbers = iter(range(1, 10_000))
    runtime = runtime_of(machine, narrator=narrator, clock_ms=lambda: clock[0], new_id=lambda: f"made-{next(numbers)}")
    await runtime.open()
    return Player(runtime, clock, session_id)


async def begun(narrator: Any = None, **more: Any) -> Player:
    """The lamp's session, begun."""
    player = await opened(lamp(), narrator=narrator)
    await player.send("INIT", run_seed="seed-3", player_id="甲👻", slots={"guest": "客人：“你”"}, **more)
    return player


async def branched(narrator: Any = None) -> Player:
    """A session with a telling told twice, a turn taken back, words of the player, and an end."""
    player = await begun(narrator)
    await player.choose("strike", elapsed_active_seconds=7.5)
    await history.regenerate(player.runtime, "s1", once=Idempotency(key="regenerate", request_hash="r"))
    await player.send("SAY", payload={"text": HOSTILE})
    await player.choose("walk")
    await history.rewind(player.runtime, "s1", 4)
    player.clock[0] += 20_000
    await player.send("SAY", payload={"text": "灯"}, client_context={"note": "\u2028</script>"})
    await to_the_end(player)
    return player


async def to_the_end(player: Player) -> None:
    """Take whatever leads out."""
    for _ in range(100):
        head = await player.runtime.store.head(player.session_id)
        assert head is not None
        if head.after.ended:
            return
        offered = [each.key or each.kind for each in head.after.offer]
        await player.choose(next((each for each in ("bold", "walk") if each in offered), offered[0]))
    pytest.fail("the story has no end")


async def taken_in(runtime: Runtime, lines: list[bytes], **more: Any) -> list[Any]:
    async def given_lines() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    return [step async for step in import_lines(runtime, given_lines(), **more)]


# The record.


async def test_a_record_has_every_entry_byte_for_byte_under_a_first_line_that_says_what_it_is():
    player = await branched()
    machine = lamp()

    header, *lines = map(json.loads, await player.lines())

    rows = await player.rows()
    raw = await player.lines()
    assert [b'"body":%b}' % row.body in line for row, line in zip(rows, raw[1:], strict=True)] == [True] * len(rows)
    assert [line["hash"] for line in lines] == [row.hash for row in rows]
    assert {line["body"].get("kind", "turn") for line in lines} == {"turn", "regenerate", "rewind"}
    assert header == {
        "edgewise_export": 1,
        "session_id": "s1",
        "machine": "lamp",
        "version": 1,
        "language": "zh",
        "exported_at": "2025-06-15T15:07:00.000+00:00",
        "ai_generated": False,
        "narrators": ["offline"],
        "models": [],
        "entries": len(rows),
        "definitions": {machine.digest: dict(machine.files)},
        "AIGC": None,
    }


async def test_what_is_taken_in_and_given_away_again_is_the_same_byte_for_byte():
    player = await branched(Scripted([TOLD] * 20, fill=True))
    lines = await player.lines()
    other = await opened(loader.load({"machines/other.yaml": LAMP.replace("machine: lamp", "machine: other"),
                                      "prompts/other/hall.prompty": PROMPT}))  # fmt: skip

    *_, done = await taken_in(other.runtime, lines)

    rows = await player.rows()
    facts = {"session_id": "s1", "machine": "lamp", "turn": 7, "entries": len(rows), "definitions": 1}
    assert done == Done(is_good=True, facts=facts)
    assert [(row.body, row.hash) for row in await other.rows()] == [(row.body, row.hash) for row in rows]
    assert (await other.lines())[1:] == lines[1:]
    assert [await other.story(form) for form in (Markdown(), Html())] == [
        await player.story(form) for form in (Markdown(), Html())
    ]
    assert await other.out("replay") == await player.out("replay")


async def test_a_record_goes_through_a_file_and_back_as_it_was(tmp_path: Path):
    player = await branched(Scripted([TOLD] * 20, fill=True))
    lines = await player.lines()
    runtime = runtime_of(lamp(), store=DuckDBStore(tmp_path / "journal.duckdb"))
    await runtime.open()
    try:
        await taken_in(runtime, lines)
        there = Player(runtime, player.clock)

        assert (await there.lines())[1:] == lines[1:]
        assert await there.story(Html()) == await player.story(Html())
    finally:
        await runtime.close()


async def test_a_session_that_was_taken_in_goes_on():
    player = await begun()
    other = await opened(lamp(LAMP.replace("hp - 1", "hp - 2")))

    await taken_in(other.runtime, await player.lines())

    assert (await other.choose("walk")).turn == (await player.choose("walk")).turn == 2
    head = await other.runtime.store.head("s1")
    assert head is not None
    assert head.digest == lamp().digest, "it stays on the definition that it began with"


async def test_under_another_id_every_entry_is_sealed_anew_and_says_where_it_came_from():
    player = await branched()
    before = [read_entry(row.body, row.hash) for row in await player.rows()]

    *_, done = await taken_in(player.runtime, await player.lines(), session_id="copy:1")

    copy = Player(player.runtime, player.clock, "copy:1")
    rows = await copy.rows()
    after = [read_entry(row.body, row.hash) for row in rows]
    assert done.facts["session_id"] == "copy:1"
    assert all(is_intact(row.body, row.hash) for row in rows)
    assert [entry.prev_hash for entry in after] == ["", *(row.hash for row in rows[:-1])]
    assert [entry.origin for entry in after] == [Origin("s1", entry.turn, entry.hash) for entry in before]
    assert {entry.after.session_id for entry in after} == {entry.session_id for entry in after} == {"copy:1"}
    assert b'"session_id":"s1"' not in b"".join(bytes(entry.answer) for entry in after)
    assert [entry.key for entry in after] == [None] * len(after)
    assert [(each.turn, each.seq, each.last_turn, each.parent) for each in after] == [
        (each.turn, each.seq, each.last_turn, each.parent) for each in before
    ]
    assert await copy.out("replay") == (await player.out("replay")).replace(b"session s1", b"session copy:1")


async def moved(player: Player) -> Player:
    """The session on the next version of its machine, and a turn further."""
    newer = LAMP.replace("machine: lamp", "machine: lamp\nversion: 2\nmigrations: [{from: 1, context: {gold: 3}}]")
    machine = lamp(newer.replace("  luck:", "  gold: {type: int, default: 0}\n  luck:").replace("hp - 1", "hp - 2"))
    runtime = runtime_of(machine, store=player.runtime.store, clock_ms=lambda: player.clock[0])
    await runtime.open()
    assert [step async for step in migrate(runtime)][-1].is_good  # type: ignore[union-attr]
    there = Player(runtime, player.clock)
    await there.choose("strike")
    return there


async def test_what_was_taken_in_adds_up_entry_by_entry_also_across_a_migration():
    player = await begun(Scripted([TOLD], fill=True))
    player.runtime.narrator = Offline()
    await player.choose("strike")
    await history.regenerate(player.runtime, "s1")
    player = await moved(player)
    await player.choose("strike")
    await history.rewind(player.runtime, "s1", "previous")
    await player.choose("strike")
    other = await opened(lamp(LAMP.replace("hp - 1", "hp - 3")))

    await taken_in(other.runtime, await player.lines())
    await taken_in(other.runtime, await player.lines(), session_id="copy")

    steps = [step async for step in verify(other.runtime)]
    assert [step for step in steps if isinstance(step, Found)] == []
    assert steps[-1] == Done(is_good=True, facts={"entries": 16, "sessions": 2, "damaged": 0})
    assert "migration" in {read_entry(row.body, row.hash).kind for row in await other.rows()}
    with pytest.raises(MachineChanged) as refused:
        await player.out("replay")
    assert refused.value.facts["reasons"] == ["migrated"]
    assert len(json.loads((await player.lines())[0])["definitions"]) == 2


async def test_what_format_1_wrote_keeps_its_bytes():
    first, *kept = (ROOT / "tests" / "journals" / "format1.jsonl").read_text(encoding="utf-8").splitlines()
    files = {"machines/format_one.yaml": json.loads(first)["machine"]}
    rows = [
        Row("old", seq, line["body"].encode(), line["hash"]) for seq, line in enumerate(map(json.loads, kept), start=1)
    ]
    player = await opened(lamp(), session_id="old")
    await player.runtime.store.keep(loader.digest_of(files), files)
    await player.runtime.store.adopt(rows)
    other = await opened(lamp(), session_id="old")

    lines = await player.lines()
    await taken_in(other.runtime, lines)
    await taken_in(other.runtime, lines, session_id="anew")

    assert [(row.body, row.hash) for row in await other.rows()] == [(row.body, row.hash) for row in rows]
    assert (await other.lines())[1:] == lines[1:]
    anew = [read_entry(row.body, row.hash) for row in await Player(other.runtime, [0], "anew").rows()]
    assert [(entry.format, entry.last_turn) for entry in anew] == [(3, 1), (3, 2), (3, 3), (3, 4)]
    assert "天亮" in await other.story(Markdown())


@pytest.mark.slow
async def test_a_long_session_is_given_away_in_pages_and_without_what_is_played_meanwhile():
    player = await begun()
    for _ in range(PROGRESS_EVERY):
        await player.choose("strike")
    parts = export(player.runtime, "s1", "operator")

    header = json.loads(await anext(parts))
    await player.choose("strike")
    lines = [part async for part in parts]

    assert header["entries"] == len(lines) == PROGRESS_EVERY + 1 > PAGE
    other = await opened(lamp())
    steps = await taken_in(other.runtime, [msgspec.json.encode(header), *lines])
    assert steps[:-1] == [Progress(PROGRESS_EVERY, PROGRESS_EVERY + 1)]


async def test_a_session_that_is_deleted_meanwhile_breaks_its_export_off():
    player = await begun()
    parts = export(player.runtime, "s1", "operator")
    await anext(parts)

    await player.runtime.store.delete("s1")

    with pytest.raises(StoreUnavailable, match="entry 1 of session 's1' is not in the journal"):
        await anext(parts)
    with pytest.raises(SessionNotFound):
        await player.out("jsonl")


# Who may have what.


async def test_the_record_of_a_machine_with_secrets_is_for_operators():
    player = await opened(lantern())
    await player.send("INIT", run_seed="seed-3")

    for form in ("jsonl", "replay"):
        with pytest.raises(Forbidden) as refused:
            await player.out(form, "player")
        assert refused.value.facts == {"role_needed": "operator"}

    assert b'"secret"' in await player.out("jsonl")
    assert b"secret: " in await player.out("replay")
    for form in (Markdown(), Html()):
        page = (await player.story(form)).rpartition("</style>")[2]
        assert not re.search(r"\b(secret|letter|mirror|well)\b", page)


async def test_a_player_gets_a_record_without_the_definitions():
    player = await branched()

    header, *lines = (await player.out("jsonl", "player")).splitlines()

    assert "definitions" not in json.loads(header) or json.loads(header)["definitions"] == {}
    assert lines == (await player.lines())[1:]
    await taken_in(player.runtime, [header, *lines], session_id="again")
    other = await opened(loader.load({"machines/o.yaml": LAMP.replace("machine: lamp", "machine: o"),
                                      "prompts/o/hall.prompty": PROMPT}))  # fmt: skip
    with pytest.raises(ValidationError, match="line 2: the definition of machine 'lamp' is neither in the file nor"):
        await taken_in(other.runtime, [header, *lines])


# What is refused.


Change = Callable[[list[bytes]], list[bytes]]


def entries_in(lines: list[bytes]) -> list[Entry]:
    found = [msgspec.json.decode(line, type=dict[str, msgspec.Raw]) for line in lines[1:]]
    return [read_entry(bytes(each["body"]), msgspec.json.decode(each["hash"])) for each in found]


def forged(change: Callable[[Entry], Entry]) -> Change:
    """Every entry changed, and all hashes made anew: a chain that verifies."""

    def work(lines: list[bytes]) -> list[bytes]:
        made, prev = [lines[0]], ""
        for entry in entries_in(lines):
            anew = sealed(replace(change(entry), prev_hash=prev))
            made.append(b'{"hash":"%b","body":%b}' % (anew.hash.encode(), body_of(anew)))
            prev = anew.hash
        return made

    return work


def headed(**changes: Any) -> Change:
    def work(lines: list[bytes]) -> list[bytes]:
        return [msgspec.json.encode({**json.loads(lines[0]), **changes}), *lines[1:]]

    return work


def at(number: int, /, **changes: Any) -> Change:
    return forged(lambda entry: replace(entry, **changes) if entry.seq == number else entry)


def after_at(number: int, /, **changes: Any) -> Change:
    return forged(lambda entry: replace(entry, after=replace(entry.after, **changes)) if entry.seq == number else entry)


def outcome_at(number: int, /, **changes: Any) -> Change:
    return forged(
        lambda entry: replace(entry, outcome=replace(entry.outcome, **changes)) if entry.seq == number else entry
    )


def context_at(number: int, /, **changes: Any) -> Change:
    def change(entry: Entry) -> Entry:
        values = {**entry.after.context, **changes}
        return replace(entry, after=replace(entry.after, context=values)) if entry.seq == number else entry

    return forged(change)


def defined(change: Callable[[dict[str, str]], dict[str, str]], *, is_named_right: bool = False) -> Change:
    """The definition changed; under its own new digest, where it is named right."""

    def work(lines: list[bytes]) -> list[bytes]:
        digest, files = next(iter(json.loads(lines[0])["definitions"].items()))
        files = change(files)
        new = loader.digest_of(files) if is_named_right else digest
        moved = forged(lambda entry: replace(entry, digest=new, after=replace(entry.after, digest=new)))(lines)
        return headed(definitions={new: files})(moved)

    return work


def with_bytes(before: bytes, after: bytes) -> Change:
    return lambda lines: [lines[0], *(line.replace(before, after) for line in lines[1:])]


def line_of(body: bytes) -> bytes:
    """A line whose hash is right, whatever its body is."""
    return b'{"hash":"%b","body":%b}' % (digest_of(body).encode(), body)


def renumbered(entry: Entry, turn: int) -> Entry:
    return replace(entry, turn=turn, after=replace(entry.after, turn=turn))


def nested_answer(entry: Entry) -> Entry:
    deep = b"[" * 5000 + b"]" * 5000
    return replace(entry, answer=msgspec.Raw(bytes(entry.answer)[:-1] + b',"x":' + deep + b"}"))


def body_at(number: int, pattern: bytes, new: bytes) -> Change:
    """The bytes of an entry's body changed, and its own hash made anew."""

    def work(lines: list[bytes]) -> list[bytes]:
        body = bytes(msgspec.json.decode(lines[number], type=dict[str, msgspec.Raw])["body"])
        changed = re.sub(pattern, new, body, count=1)
        assert changed != body
        return [*lines[:number], line_of(changed), *lines[number + 1 :]]

    return work


def constrained(**changes: Any) -> Change:
    """A session whose constraints were others from the beginning."""
    return forged(
        lambda each: replace(
            each, after=replace(each.after, constraints=msgspec.structs.replace(each.after.constraints, **changes))
        )
    )


def answered_at(number: int, change: Callable[[dict[str, Any]], Any]) -> Change:
    """The stored answer of an entry changed in place."""

    def work(entry: Entry) -> Entry:
        if entry.seq != number:
            return entry
        told = json.loads(bytes(entry.answer))
        change(told)
        return replace(entry, answer=msgspec.Raw(json.dumps(told).encode()))

    return forged(work)


def narrated_at(number: int, **changes: Any) -> Change:
    return forged(lambda each: replace(each, narration={**each.narration, **changes}) if each.seq == number else each)


def offered_elsewhere(entry: Entry) -> Entry:
    """What is offered sends an event that the machine doesn't know."""
    offer = tuple(replace(each, event_type="FLY") for each in entry.after.offer)
    return replace(entry, after=replace(entry.after, offer=offer))


def rolled_otherwise(entry: Entry) -> Entry:
    dice = tuple(replace(die, value=21 - die.value) for die in entry.outcome.dice)
    return replace(entry, outcome=replace(entry.outcome, dice=dice)) if dice else entry


def asked_at(number: int, **payload: Any) -> Change:
    return forged(
        lambda each: replace(each, request={**each.request, "payload": payload}) if each.seq == number else each
    )


HUGE = b"1180591620717411303424"
REFUSED: Mapping[str, tuple[Change, str]] = {
    "nothing": (lambda _: [], "line 1: the file is empty"),
    "no json": (lambda lines: [b"hello", *lines[1:]], "line 1: not the first line of an export"),
    "no header": (lambda lines: lines[1:], "line 1: not the first line of an export"),
    "deep header": (lambda _: [b"[" * 100_000], "line 1: not the first line"),
    "a header's types": (headed(entries="3"), "line 1: not the first line of an export: Expected `int`"),
    "a newer export": (headed(edgewise_export=2), "line 1: an export of version 2"),
    "a strange id": (headed(session_id="../x"), "line 1: session_id is no session's id"),
    "another's entries": (headed(session_id="s2"), "line 2: the entry is another session's"),
    "a huge line": (lambda lines: [*lines, b" " * (MAX_LINE_BYTES + 1)], r"line 10: longer than 8388608 bytes"),
    "not utf-8": (lambda lines: [*lines[:2], b'{"hash":"\xff","body":{}}'], "line 3: not the line of an entry"),
    "a list": (lambda lines: [*lines[:2], b"[1]"], "line 3: not the line of an entry"),
    "a deep line": (lambda lines: [*lines[:2], b'{"hash":"","body":' + b"[" * 100_000], "line 3: not the line"),
    "no hash": (lambda lines: [lines[0], *(b'{"hash":"","body":{}}' for _ in lines[1:])], "line 2: the entry is not"),
    "a changed byte": (with_bytes("出手".encode(), "出脚".encode()), "line 2: the entry is not what its hash"),
    "a changed hash": (with_bytes(b'{"hash":"', b'{"hash":"0'), "line 2: the entry is not what its hash"),
    "no entry": (lambda lines: [lines[0], line_of(b'{"format":2}')], "line 2: not an entry: .*missing"),
    "a wrong type": (lambda lines: [lines[0], line_of(b'{"format":"two"}')], "line 2: the entry is not what"),
    "a newer format": (at(1, format=4), "line 2: the entry has format 4"),
    "cut": (lambda lines: lines[:-1], "line 8: the file ends after 7 entries, and its first line says 8"),
    "only a header": (lambda lines: lines[:1], "line 1: the file ends after 0 entries"),
    "too many": (headed(entries=3), "line 5: the first line says that there are 3 entries"),
    "one lost": (lambda lines: [*lines[:3], *lines[4:]], "line 4: the entry does not follow entry 2"),
    "one twice": (lambda lines: [*lines[:3], *lines[2:]], "line 4: the entry does not follow entry 2"),
    "out of order": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "line 3: the entry does not follow"),
    "a seq twice": (at(3, seq=2), "line 4: the entry does not follow entry 2"),
    "a turn reused": (
        forged(lambda each: renumbered(each, 2) if each.seq == 3 else each),
        "line 4: turn 2 comes after turn 2: a turn's number is never used again",
    ),
    "a huge turn": (
        forged(lambda each: renumbered(each, 2**40) if each.seq == 8 else each),
        "line 9: turn 1099511627776 comes after turn 6",
    ),
    "an orphan": (at(4, parent=99), "line 5: its parent, turn 99, was never told before it"),
    "its own parent": (at(2, parent=2), "line 3: its parent, turn 2, was never told"),
    "a rewind to nowhere": (
        forged(lambda each: renumbered(each, 9) if each.kind == "rewind" else each),
        "line 7: turn 9 was never told",
    ),
    "two turns": (after_at(2, turn=5), "line 3: the session stands at turn 5, and the entry at turn 2"),
    "a last turn that goes back": (at(6, last_turn=1), "line 7: its last turn, 1, goes back behind 5"),
    "another session inside": (after_at(2, session_id="s2"), "line 3: the entry is another session's"),
    "a state of no machine": (after_at(2, state="CELLAR"), "line 3: machine 'lamp' has no state 'CELLAR'"),
    "an end that is none": (after_at(2, ended=True), "line 3: state 'HALL' and whether the session has ended"),
    "another machine's name": (after_at(1, machine="o"), "line 2: the session names machine 'o'"),
    "a variable too many": (context_at(2, gold=1), "line 3: the session's variables are not the machine's"),
    "an int that is a bool": (context_at(2, hp=True), "line 3: 'hp' has a value that its type, int, has not"),
    "a member of no set": (context_at(2, bag=["gold"]), "line 3: 'bag' has a value that its type, set, has not"),
    "a member of no enum": (context_at(2, mood="glad"), "line 3: 'mood' has a value that its type, enum"),
    "an edge of no machine": (outcome_at(2, edge="HALL.fly"), "line 3: machine 'lamp' has no edge 'HALL.fly'"),
    "a target elsewhere": (outcome_at(2, target="FORK"), "line 3: the turn led to 'FORK', and the session stands"),
    "another event": (outcome_at(2, event="SAY"), "line 3: the request is not one that event 'SAY'"),
    "no narration": (at(2, narration={}), "line 3: nothing was told"),
    "no answer": (at(2, answer=msgspec.Raw(b"{}")), "line 3: the entry's answer: .*missing required field `event`"),
    "a deep answer": (forged(nested_answer), "line 2: (the entry's answer|not an entry|not the line.*): nested"),
    "another time": (at(1, at_ms=2**62), "line 2: a time lies outside the years 1970 to 9999"),
    "a long player": (after_at(1, player_id="x" * 129), "line 2: player_id or key is too long"),
    "a NUL": (after_at(1, player_id="\0"), r"line 2: a text holds the character U\+0000"),
    "no definition": (headed(definitions={}), "line 2: the definition of machine 'lamp' is neither in the file nor"),
    "a changed definition": (defined(lambda files: {**files, "x": "y"}), "line 1: definition [0-9a-f]+ is not what"),
    "an empty definition": (defined(lambda _: {}, is_named_right=True), "line 1: definition [0-9a-f]+ is faulty"),
    "a definition that breaks the compiler": (
        defined(lambda files: {**files, "machines/lamp.yaml": LAMP.replace("hp - 1", "nope - 1")}, is_named_right=True),
        "line 1: definition [0-9a-f]+ is faulty: ExpressionError",
    ),
    "a definition with a NUL": (
        defined(lambda files: {**files, "prompts/lamp/x.md": "\0"}, is_named_right=True),
        r"line 1: definition [0-9a-f]+ holds the character U\+0000",
    ),
    "a language that is a header": (constrained(language="zh\r\nX-Evil: 1"), "line 2: its language is none of zh, en"),
    "a language of no machine": (constrained(language="fr"), "line 2: its language is none of zh, en"),
    "an empty term": (constrained(forbidden_terms=("",)), "line 2: forbidden_terms are not up to 200 texts"),
    "a negative length": (constrained(max_chars_scene=-5), "line 2: a text may have -5 characters, and 20 are"),
    "an option of one letter": (constrained(max_chars_option=1), "line 2: a text may have 1 characters, and 2 are"),
    "a long salt": (after_at(2, salt="x" * 100_000), "line 3: run_seed or salt is not 1 to 128"),
    "a strange seed": (after_at(1, run_seed="灯"), "line 2: run_seed or salt is not 1 to 128"),
    "a judged salt": (at(7, judged=Judged(0, "x" * 129)), "line 8: run_seed or salt is not 1 to 128"),
    "a huge count of a draw": (body_at(2, rb'("said":\{"[^"]+":)\d+', rb"\g<1>" + HUGE), "line 3: not an entry: "),
    "a huge step": (body_at(2, rb'"step":\d+', b'"step":' + HUGE), "line 3: not an entry: "),
    "a huge number somewhere": (
        body_at(2, rb'"client_context":\{\}', b'"client_context":{"x":[' + HUGE + b"]}"),
        "line 3: not an entry: the number 1180591620717411303424 is outside what 64 bits hold",
    ),
    "a deep body": (
        body_at(2, rb'"client_context":\{\}', b'"client_context":{"x":' + b"[" * 250 + b"]" * 250 + b"}"),
        "line 3: not an entry: nested too deeply",
    ),
    "a text without end": (narrated_at(2, output={"scene": "灯" * 100_001}), "line 3: not an entry: a text of 100001"),
    "a negative draw": (after_at(2, said={"x": -1}), "line 3: a count of steps, visits or choices is one"),
    "a negative limit": (after_at(1, limit_ms=-5), "line 2: its time limit is -5 ms"),
    "no players": (after_at(1, player_count=0), "line 2: player_count or difficulty is none"),
    "a health beyond its most": (context_at(2, hp=10), "line 3: 'hp' has a value outside its range"),
    "a member twice": (context_at(2, bag=["key", "key"]), "line 3: 'bag' has a value that its type, set, has not"),
    "long slots": (after_at(1, slots={"guest": "x" * 201, "tone": None}), "line 2: slots hold more than a client may"),
    "an event of no machine": (forged(offered_elsewhere), "line 2: machine 'lamp' has no event 'FLY'"),
    "an answer without its event": (
        answered_at(2, lambda told: told.pop("event")),
        "line 3: the entry's answer: .*`event`",
    ),
    "an answer of another session": (
        answered_at(2, lambda told: told["session"].update(state="FORK")),
        "line 3: it was answered with another state than the session has",
    ),
    "an answer with half an outcome": (
        answered_at(2, lambda told: told["payload"]["outcome"].pop("changes")),
        "line 3: the entry's answer: .*`changes`",
    ),
    "a rewind's answer that is none": (
        answered_at(6, lambda told: told.update(answer=[])),
        "line 7: the entry's answer: .*object",
    ),
    "an answer that is not utf-8": (
        body_at(2, rb'"trace_id":"', b'"trace_id":"\xff'),
        "line 3: (not an entry|not the line of an entry|the entry's answer): ",
    ),
    "words that are none": (narrated_at(2, options={"walk": 5}), "line 3: a word of the narration is no text"),
    "a payload of no event": (asked_at(2, text="灯"), r"line 3: event 'HALL' takes no payload\.text like this"),
    "dice that did not fall": (forged(rolled_otherwise), "line 3: it does not follow: its dice are"),
    "a gain that no edge brings": (context_at(2, hp=1), "line 3: it does not follow: its (changes|context)"),
    "a visit that was none": (after_at(2, visits={"HALL": 7}), "line 3: it does not follow: its visits.HALL is 7"),
    "a rewind that gives time back": (after_at(6, elapsed_ms=0), "line 7: it does not follow: its elapsed_ms is 0"),
    "one key twice": (at(4, key="regenerate"), "line 5: it has the Idempotency-Key of an entry before it"),
    "more turns than were told": (at(8, last_turn=99), "line 9: it counts 99 turns, and there were"),
    "a definition of another machine": (
        defined(lambda files: {**files, "machines/lamp.yaml": LAMP.replace("luck", "look")}, is_named_right=True),
        "line 2: the session's variables are not the machine's",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
async def test_a_file_that_is_not_as_it_was_given_away_is_refused_with_its_line_and_nothing_is_kept(case: str):
    change, message = REFUSED[case]
    player = await branched()
    lines = await player.lines()
    assert len(lines) == 9
    other = await opened(loader.load({"machines/o.yaml": LAMP.replace("machine: lamp", "machine: o"),
                                      "prompts/o/hall.prompty": PROMPT}))  # fmt: skip
    digests = await other.runtime.store.digests()

    with pytest.raises(ValidationError, match=message) as refused:
        await taken_in(other.runtime, change(lines))

    assert refused.value.hint
    assert refused.value.facts["details"][0]["loc"][0] == "line"
    assert await other.runtime.store.count() == 0
    assert await other.runtime.store.digests() == digests


@pytest.mark.parametrize("session_id", [None, "anew"])
async def test_every_kind_of_session_is_taken_in_again_and_again(session_id: str | None):
    """Forked, from both sides, rewound, told anew, restarted and moved to another version; copies of copies too."""
    player = await begun()
    await player.choose("strike")
    await history.regenerate(player.runtime, "s1")
    await history.rewind(player.runtime, "s1", 2)
    await player.choose("strike")
    await history.fork(player.runtime, "s1", 2, child_id="child", once=Idempotency(key="fork", request_hash="r"))
    await history.fork(player.runtime, "s1", None, child_id="twin", same_dice=True)
    child = Player(player.runtime, player.clock, "child")
    await child.choose("strike")
    await player.choose("strike")
    await player.send("INIT", on_exists="restart", run_seed="seed-9")
    await history.rewind(player.runtime, "s1", 1)
    player.clock[0] += 5_000
    await player.choose("strike")
    player = await moved(player)
    await player.send("SAY", payload={"text": HOSTILE})

    other = await opened(lamp())
    for each in ("s1", "child", "twin"):
        there = Player(player.runtime, player.clock, each)
        lines = await there.lines()
        name = f"{session_id}-{each}" if session_id else each
        await taken_in(other.runtime, lines, session_id=session_id and name)
        again = await Player(other.runtime, other.clock, name).lines()
        await taken_in(other.runtime, again, session_id=f"again-{each}")
        assert len(again) == len(lines)

    steps = [step async for step in verify(other.runtime)]
    assert [step for step in steps if isinstance(step, Found)] == []
    assert steps[-1].facts["sessions"] == 6


async def test_a_strange_language_is_told_to_nobody_as_a_header():
    """Whatever a journal holds."""
    about = await survey((await begun()).runtime, "s1")
    constraints = msgspec.structs.replace(about.head.after.constraints, language="zh\r\nX-Evil: 1")
    strange = replace(about, head=replace(about.head, after=replace(about.head.after, constraints=constraints)))

    assert dict(headers_of(about, "md"))[b"content-language"] == b"zh"
    assert b"content-language" not in dict(headers_of(strange, "md"))


async def test_a_forged_chain_is_taken_in_where_nothing_in_it_is_wrong():
    """The refusals above are for what was changed, not for having been written anew."""
    player = await branched()
    other = await opened(lamp())

    *_, done = await taken_in(other.runtime, forged(lambda entry: entry)(await player.lines()))

    assert done.facts["entries"] == 8


async def test_a_session_that_exists_is_not_written_over():
    player = await branched()
    rows = await player.rows()

    with pytest.raises(SessionExists):
        await taken_in(player.runtime, await player.lines())
    with pytest.raises(ValidationError, match="the session's new id is none"):
        await taken_in(player.runtime, await player.lines(), session_id="a/b")

    assert await player.rows() == rows


@pytest.mark.slow
@given(st.data())
def test_no_changed_byte_gets_in(data: st.DataObject):
    """Whatever is changed in the entries' lines, it is refused, and by a sentence of ours."""

    async def work() -> None:
        player = await begun()
        await player.choose("strike")
        lines = await player.lines()
        number = data.draw(st.integers(1, len(lines) - 1))
        place = data.draw(st.integers(0, len(lines[number]) - 1))
        changed = bytearray(lines[number])
        changed[place] ^= 1 << data.draw(st.integers(0, 7))
        other = await opened(lamp())
        with pytest.raises(ValidationError):
            await taken_in(other.runtime, [*lines[:number], bytes(changed), *lines[number + 1 :]])
        assert await other.runtime.store.count() == 0

    asyncio.run(work())


@pytest.mark.slow
@given(st.lists(st.binary(max_size=60) | st.from_regex(rb'\{"(hash|body|edgewise_export)":.{0,20}\}'), max_size=4))
def test_no_bytes_at_all_get_past_the_first_line(lines: list[bytes]):
    async def work() -> None:
        other = await opened(lamp())
        with pytest.raises(EdgewiseError):
            await taken_in(other.runtime, lines)

    asyncio.run(work())


# The story to read.


async def test_a_story_is_told_in_the_prompts_order_with_the_choice_told_back():
    player = await begun(Scripted([TOLD] * 9, fill=True))
    await player.choose("strike")
    await player.choose("walk")
    await to_the_end(player)

    page = await player.story(Markdown())

    turn = page[page.index("## 第 2 回合 · 出手") : page.index("## 第 3 回合 · 走开")]
    order = ["你一拳打在墙上。", "> （墙里）轻点。", "灯影晃了晃🏮。\\<b\\>井\\</b\\>里有水声。"]
    places = [turn.index(text) for text in order]
    assert places == sorted(places)
    assert "tense" not in page, "only what is a text is read"
    assert "**结局：天亮（好结局）**" in page
    assert "### 你走过的路" in page
    assert "未完" not in page


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("zh", ["# 灯与井🏮", "不是 AI 生成", "未完：停在第 2 回合。", "第 2 回合 · 出手"]),
        ("en", ["# The Lamp \\& the Well", "not AI-generated", "Unfinished: it stands at turn 2.", "Turn 2 · Strike"]),
    ],
)
async def test_a_story_speaks_the_sessions_language(language: str, words: list[str]):
    player = await begun(constraints={"language": language})
    await player.choose("strike")

    page, html = await player.story(Markdown()), await player.story(Html())

    assert [word for word in words if word not in page] == []
    assert f'<html lang="{language}" dir="ltr" data-ai-generated="none">' in html
    assert f"\nlang: {language}\n" in page


@pytest.mark.parametrize(
    ("answers", "generated", "label"),
    [
        ([{}, {}], "none", "不是 AI 生成"),
        ([{}, TOLD], "some", "部分文字由 AI 生成（模型 scripted）"),
        ([TOLD, TOLD], "all", "AI 生成：文字由模型 scripted 讲述"),
    ],
)
async def test_what_a_model_told_is_labelled_for_people_and_for_machines(
    answers: list[Any], generated: str, label: str
):
    player = await begun(Scripted(answers, fill=True))
    await player.choose("strike")

    page, html = await player.story(Markdown()), await player.story(Html())

    told = [bool(answer) for answer in answers]
    assert f"\nai_generated: {generated}\n" in page
    assert label in page
    assert label in html
    assert f'<meta name="ai-generated" content="{generated}">' in html
    assert re.findall(r'"turn":\d,"ai_generated":(\w+)', page) == [str(each).lower() for each in told]
    assert re.findall(r'data-turn="\d" data-ai-generated="(\w+)"', html) == [str(each).lower() for each in told]
    assert html.count('data-model="scripted"') == sum(told)
    assert page.count("*AI 生成，模型 scripted*") == (1 if generated == "some" else 0), "each turn where they differ"
    header = json.loads((await player.lines())[0])
    assert (header["ai_generated"], header["models"]) == (any(told), ["scripted"] if any(told) else [])


async def test_what_was_told_beside_the_way_stands_at_the_end():
    player = await branched()

    page, html = await player.story(Markdown()), await player.story(Html())

    main, others = page.split("## 另外的讲法与岔路")
    assert re.findall(r"^## 第 (\d+) 回合", main, re.MULTILINE) == ["1", "3", "4", "6", "7"]
    assert "### 第 2 回合 · 第 3 回合的另一种讲法 · 出手" in others
    assert "### 第 5 回合 · 第 6 回合的另一种选择 · 走开" in others
    assert html.count("<details ") == 2
    assert html.index("<details ") > html.index('<article id="turn-7"')


async def test_a_restart_is_another_beginning_and_its_turns_another_branch():
    player = await begun()
    await player.choose("strike")
    await player.send("INIT", on_exists="restart", run_seed="seed-2")

    page = await player.story(Markdown())

    main, others = page.split("## 另外的讲法与岔路")
    assert re.findall(r"^## (.*)", main, re.MULTILINE) == ["第 3 回合"]
    assert re.findall(r"^### (.*)", others, re.MULTILINE) == [
        "第 1 回合 · 另一次开头",
        "第 2 回合 · 岔路上，接在第 1 回合之后 · 出手",
    ]


class Shown(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "action")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_nothing_that_a_player_or_a_model_wrote_runs_or_loads_in_a_page():
    evil = {**TOLD, "scene": '灯在墙上轻轻地晃了一晃，没有声音"><img src=x onerror=alert(1)>\n\n</p>井里有水'}
    player = await opened(
        lamp(LAMP.replace("灯与井🏮", "</title><script>灯</script>")), narrator=Scripted([evil] * 9, fill=True)
    )
    await player.send("INIT", run_seed="seed-3")
    await player.send("SAY", payload={"text": HOSTILE + "\u202e"})

    page = Shown(await player.story(Html()))

    assert page.open == []
    assert page.tags <= {
        "html", "head", "meta", "link", "style", "title", "body", "header", "h1", "h2", "h3", "p", "main", "article",
        "span", "bdi", "b", "blockquote", "ol", "li", "section", "details", "summary", "footer",
    }  # fmt: skip
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert page.links == ["data:,"]
    assert " ".join(HOSTILE.split()) in page.text
    assert "onerror=alert(1)" in page.text
    assert "\u202e" not in page.text


RENDERED = MarkdownIt("gfm-like", {"linkify": False}).enable("table").enable("strikethrough")


def shown_by_markdown(text: str) -> str:
    html = RENDERED.render(text)
    assert set(re.findall(r"</?([a-z0-9]+)", html)) <= {"p", "br", "hr"} - {"hr"}, html
    return Shown(html).text


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])
        | st.sampled_from("\n*_`#>-+=|<&[]()!~$:/.1 "),
        max_size=60,
    )
)
def test_any_text_is_shown_by_markdown_as_it_is(text: str):
    told = escaped(text)

    rendered = shown_by_markdown(told)

    assert "".join(rendered.split()) == "".join(text.split())
    assert "".join(Shown(RENDERED.render(quoted(told))).text.split()) == "".join(text.split())


async def test_a_players_words_stay_words_in_markdown():
    player = await branched()

    page = await player.story(Markdown())

    body = page.split("\n---\n", 1)[1]
    shown = Shown(re.sub(r"<!--.*?-->", "", RENDERED.render(body)))
    assert " ".join(HOSTILE.split()) in shown.text
    assert not shown.tags & {"script", "img", "a", "table", "pre", "code", "del"}


async def test_the_same_session_is_the_same_page_and_the_same_replay():
    player = await branched()
    forms = (Markdown(), Html())

    first = [await player.story(form) for form in forms], await player.out("replay")
    player.clock[0] += 86_400_000

    assert ([await player.story(form) for form in forms], await player.out("replay")) == first


# The replay.


@given(
    st.recursive(
        st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
        | st.sampled_from(["yes", "Null", "~", "1", "0x1", "1e5", ".inf", "- a", "a: b", "a #b", "!x", "&a", "*a", "“灯”：，", "\u2028\ufeff\x85\x7f", "x" * 1200]),  # noqa: E501
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner, max_size=4),
        max_leaves=12,
    )
)  # fmt: skip
def test_any_value_is_read_back_from_yaml_as_it_was(value: Any):
    document = read("x.yaml", f"steps:\n  - send: X\n    with: {flow({'text': value, 'x' * 1100: value})}\n")

    assert document.findings == ()
    assert document.value == {"steps": [{"send": "X", "with": {"text": value, "x" * 1100: value}}]}


def replay_in(text: bytes) -> dict[str, Any]:
    """The replay, read by the rules of our own YAML; null stands only where a model or a client sent one."""
    document = read(
        "s1.replay.yaml", text.decode(), may_be_null=lambda path: "narrate" in path or "constraints" in path
    )
    assert document.findings == ()
    return dict(document.value)


async def told_by_replay(player: Player, machine: Machine) -> list[Entry]:
    """The entries of the exported replay, played; it has all that a turn takes from outside, and says all of it."""
    (replay,), findings = read_replays("s1.replay.yaml", (await player.out("replay")).decode())
    result = await played(replay, machine)
    assert (findings, findings_against(machine, replay), result.difference) == ([], [], None)
    context: dict[str, Any] = {}
    for came in result.came:
        dice = dict(came.step.dice)
        assert came.entry is not None
        assert dice.pop("kinds", []) == [each.kind for each in came.entry.after.offer if each.kind]
        assert [*dice] == [die.name for die in came.entry.outcome.dice]
        context |= came.step.expect.context
        assert context == came.entry.after.context
    return [came.entry for came in result.came if came.entry is not None]


async def branch_of(player: Player) -> list[Entry]:
    about = await survey(player.runtime, player.session_id)
    found = [read_entry(row.body, row.hash) for row in await player.rows()]
    return [entry for entry in found if entry.is_telling and entry.turn in about.branch]


@pytest.mark.parametrize("answers", [None, [TOLD] * 20, [TOLD, {}, {"mood": "tense"}, {"mood": "nonsense"}, {}] * 4])
async def test_a_replay_leads_through_the_same_edges_to_the_same_states_in_the_same_words(answers: Any):
    player = await branched(Scripted(answers, fill=True) if answers else None)

    replayed = await told_by_replay(player, lamp())

    branch = await branch_of(player)
    assert len(branch) > 4
    assert [entry.outcome for entry in replayed] == [entry.outcome for entry in branch]
    assert [entry.after.context for entry in replayed] == [entry.after.context for entry in branch]
    assert [entry.after.elapsed_ms for entry in replayed][-1] == branch[-1].after.elapsed_ms
    assert [entry.narration["learned"] for entry in replayed] == [each.narration["learned"] for each in branch]
    if answers and all(len(answer) > 3 for answer in answers):
        told = [each.narration["output"] for each in branch]
        assert [each.narration["output"] for each in replayed] == told


async def test_a_replay_counts_the_time_that_a_rewind_did_not_give_back():
    """Then an option is closed that the turn itself had offered."""
    player = await begun()
    await player.choose("strike", elapsed_active_seconds=1)
    await player.choose("strike", elapsed_active_seconds=200)
    await history.rewind(player.runtime, "s1", 2)
    await player.choose("strike", elapsed_active_seconds=201.5)

    replayed = await told_by_replay(player, lamp())

    steps = replay_in(await player.out("replay"))["steps"]
    assert [step.get("after") for step in steps] == [None, "200s", "1.5s"]
    assert [step["expect"]["options"] for step in steps] == [
        ["strike", "hurry", "walk"], ["strike", "walk"], ["strike", "walk"],
    ]  # fmt: skip
    assert [entry.after.elapsed_ms for entry in replayed] == [0, 200_000, 201_500]


async def test_a_replay_of_a_fork_fixes_the_dice_that_its_seed_would_not_roll():
    player = await begun()
    for _ in range(3):
        await player.choose("strike")
    await history.fork(player.runtime, "s1", 2, child_id="child")
    child = Player(player.runtime, player.clock, "child")
    for _ in range(6):
        await child.choose("strike")

    await told_by_replay(child, lamp())

    rolls = [[die.value for die in entry.outcome.dice] for entry in await branch_of(child)]
    steps = replay_in(await child.out("replay"))["steps"]
    assert [[*step.get("dice", {}).values()] for step in steps] == rolls
    assert rolls[2:4] != [[die.value for die in each.outcome.dice] for each in (await branch_of(player))[2:4]]


async def test_a_replay_holds_what_a_client_asked_of_the_texts_and_of_the_session():
    constraints = {"forbidden_terms": ["血"], "content_rating": "PG"}
    player = await begun(hard_limit_seconds=90.5, player_count=2, difficulty="HARD", constraints=constraints)
    await player.choose("strike", constraints={"language": "en", "content_rating": None})
    await player.send("SAY", payload={"text": HOSTILE})

    replayed = await told_by_replay(player, lamp())

    replay = replay_in(await player.out("replay"))
    assert replay["replay"] == "session s1"
    assert replay["given"] == {
        "machine": "lamp",
        "seed": "seed-3",
        "language": "zh",
        "constraints": {"content_rating": "PG", "forbidden_terms": ["血"]},
        "slots": {"tone": "安静", "guest": "客人：“你”"},
        "player_count": 2,
        "difficulty": "HARD",
        "hard_limit_seconds": 90.5,
    }
    assert replay["steps"][1]["constraints"] == {"language": "en", "content_rating": None}
    assert replay["steps"][2]["with"] == {"text": HOSTILE}
    assert replayed[-1].after.constraints == (await branch_of(player))[-1].after.constraints


async def test_a_replay_has_the_operators_secrets_so_that_it_can_be_played():
    player = await opened(lantern())
    await player.send("INIT", run_seed="seed-3")
    for _ in range(8):
        head = await player.runtime.store.head("s1")
        assert head is not None
        if head.after.ended or not head.after.offer:
            break
        await player.send(selected_option_id=head.after.offer[-1].id)

    replayed = await told_by_replay(player, lantern())

    assert [entry.after.context for entry in replayed] == [entry.after.context for entry in await branch_of(player)]
    assert any("secret" in step["expect"].get("context", {}) for step in replay_in(await player.out("replay"))["steps"])


# Over HTTP.


async def test_a_file_has_a_name_that_every_file_system_takes():
    assert file_name("s1", "md") == "session-s1.md"
    assert file_name('..:a.b:é\n"/', "replay.yaml") == "session-_a_b_.replay.yaml"


FORMS = {
    "jsonl": ("application/x-ndjson", 'attachment; filename="session-a_1.jsonl"'),
    "md": ("text/markdown; charset=utf-8", 'attachment; filename="session-a_1.md"'),
    "html": ("text/html; charset=utf-8", 'inline; filename="session-a_1.html"'),
    "replay": ("application/yaml", 'attachment; filename="session-a_1.replay.yaml"'),
}


@pytest.mark.slow
def test_every_form_comes_over_http_as_what_it_is():
    runtime = runtime_of(lamp(), narrator=Scripted([TOLD] * 9, fill=True))
    with serving(runtime) as server, Web(server.url) as web:
        web.invoke("a:1", "INIT", seed={"run_seed": "seed-3"})
        web.invoke("a:1", "SAY", payload={"text": HOSTILE})
        player = Player(runtime, [0], "a:1")

        answers = {form: web.http.get(f"/sessions/a:1/export?format={form}") for form in FORMS}
        plain = web.http.get("/sessions/a:1/export")

        expected = {
            "replay": server.run(player.out("replay")),
            "md": server.run(player.story(Markdown())).encode(),
            "html": server.run(player.story(Html())).encode(),
        }
        assert {form: answer.content for form, answer in answers.items() if form != "jsonl"} == expected
        assert plain.content.splitlines()[1:] == server.run(player.lines())[1:]
        for form, answer in answers.items():
            assert answer.status_code == 200
            assert (answer.headers["Content-Type"], answer.headers["Content-Disposition"]) == FORMS[form]
            assert answer.headers["Content-Language"] == "zh"
            assert answer.headers["X-AI-Generated"] == "true"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Request-Id"]
        assert "sandbox" in answers["html"].headers["Content-Security-Policy"]


@pytest.mark.slow
def test_what_can_not_be_given_away_is_refused_in_the_envelope():
    settings = Settings(play_tokens=("player",), operator_tokens=("operator",))
    with serving(runtime_of(lantern()), settings) as server:
        with Web(server.url, Authorization="Bearer player") as web:
            web.invoke("s1", "INIT")
            assert web.ask("GET", "/sessions/s1/export", 403)["role_needed"] == "operator"
            assert web.ask("GET", "/sessions/s1/export?format=replay", 403)["error"] == "forbidden"
            assert web.ask("GET", "/sessions/none/export?format=md", 404)["error"] == "session_not_found"
            assert web.ask("GET", "/sessions/%00/export?format=md", 404)["error"] == "session_not_found"
            assert web.ask("GET", "/sessions/s1/export?format=pdf", 422)["error"] == "validation_error"
            assert web.http.get("/sessions/s1/export?format=md").status_code == 200
        with Web(server.url, Authorization="Bearer operator") as web:
            assert web.http.get("/sessions/s1/export").status_code == 200
        with Web(server.url) as web:
            assert web.ask("GET", "/sessions/s1/export?format=md", 401)["error"] == "unauthenticated"


@pytest.mark.slow
def test_an_export_over_http_is_taken_in_elsewhere():
    runtime, other = runtime_of(lamp()), runtime_of(lamp(LAMP.replace("hp - 1", "hp - 2")))
    with serving(runtime) as server, Web(server.url) as web, serving(other) as second:
        web.invoke("s1", "INIT", seed={"run_seed": "seed-3"})
        web.invoke("s1", "SAY", payload={"text": "灯👻"})
        lines = web.http.get("/sessions/s1/export").content.splitlines(keepends=True)

        second.run(taken_in(other, lines))

        with Web(second.url) as there:
            assert there.session("s1")["answer"] == web.session("s1")["answer"]
            assert there.http.get("/sessions/s1/export").content.splitlines(keepends=True)[1:] == lines[1:]
