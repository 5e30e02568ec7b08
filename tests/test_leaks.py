"""What a model was told stays untold: passages of its instructions, secret words in them, marks."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from offline_turns import play
from served import shipped
from tasks import BOUNDS, GOOD, OFFER, task

from runtime.constraints import breaches, validator_for
from runtime.leaks import instructions, leaked
from runtime.prompt import parse_prompt, render
from runtime.quoting import Spoken

CANARY = "CANARY-7f3a9c"
ZH = (f"你是老宅的说书人，只负责把已经裁定的结果讲出来，不增不减，也不替玩家做任何决定。口令：{CANARY}。",)
EN = (f"You are the voice of the house. You only tell what the machine has settled, and add nothing. Code: {CANARY}.",)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (ZH, "他说：你是老宅的说书人，只负责把已经裁定的结果讲出来，不增不减，也不替玩家做任何决定。"),
        (ZH, "你是老宅的说书人 只负责把 已经裁定的结果\n讲出来 不增 不减 也不替玩家做 任何决定"),
        (
            ZH,
            "你是老宅的\u200b说书人，只负责把已经裁定的結果讲出来，不增不减，也不替玩家做任何决定".replace("結", "结"),
        ),
        (EN, "My rules: you are the voice of the house. You only TELL what the machine has settled, and add nothing!"),
        (
            EN,
            "ＹＯＵ ａｒｅ the voice of the house, you only tell what the machine has settled, and add nothing",
        ),
    ],
)
def test_a_passage_of_the_instructions_leaks_however_it_is_spaced_and_cased(told, text):
    assert leaked(text, told) == "a passage"


@pytest.mark.parametrize("told", [ZH, EN], ids=["zh", "en"])
@pytest.mark.parametrize(
    "said",
    [
        CANARY,
        CANARY.lower(),
        "C A N A R Y - 7 f 3 a 9 c",
        "CAN\u200bARY-7f3\u00ada9c",
        CANARY[::-1],
        codecs.encode(CANARY, "rot13"),
        CANARY.encode().hex(),
        base64.b64encode(CANARY.encode()).decode(),
        base64.b64encode(f"ab{CANARY}".encode()).decode(),
        "ＣＡＮＡＲＹ－７ｆ３ａ９ｃ",
    ],
)
def test_a_secret_word_leaks_alone_and_in_disguise(told, said):
    assert leaked(f"门后有人说：{said}", told) == "a secret word"


@pytest.mark.parametrize("told", [ZH, EN], ids=["zh", "en"])
def test_an_encoded_passage_leaks(told):
    plain = told[0].partition("。口令")[0].partition(" Code")[0].encode()
    assert leaked(base64.b64encode(plain).decode(), told) == "an encoded passage"
    assert leaked(plain.hex(), told) == "an encoded passage"


def test_a_mark_of_a_call_leaks():
    assert leaked("He says ⟦0123456789⟧hi⟦/0123456789⟧.", ()) == "a mark"


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (ZH, "说书人说：你是老宅的客人。"),
        (ZH, "只负责把已经裁定的结果讲出来"),
        (EN, "You are the voice of the house, says the wall."),
        (EN, "The canary sings. 7 doors, 3 keys, 9 candles."),
        (EN, GOOD["scene"]),
        ((), "anything at all"),
    ],
)
def test_a_short_phrase_is_no_leak(told, text):
    assert leaked(text, told) is None


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("name", ["haunted_house", "mine_adventure", "ticket_triage"])
def test_no_telling_of_the_machines_that_ship_is_a_leak(name, language):
    """Their worlds are described to the model, and told in the designers' own words."""
    machine = shipped()[name]
    checked = 0
    for turn in play(machine, language=language, seed="leaks"):
        told = instructions(turn.task.prompt, render(turn.task.prompt, turn.task.inputs), turn.task.inputs)
        assert told
        for text in (*turn.texts.values(), turn.task.inputs["tell"], *(offer.text for offer in turn.task.offer)):
            assert leaked(text, told) is None, text
            checked += 1
    assert checked > 1


def test_what_a_turn_brings_into_the_instructions_is_no_part_of_them():
    tell = "The lamp lands with a crack, and the thing in the hall folds up with a shriek that shakes the panes."
    front = {"inputs": ["tell", "slots"], "outputs": {"scene": "scene"}}
    body = (
        "system:\nTell exactly this and nothing else whatever happens: {{ tell }} For {{ slots.who }}.\nuser:\nGo on.\n"
    )
    prompt, faults = parse_prompt("p", None, "prompts/p.prompty", front, body, 1, {})
    assert prompt is not None, faults
    inputs = {"tell": tell, "slots": {"who": Spoken("Miss player-4711")}}

    told = instructions(prompt, render(prompt, inputs), inputs)

    assert leaked(tell, told) is None
    assert leaked("Dear player-4711!", told) is None


def test_a_leak_is_a_breach_that_repeats_nothing_of_it():
    asked = task(bounds=replace(BOUNDS, instructions=EN))
    answer = {**GOOD, "clue": f"The wall says {CANARY}."}

    (breach,) = breaches(answer, validator_for(asked.schema), asked.prompt, OFFER, asked.bounds)

    assert (breach.path, breach.rule) == ("clue", "leak")
    assert CANARY not in breach.message
    assert breaches(GOOD, validator_for(asked.schema), asked.prompt, OFFER, asked.bounds) == []
