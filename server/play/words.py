# ruff: noqa: E501 - a table of sentences, a line each
"""What the terminal itself says, in Chinese and English, and how it speaks of well-known outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

_SAID: Final[Mapping[str, tuple[str, str]]] = {
    "seed": ("种子", "Seed"),
    "session": ("会话", "Session"),
    "machine": ("机器", "Machine"),
    "version": ("版本", "version"),
    "language": ("语言", "Language"),
    "told_by": ("讲述", "Told by"),
    "again": ("重玩", "Play it again"),
    "also_in": ("也有：{options}", "also in: {options}"),
    "written": ("写好的片段，不是 AI 生成", "written fragments, not AI-generated"),
    "generated": ("AI 生成，模型 {model}", "AI-generated, by the model {model}"),
    "asked": ("{host} 上的模型 {model}，AI 生成", "the model {model} at {host}, AI-generated"),
    "resumed": ("接着玩，第 {turn} 回合。", "Going on at turn {turn}."),
    "time_left": ("剩余 {time}", "{time} left"),
    "yes": ("是", "yes"),
    "no": ("否", "no"),
    "nothing": ("无", "none"),
    "telling": ("讲述中……", "The story is being told…"),
    "retold": ("刚才那段改成了这样", "what was just told goes differently"),
    "untold": ("刚才讲的不算：这一步没有发生。", "What was just told does not count: the step was not taken."),
    "say_something": ("说点什么……", "say something…"),
    "or_say": ("或者说点什么……", "or say something…"),
    "keys": ("↑↓ 选择 · 回车确认 · 数字直选 · ? 帮助 · q 离开", "↑↓ choose · Enter takes · numbers take at once · ? help · q leaves"),
    "keys_text": ("↑↓ 选择 · 回车确认 · 直接打字说话 · /? 帮助 · Ctrl-D 离开", "↑↓ choose · Enter takes · type to speak · /? help · Ctrl-D leaves"),
    "ending": ("结局：{title}", "The end: {title}"),
    "good": ("好结局", "a good end"),
    "bad": ("坏结局", "a bad end"),
    "looking_back": ("你走过的路", "The way you came"),
    "turn_no": ("第 {turn} 回合", "turn {turn}"),
    "type_number": ("请输入 {numbers} 的选项编号；? 是帮助。", "Type the number of an option, {numbers}; ? is help."),
    "type_text": ("请输入文字；/? 是帮助。", "Type your words; /? is help."),
    "type_either": ("请输入 {numbers} 的选项编号，或输入文字；? 是帮助。", "Type the number of an option, {numbers}, or your words; ? is help."),
    "no_option": ("没有选项 {number}，只有 {numbers}。", "There is no option {number}, only {numbers}."),
    "no_options": ("现在没有选项。", "There are no options now."),
    "takes_no_words": ("选项 {number} 不带文字，只输入编号即可。", "Option {number} takes no words: type its number alone."),
    "takes_no_text": ("现在不收文字。", "No words are taken now."),
    "no_event": ("这里没有事件 {event}，可发送：{events}。", "There is no event {event} here; open are: {events}."),
    "type_event": ("请发送一个事件：{events}。", "Send an event: {events}."),
    "nothing_open": ("这里没有任何可走的一步：故事卡住了。", "No step is open here: the story is stuck."),
    "left": ("先到这里。", "Until next time."),
    "input_ended": ("输入到此为止，故事停在第 {turn} 回合。", "The input ended; the story stands at turn {turn}."),
    "go_on_with": ("接着玩：", "Go on with:"),
    "was_in_memory": ("这一局只存在内存里，不再保留。同样的开头：", "This session was kept in memory and is gone. The same beginning:"),
    "edge": ("走过的边", "Edge"),
    "dice": ("掷出", "Rolled"),
    "changes": ("变化", "Changed"),
    "next": ("可走的事件", "Open events"),
    "warning": ("提醒", "Warning"),
    "fallback": ("离线补写", "Told offline instead"),
    "tokens": ("用量", "Tokens"),
    "not_changed": ("无", "nothing"),
    "help": (
        "数字（或 ↑↓ 与回车）　选一个选项\n数字 空格 文字　　　　　选项带一句话（选项收文字时）\n文字　　　　　　　　　　收文字的地方直接说\n=文字　　　　　　　　　照原样说（例如 =3）\n/事件 [文字]　　　　　　按名字发送事件\nw　　　　　　　　　　　上一回合机器是怎么定的\nq、Ctrl-D、Ctrl-C　　　　离开",
        "a number (or ↑↓ and Enter)  choose an option\na number, a space, words    the option with words, where it takes some\nwords                       said as they are, where words are taken\n=words                      said as they are, whatever they look like (=3)\n/EVENT [words]              send an event by its name\nw                           what the machine settled last turn\nq, Ctrl-D, Ctrl-C           leave",
    ),
}  # fmt: skip


class Known(Struct, frozen=True):
    """How a well-known output is shown: its heading ('' for none) in both languages, and its style."""

    zh: str
    en: str
    style: str = "body"


KNOWN: Final[Mapping[str, Known]] = {
    "mainline.premise": Known("", ""),
    "mainline.player_role": Known("你是", "You are"),
    "mainline.primary_goal": Known("目标", "Your goal"),
    "mainline.stakes": Known("代价", "At stake"),
    "start_hint.how_to_play_next": Known("", "", "aside"),
    "scene": Known("", ""),
    "npc_line": Known("", "", "speech"),
    "decision.text": Known("", "", "aside"),
    "result.text": Known("", ""),
    "clue": Known("线索", "A clue"),
    "epilogue": Known("", ""),
    "novel_summary": Known("故事梗概", "The story in short"),
    "next_action": Known("下一步", "Next"),
    "question": Known("问题", "Question"),
    "reply": Known("回复", "Reply"),
    "closing_note": Known("结案说明", "Closing note"),
}
"""Outputs by their dotted path, or by its last name."""


def is_zh(language: str) -> bool:
    """Whether the terminal speaks Chinese for a session's language; for every other it speaks English."""
    return language.partition("-")[0].lower() == "zh"


def say(what: str, language: str, **facts: Any) -> str:
    """A sentence or word of the terminal's own."""
    zh, en = _SAID[what]
    return (zh if is_zh(language) else en).format(**facts)


def joined(parts: list[str], language: str) -> str:
    """A list in a line."""
    return ("、" if is_zh(language) else ", ").join(parts)


def bracketed(text: str, language: str) -> str:
    """The text in brackets, to go behind a word."""
    return f"（{text}）" if is_zh(language) else f" ({text})"


def labelled(label: str, text: str, language: str) -> str:
    """`label: text` with the language's colon."""
    return f"{label}：{text}" if is_zh(language) else f"{label}: {text}"
