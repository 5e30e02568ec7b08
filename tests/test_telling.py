"""A turn on a terminal while it is told: it reads as it would at once, and what is told otherwise is said to be."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from test_streaming import SENTENCES, Dictating, House, house_of

from runtime.errors import NarratorUnavailable
from server.play import passages
from server.play.remote import Remote
from server.play.screen import Screen
from server.play.table import Refused
from server.play.telling import Telling

COLUMNS = 32
SCENE = "The lamp goes out. Somebody breathes — very near you. It is you, and nobody else at all."
SCENE_ZH = "灯灭了🕯️，屋里只剩下呼吸。谁在那里？“是你。”那声音说，“一直都是你。”然后是很长的安静。"


class Paper(io.StringIO):
    """What is printed, which tells when anything is."""

    def __init__(self) -> None:
        super().__init__()
        self.is_written = asyncio.Event()

    def write(self, text: str) -> int:
        self.is_written.set()
        return super().write(text)

    @property
    def seen(self) -> list[str]:
        """The lines as a terminal shows them: a line that was erased is gone."""
        return re.sub(r"(?m)^.*\r\x1b\[K", "", self.getvalue()).split("\n")


class Stand:
    """A telling on paper, heard event by event: the next once the one before is printed."""

    def __init__(self, language: str = "en", choice: str = "") -> None:
        self.paper = Paper()
        self.language = language
        self.choice = choice
        self.screen = Screen(self.paper, self.paper, lambda *_: None, COLUMNS, is_coloured=False)
        self.telling = Telling(self.screen, language, choice)

    async def tell(self, *events: tuple[str, str, str], is_printed: bool = True) -> None:
        async def work() -> None:
            for event, path, text in events:
                self.paper.is_written.clear()
                self.telling.hear(event, {"path": path, "text": text})
                if is_printed:
                    await self.paper.is_written.wait()

        await self.telling.beside(work(), lambda: None)

    def end(self, **outputs: Any) -> None:
        """The answer comes: what is not on the screen is printed."""
        self.screen.show(self.telling.left({"payload": outputs}), self.language)


def at_once(language: str, choice: str = "", **outputs: Any) -> list[str]:
    """How the same answer is printed where nothing of it came before."""
    stand = Stand(language)
    stand.screen.show(passages.told({"payload": outputs}, language, choice), language)
    return stand.paper.seen


def delta(text: str, path: str = "scene") -> tuple[str, str, str]:
    return "field.delta", path, text


def cut(text: str, marks: str) -> list[str]:
    return re.findall(rf".*?[{marks}]+|.+", text)


@pytest.mark.parametrize(("language", "scene"), [("en", SCENE), ("zh", SCENE_ZH)])
@pytest.mark.parametrize("pieces", [lambda scene: cut(scene, ".?。？”"), list], ids=["sentences", "characters"])
async def test_a_text_that_comes_in_pieces_reads_as_it_would_at_once(
    language: str, scene: str, pieces: Callable[[str], list[str]]
):
    stand = Stand(language)
    outputs = {"scene": scene, "npc_line": scene, "clue": scene}

    await stand.tell(*(delta(piece, path) for path in outputs for piece in pieces(scene)))
    stand.end(**outputs)

    assert stand.paper.seen == at_once(language, **outputs)


async def test_each_sentence_stands_on_the_screen_before_the_next_is_told():
    stand = Stand()
    await stand.tell(delta("The lamp goes out. "))

    assert stand.paper.seen == ["", "  The lamp goes out.", ""]


async def test_a_turn_that_is_told_at_once_is_left_to_be_shown_as_a_whole():
    stand = Stand()
    await stand.tell(delta(SCENE), is_printed=False)

    assert not stand.telling.is_begun
    assert stand.paper.getvalue() == ""
    assert [each.text for each in stand.telling.left({"payload": {"scene": SCENE}})] == [SCENE]


async def test_what_was_not_streamed_follows():
    stand = Stand()
    await stand.tell(delta("Dark."))
    stand.end(scene="Dark. And cold.", clue="A key", count=3)

    assert [line for line in stand.paper.seen if line] == [
        "  Dark.", "  (what was just told goes", "  differently)", "  Dark. And cold.", "  A clue: A key", "  Count: 3",
    ]  # fmt: skip


async def test_a_text_that_is_replaced_is_told_again_under_a_word_that_says_so():
    stand = Stand("zh")
    await stand.tell(delta("灯亮着。"), ("field.replaced", "scene", "灯灭了。"), delta("天黑了。"))
    stand.end(scene="灯灭了。天黑了。")

    assert [line for line in stand.paper.seen if line] == [
        "  灯亮着。", "  （刚才那段改成了这样）", "  灯灭了。天黑了。",
    ]  # fmt: skip


async def test_a_choice_that_is_only_told_back_is_not_shown():
    stand = Stand(choice="Go up")
    await stand.tell(delta("You climb.", "result.text"))
    await stand.tell(delta("You choose: Go up.", "decision.text"), is_printed=False)
    stand.end(decision={"text": "You choose: Go up."}, result={"text": "You climb."})

    assert [line for line in stand.paper.seen if line] == ["  You climb."]


# A table at a server.


def going_on(house: House) -> dict[str, Any]:
    house.begin()
    return {"session": {"session_id": "s1"}, "payload": {"selected_option_id": 1}}


async def asked(url: str, request: dict[str, Any]) -> tuple[list[str], Any]:
    """What is heard of a request to a server, and the answer or the refusal."""
    heard: list[str] = []
    table = Remote(url)
    await table.open()
    try:
        return heard, await table.invoke(request, lambda event, data: heard.append(data.get("text", event)))
    except Refused as refused:
        return heard, refused
    finally:
        await table.close()


def test_a_server_is_heard_as_the_engine_is():
    with house_of(Dictating(*SENTENCES)) as house:
        request = going_on(house)
        house.let_all()
        heard, answer = asyncio.run(asked(house.server.url, request))

        assert heard[0] == "turn.accepted"
        assert (len(heard), "".join(heard[1:])) == (1 + len(SENTENCES), "".join(SENTENCES))
        assert answer == house.web.session("s1")["answer"]


def test_what_a_server_refuses_or_fails_at_is_refused():
    with house_of(Dictating(*SENTENCES)) as house:
        request = going_on(house)
        house.narrator.failure = NarratorUnavailable("away")
        house.let_all()
        heard, failed = asyncio.run(asked(house.server.url, request))
        nothing, refused = asyncio.run(asked(house.server.url, {**request, "event": {"type": "DANCE"}}))

    assert (heard[0], failed.error, failed.retry) == ("turn.accepted", "narrator_unavailable", "same")
    assert (nothing, refused.error) == ([], "unknown_event_type")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ('application/json\r\n\r\n{"code":0,"message":"","data":{"old":1}}', None),
        ('application/x-ndjson\r\n\r\n{"id":"","event":"new","data":{}}\n', "unreachable"),
        ("application/x-ndjson\r\n\r\nwhat?\n", "no_edgewise"),
        ("text/html\r\n\r\n<html>", "no_edgewise"),
    ],
)
async def test_a_server_that_has_no_streams_answers_plain_and_a_stranger_is_named(answer: str, error: str | None):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {answer}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, told = await asked(f"http://127.0.0.1:{port}", {})

    assert told == {"old": 1} if error is None else told.error == error
