"""What providers can do: found by one probe, kept in a file, and never asked for at a player's cost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_llm import FakeLLM, hangs, refuses, replies, says
from tasks import GOOD, task, tell

from runtime.narrators.openai import OpenAI, Profile
from runtime.narrators.probing import KEPT_DAYS, Known, held, learn, probe
from server.fake.reply import Reply

BLUE = {"colour": "blue"}
FENCED = "```json\n{}\n```"
TOO_LONG = replies(Reply(content="{", finish="length"))
CANNOT = refuses(400, {"message": "This response_format type is unavailable now"})
TODAY = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where what is known is kept; its folder isn't there yet."""
    return tmp_path / "data" / "providers.json"


@asynccontextmanager
async def narrator(llm: FakeLLM, file: Path | None, now: datetime = TODAY, **profile: Any) -> AsyncIterator[OpenAI]:
    """A narrator that was opened, as a server opens it."""
    known = Known(file, lambda: now) if file else None
    under_test = OpenAI(Profile(base_url=llm.url, model="asked-1", **profile), known=known)
    await under_test.open()
    try:
        yield under_test
    finally:
        await under_test.close()


def kept(file: Path) -> Any:
    """What the file says of providers; None where it isn't there."""
    return json.loads(file.read_text())["providers"] if file.exists() else None


def spoil(file: Path, raw: bytes) -> None:
    """Leave something else in the file's place."""
    file.parent.mkdir()
    file.write_bytes(raw)


def formats(llm: FakeLLM) -> list[str]:
    """Which response format each request asked for."""
    return [request.body.get("response_format", {}).get("type", "text") for request in llm.requests]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([says(BLUE)], "json_schema"),
        ([CANNOT, says(BLUE)], "json_object"),
        ([says({"sky": "blue"})] * 3, "json_object"),
        ([CANNOT, CANNOT, says("The sky is blue.")], "text"),
        ([refuses(422), refuses(422), says(FENCED), says(FENCED), says("blue")], "text"),
        ([says(FENCED), says(BLUE)], "json_schema"),
        ([refuses(400), says(BLUE)], "json_schema"),
    ],
    ids=["schema", "refused", "schema not kept to", "both refused", "fenced each time", "fenced once", "rejected once"],
)
async def test_the_best_format_that_holds_is_found_and_kept(
    llm: FakeLLM, file: Path, answers: list[Any], expected: str
) -> None:
    llm.will(*answers)

    async with narrator(llm, file) as openai:
        assert openai.standing()[0].response_format == expected

    assert kept(file) == {f"{llm.url} asked-1": {"on": "2026-11-23", "response_format": expected}}
    assert len(llm.requests) == len(answers)
    assert formats(llm)[-1] == expected


@pytest.mark.parametrize(
    "answers",
    [
        [TOO_LONG],
        [says(FENCED), refuses(503)],
        [says(FENCED), TOO_LONG],
    ],
    ids=["too long", "odd, then busy", "odd, then too long"],
)
async def test_one_odd_answer_shows_nothing_and_is_kept_nowhere(
    llm: FakeLLM, file: Path, answers: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It would hold a good provider to plain text for a month."""
    llm.will(*answers)

    async with narrator(llm, file) as openai:
        assert openai.standing()[0].response_format == "json_object"

    assert kept(file) is None
    assert "asking for json_object until the next start" in caplog.text


async def test_what_is_known_is_not_asked_again(llm: FakeLLM, file: Path) -> None:
    llm.will(CANNOT, says(BLUE))
    for _ in range(2):
        async with narrator(llm, file) as openai:
            assert openai.standing()[0].response_format == "json_object"

    assert len(llm.requests) == 2


async def test_another_model_is_another_question(llm: FakeLLM, file: Path) -> None:
    llm.will(says(BLUE))
    async with narrator(llm, file):
        pass
    async with narrator(llm, file, max_tokens=7) as openai:
        assert openai.standing()[0].response_format == "json_schema"
    other = OpenAI(Profile(base_url=llm.url, model="asked-2"), known=Known(file))
    await other.open()
    await other.close()

    assert [request.body["model"] for request in llm.requests] == ["asked-1", "asked-2"]


@pytest.mark.parametrize("days", [KEPT_DAYS + 1, -1], ids=["old", "of tomorrow"])
async def test_what_is_known_is_believed_for_a_while(llm: FakeLLM, file: Path, days: int) -> None:
    llm.will(says(BLUE))
    async with narrator(llm, file):
        pass
    async with narrator(llm, file, now=TODAY + timedelta(days=days)):
        pass

    assert len(llm.requests) == 2


async def test_a_format_that_is_settled_is_not_probed(llm: FakeLLM, file: Path) -> None:
    async with narrator(llm, file, response_format="json_schema") as openai:
        assert openai.standing()[0].response_format == "json_schema"

    assert llm.requests == []
    assert kept(file) is None


@pytest.mark.parametrize("failure", [refuses(401), refuses(503), hangs()], ids=["key", "busy", "silent"])
async def test_a_probe_that_fails_stops_no_start_and_is_kept_nowhere(
    llm: FakeLLM, file: Path, failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The safest format is asked for, with a warning; nobody guesses from a failure."""
    llm.will(failure)

    async with narrator(llm, file, first_token_s=0.2) as openai:
        assert openai.standing()[0].response_format == "json_object"

    assert "could not be found out" in caplog.text
    assert kept(file) is None
    assert len(llm.requests) == 1


async def test_all_are_probed_at_once_and_not_for_long(llm: FakeLLM, file: Path) -> None:
    llm.will(hangs())
    openai = OpenAI(*(Profile(base_url=llm.url, model=f"m{number}") for number in range(3)))

    async with asyncio.timeout(30):
        await learn(openai.providers, Known(file), within_s=0.3)
    await openai.close()

    assert len(llm.requests) == 3


@pytest.mark.parametrize("damage", [b"{", b"\xff", b'{"providers": {"x": 1}}', b"[]"])
async def test_a_broken_file_is_a_warning(
    llm: FakeLLM, file: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(file, damage)
    llm.will(says(BLUE))

    async with narrator(llm, file) as openai:
        assert openai.standing()[0].response_format == "json_schema"

    assert "providers.json can't be read" in caplog.text
    assert kept(file)


async def test_a_file_that_can_not_be_written_is_a_warning(
    llm: FakeLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").write_text("no folder")
    llm.will(says(BLUE))

    async with narrator(llm, tmp_path / "data" / "providers.json") as openai:
        assert openai.standing()[0].response_format == "json_schema"

    assert "could not be kept" in caplog.text


async def test_a_format_refused_to_a_player_is_remembered_over_a_start(llm: FakeLLM, file: Path) -> None:
    llm.will(says(BLUE), CANNOT, says(GOOD))
    async with narrator(llm, file) as openai:
        assert (await tell(openai, task())).rungs == ("json_schema", "json_object")
    async with narrator(llm, file) as openai:
        assert openai.standing()[0].response_format == "json_object"

    assert formats(llm) == ["json_schema", "json_schema", "json_object"]


async def test_without_a_file_nothing_is_asked_beforehand(llm: FakeLLM) -> None:
    async with narrator(llm, None) as openai:
        assert openai.standing()[0].response_format == "json_object"

    assert llm.requests == []


async def test_nothing_of_a_probe_is_the_projects_or_a_players(llm: FakeLLM, file: Path) -> None:
    llm.will(says(BLUE))
    async with narrator(llm, file):
        pass

    (message,) = llm.requests[0].body["messages"]
    assert "json" in message["content"]
    assert "colour" not in message["content"]


@pytest.fixture
def probing(llm: FakeLLM) -> Callable[..., Any]:
    """A provider's probe of every format."""

    async def tried(*answers: Any) -> list[Any]:
        llm.will(*answers)
        openai = OpenAI(Profile(base_url=llm.url, model="asked-1"))
        found = await probe(openai.providers[0], 10.0, every=True)
        await openai.close()
        return found

    return tried


async def test_every_format_is_tried_where_all_are_asked_for(probing: Callable[..., Any]) -> None:
    tries = await probing(CANNOT, says(BLUE), says("blue"))

    assert [(each.response_format, each.holds) for each in tries] == [
        ("json_schema", False), ("json_object", True), ("text", True),
    ]  # fmt: skip
    assert held(tries) == "json_object"
    assert all(each.first_token_ms > 0 for each in tries if each.holds)


async def test_no_key_stands_in_the_file_or_a_log(llm: FakeLLM, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    llm.will(says(BLUE))
    with caplog.at_level(logging.DEBUG):
        async with narrator(llm, file, key="sk-secret"):
            pass

    assert "sk-secret" not in f"{kept(file)} {caplog.text}"
