"""The offline narrator: any machine told without a model, within every constraint, always the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offline_turns import Turn, begin, choose, play, task_of

from runtime import loader
from runtime.constraints import breaches, validator_for
from runtime.machine import Machine
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline, tell
from runtime.narrators.release import Release
from runtime.narrators.sample import smallest
from runtime.narrators.voices import VOICES
from runtime.session import Choice, Session

LANTERN = Path(__file__).parent / "projects" / "lantern"

TOWER = """
machine: tower
title: {zh: 高塔, en: The Tower}
language: zh
initial: {event: INIT, target: GATE, tell: {zh: 塔门开了一半, en: the gate stands half open}}
context:
  oil: {type: int, default: 9, min: 0, max: 9, label: {zh: 灯油, en: Oil}, show: true}
  bag: {type: set, of: [key, rope], label: {zh: 行囊, en: Bag}, show: true}
  lit: {type: bool, default: false, label: {zh: 点着灯, en: Lamp lit}, show: true}
  truth: {type: enum, of: [north, south], default: north, secret: true, label: {zh: 真相, en: Truth}}
  fate: {type: int, default: 0, min: 0, max: 99, label: {zh: 命数, en: Fate}}
slots: {who: 守塔人}
ai_state: {memory_summary: output.memory_summary}
states:
  GATE:
    label: {zh: 塔门, en: The gate}
    on: {STAIR: STAIR}
  STAIR:
    label: {zh: 石阶, en: The stair}
    options:
      - key: climb
        text: {zh: 往上爬, en: Climb}
        target: STAIR
        assign: {oil: oil - 3, fate: fate + 1}
        tell: {zh: 石阶在脚下发颤。, en: The stair shakes under you.}
      - key: search
        text: {zh: 翻找墙洞, en: Search the wall}
        target: STAIR
        assign: {bag: 'add(bag, key)', truth: south}
      - key: leap
        text: {zh: 纵身一跃, en: Leap}
        target: FALL
        tell: {zh: 风接住了你。, en: The wind takes you.}
      - {key: toss, text: {zh: 听风, en: Listen to the wind}, target: STAIR, dice: {wind: 50%}}
  FALL: {type: final, ending: {title: {zh: 坠落, en: The Fall}, good: false}}
"""


STORY = "{result: {text: text}, scene: scene}"


def tower(outputs: str = "{scene: scene}", *, zh: str = "", en: str = "", state: str = "") -> Machine:
    """The tower with one prompt of these outputs for every state, and with these fragments."""
    head = f"---\ndescription: test\ninputs: [title]\noutputs: {outputs}\n---\n"
    body = head + "system:\nTell it.\nuser:\n{{ title }}\n"
    machine = TOWER.replace("    label:", f"    prompt: turn\n{state}    label:")
    machine = machine.replace("{type: final,", "{type: final, prompt: turn,")
    files = {"machines/tower.yaml": machine, "prompts/tower/turn.prompty": body}
    fragments = {"prompts/tower/offline.zh.yaml": zh, "prompts/tower/offline.en.yaml": en}
    return loader.load(files | {path: textwrap.dedent(text) for path, text in fragments.items() if text})


def stair(machine: Machine, language: str = "zh", **more: Any) -> Session:
    """A session that stands on the stair."""
    session = begin(machine, language, **more).session
    return choose(machine, session, session.offer[0]).session


def chosen(machine: Machine, session: Session, key: str) -> Turn:
    return choose(machine, session, next(offer for offer in session.offer if offer.key == key))


@pytest.fixture(scope="module")
def lantern() -> Machine:
    return loader.load_project(LANTERN)["lantern_house"]


# --- a machine with no writing at all ---


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", ["高塔", "塔门开了一半。", "石阶在脚下发颤。", "灯油从9降到6。", "行囊里多了1样东西。", "继续"]),
        (
            "en",
            [
                "The Tower",
                "The gate stands half open.",
                "The stair shakes under you.",
                "Oil falls from 9 to 6.",
                "Bag: key gained.",
                "Continue",
            ],
        ),
    ],
)
def test_any_machine_is_told_from_its_own_words(language: str, expected: list[str]) -> None:
    machine = tower()
    first = begin(machine, language)
    session = choose(machine, first.session, first.session.offer[0]).session
    climbed, searched = chosen(machine, session, "climb"), chosen(machine, session, "search")

    title, opened, told, oil, bag, onward = expected
    assert title in first.narration.ai_state["memory_summary"]
    assert opened in first.texts["scene"]
    assert first.texts["options.continue"] == onward
    assert told in climbed.texts["scene"]
    assert oil in climbed.texts["scene"]
    assert bag in searched.texts["scene"]


def test_nothing_secret_and_nothing_hidden_is_told() -> None:
    machine = tower("{decision: {text: text}, result: {text: text}, scene: scene, epilogue: text}")
    told = msgspec.json.encode([turn.narration for turn in play(machine, turns=30)]).decode()

    assert not [word for word in ("真相", "north", "south", "命数") if word in told]


def test_the_choice_is_told_back_and_the_result_is_the_edges_tell() -> None:
    machine = tower("{decision: {text: text}, result: {text: text}, scene: scene}")
    turn = chosen(machine, stair(machine), "climb")

    assert "往上爬" in turn.texts["decision.text"]
    assert turn.texts["result.text"] == "石阶在脚下发颤。"
    assert "石阶在脚下发颤" not in turn.texts["scene"]
    assert "灯油从9降到6。" in turn.texts["scene"]


def test_without_a_tell_the_result_is_what_changed_and_then_how_the_dice_fell() -> None:
    machine = tower("{result: {text: text}, scene: scene}")
    session = stair(machine)

    assert chosen(machine, session, "search").texts["result.text"] == "行囊里多了1样东西。"
    lucky = VOICES["zh"].pools["lucky"] + VOICES["zh"].pools["unlucky"]
    assert chosen(machine, session, "toss").texts["result.text"] in lucky


def test_what_the_result_tells_the_scene_does_not_repeat() -> None:
    machine = tower("{result: {text: text}, scene: scene}")

    assert "行囊" not in chosen(machine, stair(machine), "search").texts["scene"]


@pytest.mark.parametrize(
    ("language", "parts"),
    [
        ("zh", ("“坠落”", "往上爬、翻找墙洞、纵身一跃", "灯油是6", "这一次，没能如愿。")),
        ("en", ("“The Fall”", "Climb; Search the wall; Leap", "Oil is 6", "Bag: key", "This time it was not to be.")),
    ],
)
def test_an_epilogue_cites_the_ending_the_choices_and_what_is_left(language: str, parts: tuple[str, ...]) -> None:
    machine = tower("{epilogue: text, novel_summary: text}")
    session = stair(machine, language)
    for key in ("climb", "search"):
        session = chosen(machine, session, key).session
    end = chosen(machine, session, "leap")

    assert [part for part in parts if part not in end.texts["epilogue"]] == []
    assert parts[0].strip("“”") in end.texts["novel_summary"]
    assert end.narration.options == {}


def test_the_outputs_of_the_first_turn_that_stories_have_are_all_told() -> None:
    machine = tower(
        "{mainline: {premise: text, player_role: text, primary_goal: text, stakes: text}, "
        "opening: {scene: scene, npc_line: text}, start_hint: {how_to_play_next: text}}"
    )
    texts = begin(machine).texts

    assert texts["mainline.premise"].startswith("《高塔》")
    assert texts["start_hint.how_to_play_next"] == "选“继续”，往下走。"
    assert all(texts[path] for path in ("mainline.stakes", "opening.scene", "opening.npc_line"))


def test_data_is_the_variable_of_that_name_or_the_smallest_that_is_valid() -> None:
    tags = "{type: array, items: {type: string}, minItems: 1}"
    machine = tower(f'{{oil: int, lit: bool, score: int, ratio: float, tags: {tags}, maybe: "int?"}}')

    assert begin(machine).narration.output == {"oil": 9, "lit": False, "score": 0, "ratio": 0.0, "tags": [""]}


def test_optional_texts_are_left_out() -> None:
    assert "npc_line" not in begin(tower('{scene: scene, npc_line: "text?"}')).narration.output


@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_sentence_of_its_own_comes_back_within_ten_turns(language: str) -> None:
    machine = tower("{decision: {text: text}, result: {text: text}, scene: scene}")
    turns = play(machine, 30, chooser=lambda session: session.offer[0], language=language)

    for path in ("decision.text", "result.text", "scene"):
        texts = [turn.texts[path] for turn in turns if path in turn.texts]
        twice = [text for index, text in enumerate(texts) if text in texts[max(0, index - 9) : index]]
        assert twice == [], path


def test_an_edge_told_again_says_so() -> None:
    machine = tower(STORY)
    first = chosen(machine, stair(machine, "en"), "climb")
    second = chosen(machine, first.session, "climb")

    assert first.texts["result.text"] == "The stair shakes under you."
    assert second.texts["result.text"] != first.texts["result.text"]
    assert second.texts["result.text"].lower().endswith("the stair shakes under you.")


# --- fragments ---


def test_a_fragment_of_the_edge_goes_before_the_tell_and_the_tell_before_one_for_anywhere() -> None:
    everywhere = "result.text: [{say: [万籁俱寂。]}]\n"
    edge = "result.text: [{say: [万籁俱寂。]}, {at: STAIR.climb, say: [你的膝盖先到。]}]\n"

    for fragments, expected in ((everywhere, "石阶在脚下发颤。"), (edge, "你的膝盖先到。")):
        machine = tower(STORY, zh=fragments)
        assert chosen(machine, stair(machine), "climb").texts["result.text"] == expected


def test_without_a_result_the_tell_stands_before_the_scene() -> None:
    machine = tower(zh="scene: [{at: STAIR.climb, say: [塔在转。]}]\n")

    assert chosen(machine, stair(machine), "climb").texts["scene"] == "石阶在脚下发颤。塔在转。"


def test_a_written_state_tells_its_text_as_it_stands_every_time() -> None:
    machine = tower(zh="scene: [{at: STAIR, say: [塔在转。]}, {say: [别处。]}]\n", state="    narrate: written\n")
    session = stair(machine)
    turns = [turn := chosen(machine, session, "climb"), chosen(machine, turn.session, "climb")]

    assert [turn.texts["scene"] for turn in turns] == ["塔在转。", "塔在转。"]


def test_words_speak_values_and_a_players_braces_stay_text() -> None:
    scene = "scene: [{say: ['{{ words.who }}带着{{ words.bag }}。']}]\n"
    machine = tower(zh=scene + "words: {bag: {key: 铜钥匙}, who: {x: 他}}\n")
    session = stair(machine, slots={"who": "{{ oil }}{% x %}"})

    assert chosen(machine, session, "search").texts["scene"] == "{{ oil }}{% x %}带着铜钥匙。"


def test_a_text_that_cannot_be_rendered_gives_way_to_the_next() -> None:
    machine = tower(zh="scene: [{at: GATE, say: ['{{ 10 // (oil - 9) }}步。']}, {say: [门轴生锈。]}]\n")

    assert begin(machine).texts["scene"] == "塔门开了一半。门轴生锈。"


def test_a_text_over_the_limit_gives_way_to_one_that_fits_and_else_loses_its_last_sentences() -> None:
    long = "很长的一句话就这样一直说下去没有尽头。第二句也一样长得没有尽头。"
    both = tower(STORY, zh=f"scene: [{{at: GATE, say: [{long}]}}, {{say: [门轴生锈。]}}]\n")
    one = tower(STORY, zh=f"scene: [{{say: [{long}]}}]\n")

    assert begin(both, max_chars_scene=25).texts["scene"] == "门轴生锈。"
    assert begin(one, max_chars_scene=25).texts["scene"] == "很长的一句话就这样一直说下去没有尽头。"


def test_a_forbidden_term_costs_its_sentence_before_a_letter_is_masked() -> None:
    machine = tower(STORY, zh="scene: [{say: [塔里有骨头。风很冷。]}]\n")

    assert begin(machine, forbidden_terms=("骨头",)).texts["scene"] == "风很冷。"


def test_ai_state_is_told_where_fragments_fit() -> None:
    machine = tower(zh="ai_state.memory_summary: [{at: GATE, say: [你站在塔前。]}]\n")

    assert begin(machine).narration.ai_state == {"memory_summary": "你站在塔前。"}


def test_an_optional_text_heard_lately_is_left_out_rather_than_repeated() -> None:
    machine = tower('{scene: scene, npc_line: "text?"}', zh="npc_line: [{at: STAIR, say: [下去。]}]\n")
    first = begin(machine).session
    turn = choose(machine, first, first.offer[0])
    turns = [turn, *(turn := chosen(machine, turn.session, "toss") for _ in range(10))]

    assert [index for index, turn in enumerate(turns) if "npc_line" in turn.texts] == [0, 10]


def test_no_sentence_comes_back_within_ten_turns_while_a_fresh_one_fits(lantern: Machine) -> None:
    groups = lantern.fragments["zh"].groups["scene"]
    general = {each for group in groups if not group.at and not group.when for each in group.ids}
    for seed in "abcdefgh":
        heard: dict[str, int] = {}
        for step, turn in enumerate(play(lantern, seed=seed)):
            lately = {each for each, when in heard.items() if step - when < 10}
            drawn = [each for group in groups for each in group.ids if each in turn.narration.said]
            assert lately.isdisjoint(drawn) or general <= lately
            heard |= dict.fromkeys(drawn, step)


# --- options ---


def test_an_option_over_the_limit_takes_its_short_text(lantern: Machine) -> None:
    session = begin(lantern, max_chars_option=3).session
    turn = choose(lantern, session, session.offer[0])

    assert turn.texts["options.listen"] == "细听"
    assert len(turn.narration.warnings) == len([key for key in turn.narration.options if key != "listen"])


def test_options_that_would_be_alike_are_told_apart() -> None:
    machine = tower()
    session = begin(machine, "en", max_chars_option=2, forbidden_terms=("1", "2", "a")).session
    texts = list(choose(machine, session, session.offer[0]).narration.options.values())

    assert len({text.casefold() for text in texts}) == len(texts) == 4
    assert all(0 < len(text) <= 2 for text in texts)


# --- what it promises of every turn ---


def answer_of(narration: Narration) -> dict[str, Any]:
    """A narration in the shape of a model's answer."""
    options = [{"key": key, "text": text} for key, text in narration.options.items()]
    more = {"ai_state": dict(narration.ai_state), "options": options}
    return {**narration.output, **{name: part for name, part in more.items() if part}}


def breaches_of(turn: Turn) -> list[Any]:
    task = turn.task
    return breaches(answer_of(turn.narration), validator_for(task.schema), task.prompt, task.offer, task.bounds)


def _terms(machine: Machine) -> list[str]:
    """Pieces of the machine's own texts: the terms that hurt most."""
    texts = " ".join(machine.files.values()).split()
    pool = "".join(VOICES["zh"].pools["stay"]) + " ".join(VOICES["en"].pools["stay"])
    spans = [(start, start + size) for start in (0, 1, 4) for size in (1, 2, 5)]
    found = [text[start:end] for text in [*texts, *pool.split()] for start, end in spans]
    return sorted({term.strip() for term in found if term.strip()})


LIMITS = {
    "max_chars_scene": st.integers(20, 240),
    "max_chars_option": st.integers(2, 40),
    "language": st.sampled_from(["zh", "en"]),
    "seed": st.text("abc123", min_size=1, max_size=6),
}


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_no_constraint_is_ever_broken(lantern: Machine, data: st.DataObject) -> None:
    plain = tower("{decision: {text: text}, result: {text: text}, scene: scene, epilogue: text}")
    machine = data.draw(st.sampled_from([lantern, plain]))
    limits = {name: data.draw(each, label=name) for name, each in LIMITS.items()}
    terms = tuple(data.draw(st.lists(st.sampled_from(_terms(machine)), max_size=12, unique=True), label="terms"))
    slots = {"npc_bias": data.draw(st.text(max_size=200), label="slot")}
    turns = play(machine, turns=12, forbidden_terms=terms, slots=slots, **limits)

    assert [breach for turn in turns for breach in breaches_of(turn)] == []


def test_the_same_turn_is_told_in_the_same_words(lantern: Machine) -> None:
    task = play(lantern, 6)[-1].task

    assert tell(task) == tell(task) == asyncio.run(Offline().narrate(task, Release(task))) == Offline().tell(task)


@pytest.mark.slow
def test_the_words_do_not_depend_on_the_process() -> None:
    program = (
        "from pathlib import Path; import hashlib, msgspec\n"
        "from runtime import loader\nfrom tests.offline_turns import play\n"
        f"machine = loader.load_project(Path({str(LANTERN)!r}))['lantern_house']\n"
        "plays = [play(machine, 10, seed=seed, language=lang) for seed in 'ab' for lang in ('zh', 'en')]\n"
        "told = [turn.narration for turns in plays for turn in turns]\n"
        "print(hashlib.sha256(msgspec.json.encode(told)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent.parent,
            env={"PYTHONHASHSEED": seed, "LC_ALL": "C", "PATH": ""},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(digests) == 1


def test_a_different_seed_tells_it_differently(lantern: Machine) -> None:
    plays = {tuple(turn.texts.get("scene") for turn in play(lantern, 4, seed=seed)) for seed in "abcdef"}

    assert len(plays) >= 5


def test_a_narration_says_that_no_model_wrote_it(lantern: Machine) -> None:
    narration = begin(lantern).narration

    assert (narration.narrator, narration.model, narration.ai_generated) == ("offline", None, False)
    assert (narration.attempts, narration.rungs, dict(narration.learned)) == (1, (), {})


def test_a_turn_is_told_in_under_a_millisecond(lantern: Machine) -> None:
    tasks: list[Task] = [turn.task for turn in play(lantern, 30)]
    tell(tasks[0])
    start = time.process_time()
    for task in tasks:
        tell(task)

    assert (time.process_time() - start) / len(tasks) < 0.001


def test_a_players_own_words_are_told_back() -> None:
    machine = tower("{decision: {text: text}, scene: scene}")
    session = stair(machine)
    task = task_of(machine, session, "STAIR", Choice("climb", "", ""), "灯在哪里？")

    assert "灯在哪里？" in tell(task).output["decision"]["text"]


# --- the smallest value ---


@pytest.mark.parametrize(
    "schema",
    [
        {"required": ["a"], "properties": {"a": {"type": "integer", "minimum": 3}, "b": {"type": "string"}}},
        {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "uniqueItems": True},
        {"type": "array", "items": {"type": "string"}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string", "minLength": 2}]},
        {"type": "integer", "exclusiveMinimum": 4, "multipleOf": 5},
        {"type": "integer", "maximum": -3},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]},
        {"allOf": [{"required": ["a"], "properties": {"a": {"const": 7}}}, {"required": ["b"]}]},
        {"enum": ["one", 2]},
        {"const": {"k": [1]}},
        {},
    ],
)  # fmt: skip
def test_the_smallest_value_is_valid(schema: dict[str, Any]) -> None:
    assert jsonschema_rs.is_valid(schema, smallest(schema))


def test_a_forbidden_member_of_an_enum_is_passed_over() -> None:
    assert smallest({"enum": ["dice", "cards"]}, ("dice",)) == "cards"
