"""Whole sessions of the machines that ship, to each of their endings, in both languages; and how they read.

The ways to the endings are frozen in `stories/`; `python tests/playing.py` looks for them anew.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from conftest import SCALE
from playing import Play, Story, endings, played, stories, wandered
from served import shipped

from runtime.constraints import Bounds, bounds_of
from runtime.errors import OptionNotOffered
from runtime.expression import norm
from runtime.session import Constraints, Invoke
from runtime.turn import play

MACHINES = ("haunted_house", "mine_adventure", "ticket_triage")
LANGUAGES = ("zh", "en")
STORIES = [story for machine in MACHINES for story in stories(machine)]
WITHOUT_OPTIONS = {("ticket_triage", "INIT")}
"""States that only take free text."""
FAR = 10
"""Turns within which no sentence comes again."""
REPEATS = {"haunted_house": 0, "mine_adventure": 0.01}
"""The most sentences of a scene, as a share, that may come again: the sluice can outlast its fragments."""
TERMS = {"zh": r"骰子|扑克|点数|规则|[_{}]", "en": r"\b(dice|poker|score|rules|null)\b|[_{}]"}
"""What no player should read: a game's words, and a program's."""
NOT_TOLD = {"ai_state", "status", "outcome", "options", "inputs", "routing", "meta", "ending", "key_choices"}
"""What the engine puts under payload; the rest is the telling."""


def telling(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text that was told, by its path."""

    def walk(path: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(f"{path}.{name}".strip("."), inner)

    for name in payload.keys() - NOT_TOLD:
        yield from walk(name, payload[name])
    for option in payload["options"]:
        yield f"options.{option['id']}", option["text"]


def sentences(text: str) -> list[str]:
    """The sentences of a text in either language."""
    plain = re.sub(r"\b(Mrs|Mr|Dr|St)\.", r"\1", text)
    parts = re.findall(r"[^。！？!?.…]+[。！？!?.…]*[”’」）\"')]*", plain)
    return [part.strip() for part in parts if re.search(r"\w", part)]


def story_texts(payload: Mapping[str, Any]) -> list[str]:
    """The scene, the opening's or the epilogue: what a turn tells at length."""
    texts = (payload.get("scene"), payload.get("opening", {}).get("scene"), payload.get("epilogue"))
    return [text for text in texts if text]


def speaks(text: str, language: str) -> bool:
    """Whether a text's letters are those of a language; what a player said is quoted, in any language."""
    own = re.sub(r"“[^”]*”", "", text) or text
    han, latin = len(re.findall(r"[\u4e00-\u9fff]", own)), len(re.findall(r"[A-Za-z]", own))
    return han >= latin if language == "zh" else latin > 0 and han == 0


def scenes(told: Mapping[str, str]) -> list[str]:
    """The texts that are bound to a scene's length."""
    return [text for path, text in told.items() if path.rpartition(".")[2] == "scene"]


@cache
def roamed(machine: str, seed: str, language: str, policy: str = "any") -> list[Any]:
    """A session's answers, played once for all the tests that look at it."""
    return wandered(shipped()[machine], seed, language, policy)


def check_turn(answer: Mapping[str, Any], language: str, bounds: Bounds) -> None:
    """What holds at every turn of every session."""
    session, payload = answer["session"], answer["payload"]
    options, routing = payload["options"], payload["routing"]
    told = dict(telling(payload))

    assert all(text.strip() for text in told.values()), told
    assert all(speaks(text, language) for text in told.values()), told
    assert not [text for text in told.values() if re.search(TERMS[language], text, re.IGNORECASE)]
    assert [option["text"] for option in options if len(option["text"]) > bounds.max_chars_option] == []
    assert [text for text in scenes(told) if len(text) > bounds.max_chars_scene] == []

    assert [option["id"] for option in options] == list(range(1, len(options) + 1))
    assert len({option["text"] for option in options}) == len(options)
    assert routing["should_end"] is True if session["ended"] else routing["next_event_type"] is not None
    assert {option["event_type"] for option in options} <= set(routing["allowed_event_types"])
    assert routing["next_event_type"] in {*routing["allowed_event_types"], None}
    assert payload["meta"]["warnings"] == []
    check_choice(session, payload)


def check_choice(session: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
    """Two to four options, or one Continue, or an input; none once ended."""
    keys = [option.get("key") or option.get("kind") for option in payload["options"]]
    if session["ended"]:
        assert keys == payload["inputs"] == payload["routing"]["allowed_event_types"] == []
        assert payload["routing"]["next_event_type"] is None
        assert payload["ending"]["id"] == session["state"]
    elif (session["machine"], session["state"]) in WITHOUT_OPTIONS:
        assert keys == []
        assert payload["inputs"]
    else:
        assert 2 <= len(keys) <= 4 or keys == ["continue"]


def check_pair(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """What holds from one turn to the next."""
    promised, outcome = before["payload"]["routing"], after["payload"]["outcome"]
    assert after["session"]["turn"] == before["session"]["turn"] + 1
    assert (outcome["from"], outcome["to"]) == (before["session"]["state"], after["session"]["state"])
    assert after["event"]["type"] in promised["allowed_event_types"]
    if promised["should_end"] and after["event"]["type"] == promised["next_event_type"]:
        assert after["session"]["ended"]

    status = {name: shown["value"] for name, shown in before["payload"]["status"].items()}
    changed = {change["name"]: change for change in outcome["changes"]}
    assert {name: change["from"] for name, change in changed.items()} == {name: status[name] for name in changed}
    status |= {name: change["to"] for name, change in changed.items()}
    assert {name: shown["value"] for name, shown in after["payload"]["status"].items()} == status


def check_session(machine: str, answers: list[Any], language: str) -> None:
    """What holds in a whole session."""
    bounds = bounds_of(shipped()[machine], Constraints(language))
    for answer in answers:
        check_turn(answer, language, bounds)
    for before, after in itertools.pairwise(answers):
        check_pair(before, after)
    last = answers[-1]
    assert last["session"]["ended"]
    assert all(not answer["session"]["ended"] for answer in answers[:-1])
    assert {choice["turn"] for choice in last["payload"]["key_choices"]} <= set(range(1, len(answers) + 1))


# Every ending.


@pytest.mark.parametrize("machine", MACHINES)
def test_every_ending_has_its_story(machine):
    assert {story.ending for story in stories(machine)} == endings(shipped()[machine])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: f"{story.machine}-{story.ending}")
def test_a_story_comes_to_its_ending_and_holds_on_the_way(story: Story, language):
    answers = played(shipped()[story.machine], story, language)

    ending = answers[-1]["payload"]["ending"]
    declared = shipped()[story.machine].definition.states[story.ending].ending
    assert ending == {"id": story.ending, "title": declared.title[language], "good": declared.good}
    check_session(story.machine, answers, language)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: f"{story.machine}-{story.ending}")
def test_a_story_has_the_same_outcomes_in_every_language(story: Story):
    zh, en = (played(shipped()[story.machine], story, language) for language in LANGUAGES)
    assert [each["payload"]["outcome"] for each in zh] == [each["payload"]["outcome"] for each in en]
    assert [each["payload"]["routing"] for each in zh] == [each["payload"]["routing"] for each in en]


@pytest.mark.parametrize(
    "story", [each for each in STORIES if each.machine != "ticket_triage"], ids=lambda each: each.ending
)
def test_an_epilogue_is_told_and_the_choices_that_weighed_are_named(story: Story):
    answers = played(shipped()[story.machine], story, "en")
    offered = {option["text"] for answer in answers for option in answer["payload"]["options"]}
    last = answers[-1]["payload"]
    assert len(last["epilogue"]) > 40
    assert last["novel_summary"]
    assert last["key_choices"]
    assert {choice["text"] for choice in last["key_choices"]} <= offered


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("machine", MACHINES)
def test_any_session_holds_on_its_way(machine, language):
    for number in range(12 * SCALE):
        check_session(machine, roamed(machine, f"any-{number}", language), language)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("machine", sorted(REPEATS))
def test_no_sentence_of_a_scene_comes_again_within_ten_turns(machine, language):
    told, again = 0, []
    for number in range(12 * SCALE):
        recent: list[set[str]] = []
        for answer in roamed(machine, f"any-{number}", language):
            said = [part for text in story_texts(answer["payload"]) for part in sentences(text)]
            told += len(said)
            again += [part for part in said if any(part in earlier for earlier in recent[-FAR:])]
            recent.append(set(said))
    assert len(again) <= told * REPEATS[machine], again


# The haunted house: that it can be played again.


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_house_has_at_least_120_fragments_of_scenes(language):
    groups = shipped()["haunted_house"].fragments[language].groups["scene"]
    assert sum(len(group.say) for group in groups) >= 120


def test_the_house_has_at_least_ten_places_with_three_options_of_different_consequence():
    options = shipped()["haunted_house"].definition.states["DECISION"].options
    places: dict[str, list[Any]] = {}
    for option in options:
        for place in set(re.findall(r"place == (\w+)", guards(option))):
            places.setdefault(place, []).append(option)
    rich = [place for place, here in places.items() if len({consequence(option) for option in here}) >= 3]
    assert len(rich) >= 10


def guards(option: Any) -> str:
    """An option's guards, its edges' included."""
    return " ".join(str(edge.guard) for edge in (option, *option.edges))


def consequence(option: Any) -> str:
    """What choosing an option does: where it leads and what it changes, by each of its edges."""
    edges = option.edges or [option]
    return repr([(edge.target, sorted(edge.assign.items())) for edge in edges] + sorted(option.dice))


def test_the_house_has_at_least_four_endings_good_and_bad():
    definition = shipped()["haunted_house"].definition
    assert len(endings(shipped()["haunted_house"])) >= 4
    assert {state.ending.good for state in definition.states.values() if state.ending} >= {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["any", "first", "last"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_two_plays_share_at_most_a_third_of_their_sentences(language, policy):
    """28 pairs of seeds; the choices follow the seed, or are always the first option, or the last.

    Of all that either says, a third at most is said in both; of the shorter one's own, a quarter on average.
    """
    plays = [sentences_of(f"pair-{number}", language, policy) for number in range(8)]
    pairs = [*itertools.combinations(plays, 2)]
    of_both = [len(first & second) / len(first | second) for first, second in pairs]
    of_the_shorter = [len(first & second) / min(len(first), len(second)) for first, second in pairs]
    assert len(pairs) >= 20
    assert max(of_both) <= 1 / 3
    assert sum(of_the_shorter) / len(pairs) <= 1 / 4


def sentences_of(seed: str, language: str, policy: str) -> set[str]:
    """Every sentence of a play's scenes, its opening and its epilogue."""
    answers = roamed("haunted_house", seed, language, policy)
    return {part for answer in answers for text in story_texts(answer["payload"]) for part in sentences(text)}


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_most_turns_name_the_last_choice_or_a_changed_fact(language):
    """In the choice told back, in what came of it, or in the scene."""
    named = []
    for number in range(12):
        for before, after in itertools.pairwise(roamed("haunted_house", f"any-{number}", language)):
            if "scene" in after["payload"]:
                named.append(names_the_turn(before, after))
    assert sum(named) / len(named) >= 0.6


def names_the_turn(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    payload = after["payload"]
    told = " ".join((payload["decision"]["text"], payload["result"]["text"], payload["scene"])).casefold()
    choices = [option["text"].casefold() for option in before["payload"]["options"]]
    labels = [payload["status"][change["name"]]["label"].casefold() for change in payload["outcome"]["changes"]]
    return any(words in told for words in (*choices, *labels))


def test_the_truth_of_the_house_is_drawn_and_printed_nowhere():
    """Over seeds, the same choices find different clues; no answer holds the variable or its die."""
    outcomes = [roamed("haunted_house", f"pair-{number}", "zh", "first") for number in range(8)]
    assert "truth" not in str(outcomes)
    found = {tuple(answers[-1]["payload"]["status"]["clues"]["value"]) for answers in outcomes}
    assert len(found) >= 3


# The seed's limits, and harder ones.


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_session_keeps_to_limits_far_below_the_machines(machine, language):
    story = stories(machine)[0]
    answers = played(shipped()[machine], story, language, max_chars_scene=60, max_chars_option=8)
    for answer in answers:
        told = dict(telling(answer["payload"]))
        assert [text for text in scenes(told) if len(text) > 60] == []
        assert [option["text"] for option in answer["payload"]["options"] if len(option["text"]) > 8] == []
        assert all(text.strip() for text in told.values())


def test_a_short_name_in_latin_letters_is_no_part_of_another_word():
    text = "".join(file for name, file in shipped()["haunted_house"].files.items() if name.startswith("machines/"))

    sought = set(re.findall(r'norm\(payload\.text\)\.contains\("([^"]+)"\)', text))

    assert len(sought) >= 6
    assert [name for name in sought if name in norm("A warning at the beginning: the plan of the island.")] == []


def test_a_choice_where_words_are_wanted_is_told_which_event_to_send():
    session = Play(shipped()["ticket_triage"], "s")

    async def work() -> None:
        await session.begin()
        await play(session.runtime, Invoke(session_id="s", selected_option_id=1), "player")

    with pytest.raises(OptionNotOffered) as refused:
        asyncio.run(work())

    asked = session.answers[-1]["payload"]["inputs"][0]["event_type"]
    assert asked in refused.value.hint
