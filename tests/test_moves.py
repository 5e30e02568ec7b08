"""What a player types, read against what was offered."""

from __future__ import annotations

from typing import Any

import pytest

from server.play.moves import Misread, Move, read


def offer(*events: str, inputs: tuple[str, ...] = (), following: str | None = None) -> dict[str, Any]:
    """An answer that offers an option for each event, and takes text for some."""
    options = [{"id": at, "text": f"go {event}", "event_type": event} for at, event in enumerate(events, 1)]
    allowed = [*dict.fromkeys([*events, *inputs, "LEAVE"])]
    return {
        "payload": {
            "options": options,
            "inputs": [{"event_type": event, "field": "text", "max_chars": 500} for event in inputs],
            "routing": {"next_event_type": following or allowed[0], "allowed_event_types": allowed},
        }
    }


def chosen(number: int, **more: str) -> dict[str, Any]:
    return {"payload": {"selected_option_id": number, **more}}


def said(event: str, text: str) -> dict[str, Any]:
    return {"event": {"type": event}, "payload": {"text": text}}


@pytest.mark.parametrize("line", ["2", " 2 ", "2.", "２", "2、\n"])
def test_a_number_chooses_an_option(line: str):
    assert read(line, offer("A", "B"), "en") == Move(chosen(2), "go B")


def test_words_go_with_an_option_that_takes_some():
    assert read("1 with thanks", offer("A", "B", inputs=("A",)), "en") == Move(
        chosen(1, text="with thanks"), "go A “with thanks”"
    )


def test_words_that_begin_with_a_number_are_words_where_words_are_taken():
    assert read("2 keys", offer("A", "B", inputs=("SAY",)), "en") == Move(said("SAY", "2 keys"), "“2 keys”")


def test_an_equals_sign_says_what_looks_like_something_else():
    assert read("=2", offer("A", "B", inputs=("SAY",)), "en") == Move(said("SAY", "2"), "“2”")


def test_free_text_is_for_the_event_that_no_option_stands_for():
    assert read("hello", offer("A", inputs=("A", "SAY")), "en") == Move(said("SAY", "hello"), "“hello”")


def test_of_several_such_events_the_next_one_takes_the_text():
    asked = offer(inputs=("SAY", "SING"), following="SING")

    assert read("hello", asked, "en") == Move(said("SING", "hello"), "“hello”")


@pytest.mark.parametrize("line", ["/LEAVE", "/leave"])
def test_an_event_is_sent_by_its_name(line: str):
    assert read(line, offer("A"), "en") == Move({"event": {"type": "LEAVE"}, "payload": {}}, "/LEAVE")


@pytest.mark.parametrize(
    ("line", "command"),
    [("q", "quit"), ("Q", "quit"), ("/quit", "quit"), ("?", "help"), ("？", "help"), ("w", "why"), ("/why", "why")],
)
def test_commands_are_heard_everywhere(line: str, command: str):
    assert read(line, offer("A"), "en") == command
    assert read(line, offer("A", inputs=("SAY",)), "en") == command


def test_a_word_of_the_terminal_is_a_players_word_where_words_are_taken():
    assert read("help", offer(inputs=("SAY",)), "en") == Move(said("SAY", "help"), "“help”")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("3", "There is no option 3, only 1-2."),
        ("0", "There is no option 0, only 1-2."),
        ("1 word", "Option 1 takes no words: type its number alone."),
        ("word", "Type the number of an option, 1-2; ? is help."),
        ("", "Type the number of an option, 1-2; ? is help."),
        ("=word", "Type the number of an option, 1-2; ? is help."),
        ("/A word", "No words are taken now."),
        ("/Z", "There is no event Z here; open are: A, B, LEAVE."),
    ],
)
def test_what_is_no_move_is_told(line: str, told: str):
    with pytest.raises(Misread) as misread:
        read(line, offer("A", "B"), "en")

    assert str(misread.value) == told


def test_where_words_are_taken_too_it_is_said():
    with pytest.raises(Misread, match="Type the number of an option, 1, or your words"):
        read("", offer("A", inputs=("SAY",)), "en")


def test_a_number_where_nothing_is_offered_is_told():
    with pytest.raises(Misread, match=r"There are no options now\. Type your words"):
        read("1", offer(inputs=("SAY",)), "en")
