"""The proof: whatever a session asks for and whatever a model does, the turn arrives and breaks no rule.

Random limits, terms, ratings, languages, slots and choices, over the machines that ship and hostile
ones; told offline, and by a model that misbehaves at random. In CI a few hundred turns; in full

    EDGEWISE_TEST_SCALE=50 pytest -n0 -s tests/test_always_arrives.py

plays 10,000 offline and 2,000 faulted ones. The judge here is no part of the product: it counts,
folds and looks for itself.
"""

from __future__ import annotations

import asyncio
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

import msgspec
import pytest
from conftest import SCALE
from faulty import WAYS, Faulty, patient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from served import shipped

from runtime import errors, loader
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.narrators.openai import OpenAI
from runtime.narrators.profile import PROFILES
from runtime.session import Invoke
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play

TURNS = 8
"""How many turns each example plays: where a session ends, another one begins."""
OFFLINE_EXAMPLES, FAULTED_EXAMPLES = 25 * SCALE, 5 * SCALE
HOSTILE = 12
"""How many hostile machines there are."""
TEXT_CHARS = 600
"""The longest text of any kind without a limit of its own, as `machines/README.md` says."""

# --- machines that make it hard ---

_PIECES = {
    "zh": "开门 门 开 关 灯 跑 走 的 的的 一 一二三 停 123 3 A OK 。 ！ … 骰子 他说 “好” 推开沉重的橡木门 去 去！ 去。",
    "en": "open door Open the the. go Go! stop a I 1 12 ok OK dice . ! … run climb the long dark stair again",
}


def hostile_text(chance: random.Random, language: str, most: int) -> str:
    """A text that is short, odd, long or like another one."""
    gap = "" if language == "zh" else " "
    return gap.join(chance.choices(_PIECES[language].split(), k=chance.randint(1, most))) or "x"


def both(chance: random.Random, most: int = 6, end: str = "") -> str:
    texts = {language: hostile_text(chance, language, most) + end for language in _PIECES}
    return str(msgspec.json.encode(texts), "utf-8")


@cache
def hostile(number: int) -> Machine:
    """A machine without prompts or fragments whose texts are nearly alike, odd, or longer than any limit."""
    chance = random.Random(number)  # noqa: S311 - no secret
    states = []
    for state in ("A", "B"):
        options = [
            f"      - {{key: o{index}, text: {both(chance, chance.choice((1, 2, 30)), str(index))}, "
            f"target: {chance.choice('AB')}, assign: {{hp: hp - 1}}, tell: {both(chance, chance.choice((1, 60)))}}}"
            for index in range(chance.randint(1, 4))
        ]
        states += [f"  {state}:", f"    label: {both(chance)}", "    options:", *options]
        states += ["    on:", "      SAY: [{target: B, tell: " + both(chance) + "}]"]
    text = "\n".join([
        f"machine: hostile{number}", f"title: {both(chance)}", f"language: {chance.choice(('zh', 'en'))}", "initial: A",
        "slots: {tone: x}", "limits: {option_chars: {zh: 300, en: 600}}", "context:",
        f"  hp: {{type: int, default: 6, min: 0, max: 9, show: true, label: {both(chance)}}}",
        "events: {SAY: {payload: {text: text}}}", "on:",
        "  END: [{name: dead, guard: hp <= 0, target: END, must: true}]", "states:", *states,
        f"  END: {{type: final, label: {both(chance)}, ending: {{title: {both(chance)}, good: false}}}}",
    ])  # fmt: skip
    return loader.load({f"machines/hostile{number}.yaml": text})


def machine_called(name: str) -> Machine:
    return hostile(int(name.removeprefix("hostile"))) if name.startswith("hostile") else shipped()[name]


MACHINES = ("haunted_house", "mine_adventure", "ticket_triage", *(f"hostile{number}" for number in range(HOSTILE)))


@cache
def own_words(name: str) -> tuple[str, ...]:
    """Runs of a machine's own texts, in its files: what a session may happen to forbid."""
    text = "\n".join(text for path, text in machine_called(name).files.items() if not path.endswith(".md"))
    han = re.findall(r"[\u4e00-\u9fff]{1,6}", text)
    latin = re.findall(r"[A-Za-z]{2,12}(?: [a-z]{2,8})?", text)
    return tuple(sorted({*han, *latin}))


# --- what a session asks for ---

ODD_TERMS = (
    "的", "一", "你", "是", "門", "燈", "來", "說", "開", "a", "e", "I", "the", "you", "and", "1", "3", "0", "12", "。",
    "，", "！", ".", ",", "…", "*", "＊", "□", "-", "_", "x", "“", "”", "（", " ", "\u200b", "😀", "é", "Ａ", "of the",
    "s", "t", "继续", "Continue", "continue", "继", "続", "ß", "ﬁ", "的 门", "d-o-o-r", "·", "○", "—", "~", "~～",
)  # fmt: skip


class Asked(Struct, frozen=True):
    """One example: a machine, a seed for all chance, and the constraints and slots of its sessions."""

    machine: str
    seed: int
    constraints: dict[str, Any]
    slots: dict[str, str]


_ANY = st.characters(codec="utf-8", exclude_characters="\0")


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Any session at all."""
    machine = draw(st.sampled_from(MACHINES))
    few, many = st.integers(0, 6), st.integers(20, 200)
    count = draw(st.one_of(st.just(0), few, few, few, many))
    chance = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311 - no secret
    words = own_words(machine)
    terms = [chance.choice(ODD_TERMS) if chance.random() < 0.3 else chance.choice(words) for _ in range(count)]
    if chance.random() < 0.2:
        terms += draw(
            st.lists(
                st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=32), max_size=4
            )
        )
    constraints = {
        "language": draw(st.sampled_from(["zh", "en", "zh", "en", "zh-CN", "en-GB"])),
        "max_chars_scene": draw(st.none() | st.integers(20, 60) | st.integers(20, 600)),
        "max_chars_option": draw(st.none() | st.integers(2, 8) | st.integers(2, 60)),
        "forbidden_terms": list(dict.fromkeys(term[:32] for term in terms))[:200],
        "content_rating": draw(st.sampled_from([None, "G", "PG", "PG13", "R"])),
    }
    tongue = hostile_text(chance, constraints["language"][:2], 8)
    slots = {"tone_bias": tongue, "npc_bias": tongue[:3], "tone": tongue} if chance.random() < 0.5 else {}
    return Asked(machine, chance.randint(0, 2**32), constraints, slots)


# --- the judge ---

_SIMPLE = str.maketrans("門燈來說開", "门灯来说开")
_LETTER = "a-z0-9\u00df-\u024f"


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """A text as terms are compared: width, case and what has no width make no difference."""
    plain = "".join(unicodedata.normalize("NFKC", each) if _is_wide(each) else each for each in text)
    return "".join(each for each in plain.casefold().translate(_SIMPLE) if unicodedata.category(each) != "Cf")


def _is_wide(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LN" or "！" <= letter <= "～"


@lru_cache(maxsize=4096)
def pattern(term: str) -> re.Pattern[str] | None:
    """What finds a term in a folded text; one of Latin letters as a word of its own."""
    term = folded(term).strip()
    if not term:
        return None
    before = f"(?<![{_LETTER}])" if re.match(f"[{_LETTER}]", term[0]) else ""
    after = f"(?![{_LETTER}])" if re.match(f"[{_LETTER}]", term[-1]) else ""
    return re.compile(before + re.escape(term) + after)


def holds(text: str, term: str) -> bool:
    """Whether a term stands in a text."""
    found = pattern(term)
    return found is not None and found.search(folded(text)) is not None


def texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text below a value, by its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping | list):
        for name, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from texts(f"{path}.{name}", part)


NO_TEXT = {"outcome", "inputs", "routing", "meta", "options", "status", "ending", "key_choices"}


def written(payload: Mapping[str, Any]) -> dict[str, str]:
    """Every text under payload that a narrator or a designer wrote."""
    found = dict(pair for name in payload.keys() - NO_TEXT for pair in texts(name, payload[name]))
    found |= {f"options.{each['id']}": each["text"] for each in payload["options"]}
    for name, shown in payload["status"].items():
        found |= dict(texts(f"status.{name}.text", shown["text"]))
        found[f"status.{name}.label"] = shown["label"] if shown["label"] != name else ""
    found |= {f"key_choices.{each['turn']}": each["text"] for each in payload.get("key_choices", ())}
    return found | ({"ending": payload["ending"]["title"]} if "ending" in payload else {})


def tongue_of(text: str) -> str:
    """`zh` or `en` where a text is plainly one of them, else ''."""
    han, words = len(re.findall(r"[\u4e00-\u9fff]", text)), len(re.findall(r"[A-Za-z]{2,}", text))
    if words > 4 and words > han:
        return "en"
    return "zh" if han > 4 and han > words else ""


def limits(asked: Asked) -> tuple[int, int]:
    """The longest scene and option: the session's, else the machine's."""
    language, definition = asked.constraints["language"][:2], machine_called(asked.machine).definition
    own = (definition.max_chars("scene", language), definition.max_chars("option", language))
    return asked.constraints["max_chars_scene"] or own[0], asked.constraints["max_chars_option"] or own[1]


_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef]|⟦/?[0-9a-f]{10}⟧")
"""Controls, what is no character, and the marks of a prompt."""


def judge(asked: Asked, answer: Mapping[str, Any]) -> None:
    """What must hold of any turn at all."""
    payload, session = answer["payload"], answer["session"]
    found, (scene, option) = written(payload), limits(asked)
    told = {path: text for path, text in found.items() if path.partition(".")[0] not in {"ai_state", "status"}}

    assert all(len(text) <= scene for path, text in found.items() if path.rpartition(".")[2] == "scene"), found
    assert all(len(each["text"]) <= option for each in payload["options"]), payload["options"]
    assert all(len(text) <= TEXT_CHARS for text in found.values()), found
    assert all(text.strip() for text in told.values()), told
    assert [text for text in found.values() if _BROKEN.search(text)] == []

    forbidden = [
        (path, term)
        for term in asked.constraints["forbidden_terms"]
        for path, text in found.items()
        if holds(text, term)
    ]
    assert forbidden == [], (forbidden, found)

    language = asked.constraints["language"][:2]
    assert {path: text for path, text in told.items() if tongue_of(text) not in {"", language}} == {}

    words = [folded(each["text"]).strip() for each in payload["options"]]
    assert len(set(words)) == len(words), payload["options"]
    assert [each["id"] for each in payload["options"]] == [*range(1, len(words) + 1)]

    routing = payload["routing"]
    assert routing["next_event_type"] in {*routing["allowed_event_types"], None}
    assert {each["event_type"] for each in payload["options"]} <= set(routing["allowed_event_types"])
    assert (routing["next_event_type"] is None) == session["ended"]
    assert len(payload["options"]) <= 4
    assert not session["ended"] or payload["options"] == []


def machines_word(answer: Mapping[str, Any]) -> Any:
    """What no constraint and no model has a say in: where nothing is learned, it is a function of seed and choices."""
    payload = answer["payload"]
    return (
        answer["event"],
        {key: answer["session"][key] for key in ("state", "turn", "step", "ended")},
        payload["outcome"],
        payload["routing"],
        [(each["id"], each["event_type"], each.get("key"), each.get("kind")) for each in payload["options"]],
        {name: shown["value"] for name, shown in payload["status"].items()},
    )


def judge_stream(asked: Asked, heard: list[tuple[str, Any]], answer: Mapping[str, Any]) -> None:
    """What was heard adds up to what was told, and no word of it was forbidden."""
    told: dict[str, str] = {}
    for name, data in heard:
        if name == "turn.accepted":
            continue
        path, text = data["path"], data["text"]
        told[path] = text if name == "field.replaced" else told.get(path, "") + text
        assert [term for term in asked.constraints["forbidden_terms"] if holds(told[path], term)] == [], (path, told)
    for path, text in told.items():
        value: Any = answer["payload"]
        for name in path.split("."):
            value = value.get(name, "") if isinstance(value, Mapping) else ""
        assert value == text, (path, heard)


# --- playing ---


class Table:
    """One machine played by one narrator, session after session."""

    def __init__(self, machine: Machine, narrator: Any) -> None:
        self.runtime = Runtime(
            MemoryStore(), narrator, {machine.name: machine}, machine.name, clock_ms=lambda: 1_000_000
        )

    async def take(self, step: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """One turn: the answer, and what was heard of it."""
        heard: list[Any] = []
        invoke = Invoke(elapsed_active_seconds=0, **step)
        played = await play(self.runtime, invoke, hear=lambda name, data: heard.append((name, dict(data))))
        return msgspec.json.decode(played.data), heard


def next_step(chance: random.Random, answer: Mapping[str, Any], said: str) -> dict[str, Any] | None:
    """Any choice, any text where one is taken; None where the session has ended."""
    options, inputs = answer["payload"]["options"], answer["payload"]["inputs"]
    if answer["session"]["ended"]:
        return None
    texts = [each for each in inputs if each["field"] == "text"]
    if texts and (not options or chance.random() < 0.4):
        # Some guards ask for a word.
        return {"event": texts[0]["event_type"], "payload": {"text": said if any(map(str.isalnum, said)) else "OK"}}
    if options:
        return {"selected_option_id": chance.choice(options)["id"]}
    return {"event": answer["payload"]["routing"]["next_event_type"]}


async def play_out(asked: Asked, narrator: Any, *, learns: bool) -> None:
    """Play `TURNS` turns, judge each, and hold it against a twin that is told offline and without constraints."""
    machine, chance = machine_called(asked.machine), random.Random(asked.seed)  # noqa: S311 - no secret
    table, twin = Table(machine, narrator), Table(machine, Offline())
    for each in (table, twin):
        await each.runtime.open()
    step: dict[str, Any] | None = None
    turns = tries = 0
    while turns < TURNS and tries < 3 * TURNS:
        tries += 1
        step = step or {"event": machine.definition.first.event, "slots": asked.slots, "run_seed": str(chance.random())}
        session = {"session_id": f"s{tries}"} if "run_seed" in step else session  # noqa: F821 - set in the first round
        constraints = {"constraints": asked.constraints} if "run_seed" in step else {}
        try:
            answer, heard = await table.take({**step, **session, **constraints})
        except errors.ConstraintsUnsatisfiable:
            asked, step = replace(asked, constraints={**asked.constraints, "forbidden_terms": []}), None
            continue
        except errors.TextNotAllowed:
            step = None
            continue
        judge(asked, answer)
        judge_stream(asked, heard, answer)
        if not learns:
            plain = {"constraints": {"language": asked.constraints["language"]}} if constraints else {}
            beside, _ = await twin.take({**step, **session, **plain})
            assert machines_word(answer) == machines_word(beside)
        METAS.append(answer["payload"]["meta"])
        turns += 1
        step = next_step(chance, answer, hostile_text(chance, asked.constraints["language"][:2], 6))
    assert turns == TURNS


METAS: list[Any] = []
"""What each turn says of how it was told."""
MADE: Counter[str] = Counter()
"""How often the model misbehaved, by its ways."""


def learns(machine: str) -> bool:
    """Whether a machine takes anything from a model's words."""
    return any(state.learn for state in machine_called(machine).definition.states.values())


thorough = settings(
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    print_blob=True,
    # The first example of a machine loads it.
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
@settings(thorough, max_examples=OFFLINE_EXAMPLES)
@given(asked())
def test_every_turn_arrives_offline_and_breaks_no_rule(asked):
    asyncio.run(play_out(asked, Offline(), learns=False))


@pytest.mark.slow
def test_every_turn_arrives_from_a_model_that_misbehaves():
    """And it did misbehave, and was heard as often."""
    METAS.clear()
    faulted()
    assert len(METAS) >= FAULTED_EXAMPLES * TURNS
    rungs = Counter(rung for meta in METAS for rung in meta["rungs"])
    tried = f"{len(METAS)} turns; calls by way: {dict(MADE)}; rungs: {dict(rungs)}"
    print(tried)  # noqa: T201 - the figures of the proof
    assert len(MADE) == len(WAYS) or len(MADE) > 12 >= SCALE, tried
    assert {"reask", "parsed", "offline"} <= rungs.keys(), tried


@settings(thorough, max_examples=FAULTED_EXAMPLES)
@given(asked())
def faulted(asked: Asked) -> None:
    """Turns told by a model that misbehaves."""
    chance = random.Random(asked.seed)  # noqa: S311 - no secret
    model = Faulty(chance, tuple(asked.constraints["forbidden_terms"]), asked.constraints["language"])
    narrator = OpenAI(PROFILES["fake"], transport=model, sleep=patient, steady=model.steady)
    asyncio.run(play_out(asked, narrator, learns=learns(asked.machine)))
    MADE.update(model.made)


# The judge itself.


@pytest.mark.parametrize(
    ("text", "term"),
    [("他掷骰\u200b子", "骰子"), ("ＤＩＣＥ!", "dice"), ("打開門", "开门"), ("a b", "A"), ("等…", "…"), ("12 3", "3")],
)
def test_the_judge_sees_a_term_however_it_is_spelled(text, term):
    assert holds(text, term)


@pytest.mark.parametrize(
    ("text", "term"), [("rulers", "rule"), ("12", "1"), ("骰 盅", "骰子"), ("abc", " "), ("abc", "\u200b")]
)
def test_the_judge_sees_no_term_where_none_stands(text, term):
    assert not holds(text, term)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "whole"),
    [
        ({"scene": "长" * 61}, "scene"),
        ({"scene": "他掷骰子"}, "forbidden"),
        ({"scene": "The lamp goes out, and nobody says a word."}, "language"),
        (
            {"options": [{"id": 1, "text": "走", "event_type": "A"}, {"id": 2, "text": "走 ", "event_type": "A"}]},
            "twins",
        ),
        ({"options": [{"id": 1, "text": "走", "event_type": "WIN"}]}, "route"),
        ({"options": [{"id": 1, "text": "走得非常非常远", "event_type": "A"}]}, "option"),
        ({"routing": {"next_event_type": "WIN", "allowed_event_types": ["A"], "should_end": False}}, "next"),
        ({"scene": " "}, "blank"),
    ],
)
def test_the_judge_refuses_what_breaks_a_rule(change, whole):
    constraints = {"language": "zh", "max_chars_scene": 60, "max_chars_option": 6, "forbidden_terms": ["骰子"]}
    good = {
        "scene": "灯灭了。",
        "options": [{"id": 1, "text": "走", "event_type": "A"}],
        "routing": {"next_event_type": "A", "allowed_event_types": ["A"], "should_end": False},
        "status": {},
    }
    one = Asked("haunted_house", 1, constraints, {})
    judge(one, {"session": {"ended": False}, "payload": good})
    with pytest.raises(AssertionError):
        judge(one, {"session": {"ended": False}, "payload": {**good, **change}})
    assert whole
