"""The narrator that answers from a list: what tests and demos put in a model's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tasks import GOOD, task, tell

from runtime import loader
from runtime.errors import NarrationInvalid, NarratorUnavailable
from runtime.narrators import Task
from runtime.narrators.scripted import Scripted
from runtime.session import Invoke
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play

LANTERN = Path(__file__).parent / "projects" / "lantern"


async def test_answers_are_told_in_order() -> None:
    """One item a turn; each is a narration as a model's answer would be."""
    scripted = Scripted([GOOD, {**GOOD, "scene": "It is quiet now."}])

    first, second = [await tell(scripted, task()) for _ in range(2)]

    assert first.output == {"scene": GOOD["scene"], "mood": "tense"}
    assert first.options == {"strike": "Hit it again", "flee": "Run for it"}
    assert first.learned == {"scene": GOOD["scene"], "mood": "tense", "tone": "grim"}
    assert (first.narrator, first.model, first.ai_generated, first.rungs) == (
        "scripted",
        "scripted",
        True,
        ("scripted",),
    )
    assert second.output["scene"] == "It is quiet now."


async def test_an_answer_may_be_made_of_the_task() -> None:
    """A function is called with the task that the flow gave."""

    def echo(telling: Task) -> dict[str, Any]:
        return {**GOOD, "options": [{"key": offer.key, "text": offer.text} for offer in telling.offer]}

    narration = await tell(Scripted([echo]), task())

    assert narration.options == {"strike": "Strike again", "flee": "Run for the door"}


async def test_an_exception_in_the_list_is_raised() -> None:
    """So that a test can have the world fail at the turn it names, and go on after."""
    scripted = Scripted([NarratorUnavailable("the model is away"), GOOD])

    with pytest.raises(NarratorUnavailable, match="the model is away"):
        await tell(scripted, task())

    assert (await tell(scripted, task())).output["scene"] == GOOD["scene"]


async def test_past_the_end_there_is_no_answer() -> None:
    """The error counts the turns and says what to add."""
    scripted = Scripted([GOOD])
    await tell(scripted, task())

    with pytest.raises(NarratorUnavailable, match="no answer for turn 2") as refused:
        await tell(scripted, task())

    assert refused.value.facts == {"rungs": ("scripted",), "attempts": 1}


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"options": GOOD["options"]}, "schema"),
        ({**GOOD, "scene": "There is blood on the lamp."}, r"scene \(term\)"),
        ({**GOOD, "scene": "The lamp lands. " * 6}, r"scene \(length\)"),
        ({**GOOD, "scene": "灯砸中了它，那东西发出一声尖啸。"}, r"scene \(language\)"),
        ({**GOOD, "options": GOOD["options"][:1]}, r"options\.flee \(options\)"),
    ],
    ids=["schema", "term", "length", "language", "options"],
)
async def test_an_answer_is_judged_as_a_models_would_be(bad: dict[str, Any], rule: str) -> None:
    """There is no second try: the first breach is the test's business."""
    scripted = Scripted([bad, GOOD])

    with pytest.raises(NarrationInvalid, match=f"answer 1 breaks the rules: .*{rule}"):
        await tell(scripted, task())


async def test_a_wish_is_dropped_with_a_warning() -> None:
    """As for a model: nothing that it writes can name an event."""
    narration = await tell(Scripted([{**GOOD, "routing": {"next_event_type": "END"}}]), task())

    assert narration.output.keys() == {"scene", "mood"}
    assert narration.warnings == ("ignored: routing",)


async def test_every_task_is_seen() -> None:
    """Also the one that failed: a test can look at what a narrator was told."""
    scripted = Scripted([GOOD])
    telling = task()

    await tell(scripted, telling)
    with pytest.raises(NarratorUnavailable):
        await tell(scripted, telling)

    assert scripted.seen == [telling, telling]


async def test_the_answers_stay_as_they_were() -> None:
    """A narration shares nothing with the list that it came from."""
    answers = [{"opening": {"scene": "A lamp burns."}, "options": GOOD["options"]}]

    narration = await tell(Scripted(answers), task(outputs={"opening": {"scene": "scene"}}))

    assert narration.output["opening"] == answers[0]["opening"]
    assert narration.output["opening"] is not answers[0]["opening"]


@pytest.fixture
async def lantern() -> Task:
    """The first turn of a real machine, as the flow briefs a narrator on it."""
    scripted = Scripted([{}], fill=True)
    machines = loader.load_project(LANTERN)
    runtime = Runtime(MemoryStore(), scripted, machines, "lantern_house")
    await runtime.open()
    await play(runtime, Invoke(event="INIT", run_seed="a", constraints={"language": "en"}))
    await runtime.close()
    return scripted.seen[0]


async def test_fill_has_offline_tell_what_an_answer_leaves_out(lantern: Task) -> None:
    """What was filled is listed by path and can't be learned from; what was written can."""
    told = await tell(Scripted([{"ai_state": {"title": "A Title of Its Own"}}], fill=True), lantern)
    whole = await tell(Scripted([{}], fill=True), lantern)

    assert told.learned == {"title": "A Title of Its Own"}
    assert told.ai_state["title"] == "A Title of Its Own"
    assert told.output == whole.output
    assert told.options == whole.options
    assert set(told.fallback) >= {"scene", *(f"options.{key}" for key in whole.options)}
    assert "ai_state.title" not in told.fallback
    assert told.ai_generated
    assert told.said == whole.said


async def test_an_empty_answer_with_fill_is_offlines_own(lantern: Task) -> None:
    """Nothing of it is machine-made, and nothing can be learned from it."""
    told = await tell(Scripted([{}], fill=True), lantern)

    assert told.learned == {}
    assert (told.narrator, told.ai_generated, told.model) == ("offline", False, None)
    assert told.fallback == ("*",)
    assert told.output


async def test_fill_leaves_what_is_wrong_to_the_machine(lantern: Task) -> None:
    """Filling is for what is missing; a wrong text is told offline, or refused where the machine says so."""
    wrong = {"scene": "灯灭了，四下里一片漆黑。", "ai_state": {"title": "A Title of Its Own"}}
    refusing = replace(lantern.machine, definition=replace(lantern.machine.definition, on_failure="refuse"))

    told = await tell(Scripted([wrong], fill=True), lantern)
    with pytest.raises(NarrationInvalid, match=r"scene \(language\)"):
        await tell(Scripted([wrong], fill=True), replace(lantern, machine=refusing))

    assert "scene" in told.fallback
    assert told.ai_state["title"] == "A Title of Its Own"


async def test_an_option_that_was_not_offered_is_passed_over(lantern: Task) -> None:
    """A model can't open an edge by naming one."""
    told = await tell(Scripted([{"options": [{"key": "fly", "text": "Fly"}]}], fill=True), lantern)

    assert told.options.keys() == {offer.key for offer in lantern.offer}
    assert told.learned == {}


async def test_without_fill_a_missing_part_is_a_fault() -> None:
    """The default: a list of answers is a list of whole answers."""
    with pytest.raises(NarrationInvalid):
        await tell(Scripted([{}]), task())
