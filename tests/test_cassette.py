"""The narrator of replays: a recorded answer is judged as a model's, and what it leaves out is told offline."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tasks import GOOD, task

from runtime.errors import NarrationInvalid
from runtime.narrators import Narration, Task, offline
from runtime.narrators.cassette import Cassette, tell
from runtime.narrators.release import Release, unheard
from runtime.narrators.scripted import Scripted


async def asked(cassette: Cassette, about: Task) -> Narration:
    return await cassette.narrate(about, Release(about, unheard))


async def test_what_was_put_in_is_told_and_can_be_learned_from():
    cassette = Cassette()
    cassette.put(GOOD)

    told = await asked(cassette, task())

    assert told.output == {"scene": GOOD["scene"], "mood": "tense"}
    assert told.learned == {"scene": GOOD["scene"], "mood": "tense", "tone": "grim"}
    assert (told.narrator, told.rungs, told.fallback, told.ai_generated) == ("cassette", ("cassette",), (), True)


async def test_without_an_answer_it_is_told_offline_as_ever():
    cassette = Cassette()
    cassette.put(GOOD)
    cassette.put(None)

    assert await asked(cassette, task()) == offline.tell(task())


@pytest.mark.parametrize("left_out", [{"scene"}, {"mood"}, {"scene", "options"}, {*GOOD}])
async def test_what_an_answer_leaves_out_is_told_offline_and_teaches_nothing(left_out: set[str]):
    told = tell(task(), {name: value for name, value in GOOD.items() if name not in left_out})

    assert told.output["scene"] == (offline.tell(task()).output["scene"] if "scene" in left_out else GOOD["scene"])
    assert ("scene" in told.learned) == ("scene" not in left_out)
    assert ("mood" in told.learned) == ("mood" not in left_out)


@pytest.mark.parametrize("left_out", [{"scene"}, {*GOOD}])
async def test_a_machine_that_refuses_still_hears_what_an_answer_left_out(left_out: set[str]):
    """The recording has only what passed: what was missing then was told offline then."""
    told = tell(refusing(), {name: value for name, value in GOOD.items() if name not in left_out})

    assert "scene" in told.output


def refusing() -> Task:
    about = task()
    definition = replace(about.machine.definition, on_failure="refuse")
    return replace(about, machine=replace(about.machine, definition=definition))


@pytest.mark.parametrize("wrong", [{"scene": 3}, {"scene": ["no", "text"]}])
async def test_what_breaks_the_rules_is_refused_where_the_machine_refuses(wrong: dict[str, Any]):
    with pytest.raises(NarrationInvalid):
        tell(refusing(), {**GOOD, **wrong})

    assert tell(task(), {**GOOD, **wrong}).fallback


async def test_it_keeps_what_it_was_asked_until_the_next_answer():
    cassette, about = Cassette(), task()
    cassette.put(GOOD)
    await asked(cassette, about)

    assert cassette.task is about
    cassette.put(None)
    assert cassette.task is None


async def test_it_may_ask_another_narrator_again():
    other = Scripted([{**GOOD, "scene": "It is quiet now."}])
    cassette = Cassette(other)
    cassette.put(GOOD)

    assert (await asked(cassette, task())).output["scene"] == "It is quiet now."
