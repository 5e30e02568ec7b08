"""A session's limits over HTTP: what it forbids, or its rating, stands in no text of any answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from served import Server, Web, runtime_of, serving, shipped

from runtime import loader
from runtime.terms import find_term

GRIM = """
machine: grim
title: {zh: 血腥之夜, en: A Gory Night}
language: zh
initial: {event: INIT, target: HALL, tell: {zh: 血腥味扑面而来。, en: A gory smell comes at you.}}
slots: {tone: 血腥}
context:
  hp: {type: int, default: 3, min: 0, max: 3, show: true, label: {zh: 血腥值, en: Gore}}
  gore: {type: bool, default: false, show: true}
ai_state: {title: output.title, memory_summary: output.memory_summary}
events: {SHOUT: {}}
states:
  HALL:
    label: {zh: 血 * 腥大厅, en: The gory hall}
    options:
      - key: look
        text: {zh: 看血腥的画, en: Look at the gory picture}
        short: {zh: 看画, en: Look}
        target: HALL
        tell: {zh: 画上一片血*腥。, en: The picture is gory.}
      - {key: lick, text: {zh: 血腥, en: Gory}, target: HALL, assign: {hp: hp - 1}}
      - {key: like, text: {zh: 血腥。血·腥, en: Gory gore}, target: HALL, assign: {gore: "true"}}
      - {key: leave, text: {zh: 离开, en: Leave}, target: OUT}
    on:
      SHOUT: [{guard: hp > 5, why: {zh: 太血腥了。, en: Too gory.}, target: HALL}]
  OUT: {type: final, label: {zh: 终, en: End}, ending: {title: {zh: 血腥收场, en: A Gory End}, good: false}}
"""
PACK = "PG: [离开]\n"
NAMES = {"gore"}
"""Names of the machine's own, which are no texts."""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    own = {"machines/own.yaml": GRIM.replace("machine: grim", "machine: own"), "prompts/own/rating.zh.yaml": PACK}
    machines = [*shipped().values(), loader.load({"machines/grim.yaml": GRIM}), loader.load(own)]
    with serving(runtime_of(*machines)) as serving_all:
        yield serving_all


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[Web]:
    with Web(server.url) as client:
        yield client


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a payload with its path; names that rules go by, and what meta tells, are none."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in {"routing", "outcome", "meta", "inputs", "event_type", "key", "kind", "id"}:
                yield from texts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from texts(inner, f"{path}.{index}")


def held(payload: Mapping[str, Any], terms: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(path, text) for path, text in texts(payload) if find_term(text, terms)]


def played(web: Web, machine: str, constraints: dict[str, Any]) -> list[Any]:
    """A session to its end: each of the first options, then the way out."""
    name = f"limits-{next(_numbers)}"
    begun = web.invoke(name, "INIT", session={"machine": machine}, constraints=constraints)
    return [begun, *(web.invoke(name, option=option) for option in (1, 2, 3, 4))]


@pytest.mark.parametrize(
    ("language", "limit", "terms"),
    [
        ("zh", {"forbidden_terms": ["血腥"]}, ("血腥",)),
        ("zh", {"content_rating": "PG"}, ("血腥",)),
        ("en", {"forbidden_terms": ["gory", "gore"]}, ("gory", "gore")),
        ("en", {"content_rating": "G"}, ("gory", "gore")),
    ],
)
def test_what_is_forbidden_stands_in_no_text_of_title_label_option_or_ending(web, language, limit, terms):
    answers = played(web, "grim", {"language": language, **limit})

    assert [held(answer["payload"], terms) for answer in answers] == [[]] * 5
    assert answers[-1]["session"]["ended"]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_option_is_dropped_and_none_reads_as_another(web, language):
    for answer in played(web, "grim", {"language": language, "content_rating": "PG"})[:-1]:
        options = [option["text"] for option in answer["payload"]["options"]]

        assert [option["key"] for option in answer["payload"]["options"]] == ["look", "lick", "like", "leave"]
        assert len(set(options)) == 4
        assert options[0] == {"zh": "看画", "en": "Look"}[language]


def test_every_text_that_gave_way_is_named_in_a_warning(web):
    warnings = [answer["payload"]["meta"]["warnings"] for answer in played(web, "grim", {"forbidden_terms": ["血腥"]})]

    told = " ".join(warnings[0])
    assert all(part in told for part in ("option 1", "option 2", "option 3", "tell", "status.hp.label"))
    assert "option 4" not in told
    assert any(warning.startswith("ending.title") for warning in warnings[-1])


def test_without_limits_everything_stands_as_it_was_written(web):
    begun, *_, ended = played(web, "grim", {})

    assert [option["text"] for option in begun["payload"]["options"]] == ["看血腥的画", "血腥", "血腥。血·腥", "离开"]
    assert begun["payload"]["meta"]["warnings"] == []
    assert ended["payload"]["ending"]["title"] == "血腥收场"


def test_a_machines_own_pack_takes_the_place_of_ours(web):
    begun, *_ = played(web, "own", {"content_rating": "PG"})

    texts = [option["text"] for option in begun["payload"]["options"]]
    assert texts[:3] == ["看血腥的画", "血腥", "血腥。血·腥"]
    assert find_term(texts[3], ("离开",)) is None


def test_a_rating_is_kept_for_the_turns_after_and_may_be_taken_back(web):
    name = f"limits-{next(_numbers)}"
    web.invoke(name, "INIT", session={"machine": "grim"}, constraints={"content_rating": "PG"})

    kept = web.invoke(name, option=2)
    free = web.invoke(name, option=2, constraints={"content_rating": None})

    assert held(kept["payload"], ("血腥",)) == []
    assert "血腥" in free["payload"]["options"][0]["text"]


def test_a_closed_edges_why_is_masked_too(web):
    name = f"limits-{next(_numbers)}"
    web.invoke(name, "INIT", session={"machine": "grim"}, constraints={"content_rating": "PG"})

    body = {"event": {"type": "SHOUT"}, "session": {"session_id": name}}
    refusal = web.raw(json.dumps(body).encode(), 409)

    assert refusal["why"] == "太＊＊了。"


def test_what_can_never_be_kept_is_refused_when_it_is_set_and_changes_nothing(web, server):
    name = f"limits-{next(_numbers)}"
    web.invoke(name, "INIT", session={"machine": "grim"})
    before = server.journal(name)
    body = {"event": {"type": "HALL"}, "session": {"session_id": name}, "payload": {"selected_option_id": 1}}
    body["constraints"] = {"forbidden_terms": ["＊", "*", "□", "·", "○", "—", "_", "-", "…", "x"]}

    refusal = web.raw(json.dumps(body).encode(), 422)

    assert refusal["error"] == "constraints_unsatisfiable"
    assert server.journal(name) == before


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["haunted_house", "mine_adventure", "ticket_triage"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_machines_that_ship_play_at_the_strictest_rating(web, machine, language):
    terms = loader.shipped_packs()[language].terms_at("G")
    name = f"limits-{next(_numbers)}"
    begin = {"session": {"machine": machine}, "constraints": {"language": language, "content_rating": "G"}}
    answer = web.invoke(name, "INIT", seed={"run_seed": "a"}, **begin)
    for _ in range(10):
        assert held(answer["payload"], terms) == []
        options = [option["text"] for option in answer["payload"]["options"]]
        assert not any(text.isdigit() for text in options)
        if answer["session"]["ended"] or not options:
            return
        answer = web.invoke(name, option=answer["payload"]["options"][0]["id"])
