"""Labels of machine-made text, as China's measures of 2025-09-01 ask: for people in words, for machines as data.

Every answer, every list and every export says whether a model told any of it, and which; a text that is
a model's only in part is labelled as one that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import edgewise
from conftest import tiny
from paid import MODEL, Paid
from served import Web, runtime_of, serving

from runtime.exported import Aigc
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.narrators.release import Release
from server.build import build_runtime
from server.settings import Settings, SettingsError, load

HALL = """
    language: zh
    title: {zh: 大厅, en: Hall}
    initial: {event: INIT, target: HALL}
    states:
      HALL:
        options:
          - {key: look, text: {zh: 四下看看, en: Look}, target: HALL}
          - {key: leave, text: {zh: 离开, en: Leave}, target: END}
      END: {type: final, ending: {title: {zh: 天亮, en: Dawn}, good: true}}
"""
LOOK, LEAVE = 1, 2
TELLERS = {"model": Paid(), "mixed": Paid(mixed=("scene",)), "offline": Offline()}
AIGC = {
    "Label": "1",
    "ContentProducer": "edgewise",
    "ProduceID": "s1",
    "ReservedCode1": "",
    "ContentPropagator": "",
    "PropagateID": "",
    "ReservedCode2": "",
}
FORMS = ("jsonl", "md", "html", "replay")


class InTurn:
    """A narrator that is another one each turn; the last one goes on."""

    name = "openai"

    def __init__(self, *names: str) -> None:
        self._tellers = [TELLERS[name] for name in names]

    async def open(self) -> None:
        """Nothing to get ready."""

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Let the next one tell it."""
        teller = self._tellers.pop(0) if self._tellers[1:] else self._tellers[0]
        return await teller.narrate(task, release)

    async def close(self) -> None:
        """Nothing to let go of."""


@contextmanager
def told(*tellers: str, language: str = "zh", producer: str = "edgewise") -> Iterator[Web]:
    """A session of as many turns as tellers, each told by its own; not ended."""
    runtime = runtime_of(tiny(HALL), narrator=InTurn(*tellers), producer=producer)
    with serving(runtime) as server, Web(server.url) as web:
        web.invoke("s1", "INIT", constraints={"language": language})
        for _ in tellers[1:]:
            web.invoke("s1", option=LOOK)
        yield web


def export(web: Web, form: str) -> Any:
    """An export as it is sent."""
    return web.http.get("/sessions/s1/export", params={"format": form})


def labels_of(form: str, text: str) -> list[dict[str, str]]:
    """The labels for machines that a file carries."""
    if form == "jsonl":
        label = json.loads(text.splitlines()[0])["AIGC"]
        return [label] if label else []
    if form == "md":
        return [front[name] for front in (front_of(text),) for name in front if name == "AIGC"]
    if form == "html":
        return [json.loads(value) for value in Metas(text).found.get("AIGC", [])]
    return [yaml.safe_load(label) for label in re.findall(r"^# AIGC: (.*)$", text, re.MULTILINE)]


def front_of(text: str) -> dict[str, Any]:
    """A Markdown file's front matter."""
    front: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return front


class Metas(HTMLParser):
    """A page's metas by name, and the words of its first label."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a meta."""
        about = dict(attrs)
        if tag == "meta" and about.get("name"):
            self.found.setdefault(str(about["name"]), []).append(str(about["content"]))


# Answers.


@pytest.mark.parametrize(("teller", "is_generated"), [("model", True), ("mixed", True), ("offline", False)])
def test_every_answer_says_whether_a_model_told_it_and_which(teller, is_generated):
    with told("offline", teller) as web:
        answers = [web.invoke("s1", option=LOOK), web.session("s1")["answer"]]
        regenerated = web.ask("POST", "/sessions/s1/regenerate", json={})["answer"]

        for answer in (*answers, regenerated):
            meta = answer["payload"]["meta"]
            assert (meta["ai_generated"], meta["model"]) == (is_generated, MODEL if is_generated else None)


def test_every_line_of_a_history_says_it_too():
    with told("model", "offline", "mixed") as web:
        web.ask("POST", "/sessions/s1/rewind", json={"to_turn": 1})

        lines = [(each.get("ai_generated"), each.get("model")) for each in web.turns("s1")]

    assert lines == [(True, MODEL), (False, None), (True, MODEL), (None, None)]


# Files.


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tellers", [("model",), ("mixed",), ("model", "offline"), ("offline", "offline", "mixed")])
def test_a_file_that_a_model_told_any_of_carries_the_label_once(form, tellers):
    with told(*tellers) as web:
        sent = export(web, form)

    assert labels_of(form, sent.text) == [AIGC]
    assert list(labels_of(form, sent.text)[0]) == list(AIGC)
    assert sent.headers["x-ai-generated"] == "true"


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_no_model_told_any_of_carries_none(form):
    with told("offline", "offline") as web:
        sent = export(web, form)

    assert labels_of(form, sent.text) == []
    assert sent.headers["x-ai-generated"] == "false"
    assert "AIGC" not in sent.text.replace('"AIGC":null', "")


def test_the_branch_of_a_replay_is_labelled_for_itself_and_the_rest_for_all():
    """A model told what was taken back: the story has it at its end, and the replay has not."""
    with told("offline", "model", "offline") as web:
        web.ask("POST", "/sessions/s1/rewind", json={"to_turn": 1})
        web.invoke("s1", option=LOOK)

        found = {form: labels_of(form, export(web, form).text) for form in FORMS}

    assert found == {"jsonl": [AIGC], "md": [AIGC], "html": [AIGC], "replay": []}


def test_every_telling_of_a_record_says_who_told_it():
    with told("model", "offline", "mixed") as web:
        header, *lines = map(json.loads, export(web, "jsonl").text.splitlines())

    assert (header["ai_generated"], header["models"]) == (True, [MODEL])
    metas = [line["body"]["answer"]["payload"]["meta"] for line in lines]
    assert [(meta["ai_generated"], meta["model"]) for meta in metas] == [(True, MODEL), (False, None), (True, MODEL)]
    assert [line["body"].get("spent", {}).get("calls") for line in lines] == [2, None, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tellers", "zh", "en"),
    [
        (("model",), f"AI 生成：文字由模型 {MODEL} 讲述", f"AI-generated: told by the model {MODEL}"),
        (("mixed",), f"AI 生成：文字由模型 {MODEL} 讲述", f"AI-generated: told by the model {MODEL}"),
        (("offline", "model"), f"部分文字由 AI 生成（模型 {MODEL}）", f"Partly AI-generated, by the model {MODEL}"),
        (("offline",), "不是 AI 生成", "not AI-generated"),
    ],
)
@pytest.mark.parametrize("form", ["md", "html"])
def test_a_story_begins_with_its_label_in_the_readers_language(form, tellers, zh, en):
    for language, words in (("zh", zh), ("en", en)):
        with told(*tellers, language=language) as web:
            text = export(web, form).text.replace("\\", "")
        first_turn = text.index("第 1 回合" if language == "zh" else "Turn 1")
        assert 0 < text.index(words) < first_turn


@pytest.mark.parametrize("form", ["md", "html"])
def test_a_story_of_both_says_at_each_turn_which_it_is(form):
    with told("model", "offline", "model") as web:
        text = export(web, form).text.replace("\\", "")

    assert len(re.findall(f"AI 生成，模型 {MODEL}", text)) == 2
    assert len(re.findall("不是 AI 生成", text)) == 1
    flags = re.findall(r'"ai_generated":(\w+)' if form == "md" else r'<article[^>]* data-ai-generated="(\w+)"', text)
    assert flags == ["true", "false", "true"]


# Whose it is.


def test_the_producer_is_who_runs_the_server():
    with told("model", producer="某某科技（上海）<公司>") as web:
        found = [labels_of(form, export(web, form).text) for form in FORMS]

    assert found == [[AIGC | {"ContentProducer": "某某科技（上海）<公司>"}]] * 4


def test_the_producer_is_a_setting(tmp_path: Path):
    given = load({}, environ={"EDGEWISE_LABEL_PRODUCER": "某某科技"}, dotenv=tmp_path / ".env")
    assert build_runtime(given).producer == "某某科技"
    assert Settings().label_producer == "edgewise"
    with pytest.raises(SettingsError, match="EDGEWISE_LABEL_PRODUCER"):
        load({}, environ={"EDGEWISE_LABEL_PRODUCER": "two\nlines"}, dotenv=tmp_path / ".env")


def test_the_label_names_its_fields_as_the_standard_does():
    assert Aigc(content_producer="edgewise", produce_id="s1").told == AIGC


# The terminal.


def play(web: Web, transcript: Path, language: str) -> tuple[str, str]:
    """What a play shows and what it writes down: three turns to the end."""
    ran = edgewise(
        "play", "--url", str(web.http.base_url), "--language", language, "--session", "s1",
        "--transcript", str(transcript), typed="1\n2\n",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, transcript.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(("language", "generated", "written"), [
    ("zh", f"AI 生成，模型 {MODEL}", "写好的片段，不是 AI 生成"),
    ("en", f"AI-generated, by the model {MODEL}", "written fragments, not AI-generated"),
])  # fmt: skip
def test_a_play_says_who_tells_whenever_that_changes(language, generated, written, tmp_path):
    """And its transcript bears the label for machines wherever a model begins to tell."""
    runtime = runtime_of(tiny(HALL), narrator=InTurn("offline", "mixed", "offline"))
    with serving(runtime) as server, Web(server.url) as web:
        shown, kept = play(web, tmp_path / "play.md", language)

    for text in (" ".join(shown.split()), kept):
        first, second, third = (text.index(written), text.index(generated), text.rindex(written))
        assert first < second < third
    assert [json.loads(told)["AIGC"] for told in re.findall(r"<!-- (.*) -->", kept)] == [AIGC]
