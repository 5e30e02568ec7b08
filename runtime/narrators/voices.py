"""The offline narrator's own sentences, in Chinese and English: words only, no choices.

They stand in where a designer wrote no fragment, so they fit any machine: a story or a desk's
flow, a place or a task. `{0}`, `{1}` are labels, titles, option texts or numbers. A pool has at
least eleven sentences where a turn may need one each time, so that none comes back within ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct


class Voice(Struct, frozen=True, kw_only=True):
    """One language's sentences.

    `gap` stands between two sentences, `comma` between the items of a list and `last` before its
    last. `pools` are drawn from in turn; `phrases` are single ones. `lowered` are the words that
    lose their capital after a comma.
    """

    language: str
    gap: str
    comma: str
    last: str
    stop: str
    ends: str
    pools: Mapping[str, tuple[str, ...]]
    phrases: Mapping[str, str]
    lowered: frozenset[str] = frozenset()

    def join(self, sentences: Iterable[str]) -> str:
        """Sentences one after another, as the language spaces them; empty ones are left out."""
        return self.gap.join(filter(None, sentences))

    def listed(self, items: list[str]) -> str:
        """`a、b、c` or `a, b and c`."""
        return self.last.join(filter(None, (self.comma.join(items[:-1]), items[-1]))) if items else ""

    def sentence(self, text: str) -> str:
        """The text with a full stop where it has no end of its own; in English with a capital."""
        text = text.strip()
        if not text:
            return ""
        text = text[0].upper() + text[1:] if self.gap else text
        return text if text[-1] in self.ends else text + self.stop

    def phrase(self, name: str, *parts: object) -> str:
        """A single phrase with its parts put in."""
        return self.phrases[name].format(*parts)

    def choices(self, texts: list[str]) -> str:
        """Option texts one after another."""
        return self.phrases["choices_join"].join(texts)

    def led_in(self, lead: str, text: str) -> str:
        """A sentence behind a lead-in (`Again, {0}`): a plain word loses its capital, else a colon keeps it."""
        first, space, rest = text.partition(" ")
        if first in self.lowered:
            text = first.lower() + space + rest if ", {0}" in lead else text
        elif self.gap:
            lead = lead.replace(", {0}", ": {0}")
        return lead.replace("{0}", text)


ZH = Voice(
    language="zh",
    gap="",
    comma="、",
    last="、",
    stop="。",
    ends="。！？…”’）」』!?.—",
    pools={
        "begin": ("一切从“{0}”开始。", "你来到了“{0}”。", "最先出现的是“{0}”。", "起点是“{0}”。"),
        "enter": (
            "接下来，是“{0}”。",
            "事情走到了“{0}”。",
            "前面等着的，是“{0}”。",
            "“{0}”就在眼前。",
            "一切转向“{0}”。",
            "于是，到了“{0}”。",
            "现在轮到“{0}”。",
            "再往前，便是“{0}”。",
            "这一步通向“{0}”。",
            "眼前换成了“{0}”。",
            "到了“{0}”的时候。",
        ),
        "stay": (
            "眼下仍是“{0}”。",
            "“{0}”还没有过去。",
            "你还在“{0}”之中。",
            "这里依旧是“{0}”。",
            "“{0}”仍在继续。",
            "局面还停在“{0}”。",
            "此刻还是“{0}”。",
            "你没有离开“{0}”。",
            "“{0}”的下一刻到了。",
            "四下没有变，仍是“{0}”。",
            "“{0}”还没有放开你。",
        ),
        "onward": (
            "事情又往前走了一步。",
            "这一步已经落定。",
            "新的一刻开始了。",
            "一切照此往下走。",
            "眼前的情形又近了一分。",
            "没有什么停下来。",
            "又一页翻了过去。",
            "前面还有路。",
            "片刻之后，一切继续。",
            "该来的，正一点点来。",
            "你站定，看向下一步。",
        ),
        "chose": (
            "你选择了：{0}。",
            "你决定：{0}。",
            "这一步，你选的是：{0}。",
            "你的选择是：{0}。",
            "你拿定主意：{0}。",
            "于是你选了：{0}。",
            "这一回，你选：{0}。",
            "你打定主意：{0}。",
            "你想了想，选了：{0}。",
            "你这样决定：{0}。",
            "几条路里，你选了：{0}。",
        ),
        "spoke": ("你说：“{0}”", "你开口：“{0}”", "你答道：“{0}”", "你这样说：“{0}”"),
        "went_on": (
            "你继续向前。",
            "你没有停下。",
            "你往下走去。",
            "你让事情继续。",
            "你再往前一步。",
            "你迈出了下一步。",
            "你接着走。",
            "你跟着事情往下走。",
            "你照样往前。",
            "你等来了下一刻。",
            "你没有耽搁。",
        ),
        "again": (
            "又一次，{0}",
            "再一次，{0}",
            "还是这样：{0}",
            "和先前一样，{0}",
            "这一幕又重演：{0}",
            "照旧，{0}",
            "情形没有变：{0}",
            "一如刚才，{0}",
            "如此再三：{0}",
            "同样的事又来了：{0}",
        ),
        "lucky": ("这一次，运气站在你这边。", "事情刚好遂了你的愿。", "你赶上了好时候。", "偏偏就成了。"),
        "unlucky": ("这一次，运气没有站在你这边。", "事情没有遂你的愿。", "你差了那么一点。", "偏偏没有成。"),
        "chance": ("这一步的结果，谁也说不准。", "成败只差毫厘。", "结果就在一瞬间定了下来。", "一切凭这一下。"),
        "quiet": (
            "这一步落定了。",
            "事情就这样发生了。",
            "暂时没有别的变化。",
            "一切暂且如常。",
            "这一刻就这样过去了。",
            "没有更多的动静。",
            "结果还要往下看。",
            "事情按它的样子走着。",
            "眼下没有新的消息。",
            "就是这样，没有别的。",
            "此外，一切照旧。",
        ),
    },
    phrases={
        "ended": "结局：“{0}”。",
        "ended_untitled": "一切到此为止。",
        "good": "这是你一步一步走到的。",
        "bad": "这一次，没能如愿。",
        "looked_back": "回头看，你先后选了：{0}。",
        "in_the_end": "到最后，{0}。",
        "facts_join": "，",
        "choices_join": "、",
        "retold": "《{0}》：主角先后选了{1}，最后走到“{2}”。",
        "retold_short": "主角最后走到“{0}”。",
        "retold_bare": "主角走完了全程。",
        "titled": "《{0}》。",
        "stands_at": "此刻是“{0}”。",
        "before": "先前：{0}。",
        "now": "现在，{0}。",
        "premise": "《{0}》由此开始。",
        "premise_bare": "一切由此开始。",
        "role": "你是其中的主角，每一步由你选择。",
        "goal": "一步一步走到结局，让它成为你想要的那一个。",
        "stakes": "走过的每一步都算数。",
        "stakes_timed": "时间有限，走过的每一步都算数。",
        "pick_one": "从给出的选项里选一个，看看会发生什么。",
        "pick_only": "选“{0}”，往下走。",
        "say_something": "写下你要说的话，再往下走。",
        "over": "到这里就结束了。",
        "no_one_speaks": "（没有人说话。）",
        "continue": "继续",
        "rose": "{0}从{1}升到{2}。",
        "fell": "{0}从{1}降到{2}。",
        "became": "{0}变为{1}。",
        "changed": "{0}有了变化。",
        "yes": "{0}：是。",
        "no": "{0}：否。",
        "gained": "{0}里多了{1}。",
        "lost": "{0}里少了{1}。",
        "things": "{0}样东西",
        "value": "{0}是{1}",
        "holds": "{0}里有{1}",
        "holds_nothing": "{0}里什么也没有",
        "is_so": "{0}属实",
    },
)

_LOWERED = (
    "The A An You Your It Its In On At He She They His Her Their We There Then Something Someone Nothing "
    "From With No As Under Over Behind Before After Every Each All One Two This That These Those Only For "
    "By"
)
"""Words that no name begins with: articles, pronouns, prepositions."""

EN = Voice(
    language="en",
    gap=" ",
    comma=", ",
    last=" and ",
    stop=".",
    ends=".!?…”’)\"'—",
    lowered=frozenset(_LOWERED.split()),
    pools={
        "begin": ("It begins with “{0}”.", "First comes “{0}”.", "You start at “{0}”.", "The start is “{0}”."),
        "enter": (
            "Next comes “{0}”.",
            "It has come to “{0}”.",
            "What waits ahead is “{0}”.",
            "Before you now: “{0}”.",
            "Everything turns towards “{0}”.",
            "And so to “{0}”.",
            "Now it is “{0}”.",
            "One step further, and it is “{0}”.",
            "This step leads to “{0}”.",
            "The scene changes to “{0}”.",
            "You have reached “{0}”.",
        ),
        "stay": (
            "It is still “{0}”.",
            "“{0}” is not over yet.",
            "You are still in the middle of “{0}”.",
            "Nothing has moved on from “{0}”.",
            "“{0}” goes on.",
            "Things stand where they stood, at “{0}”.",
            "For now it remains “{0}”.",
            "You have not left “{0}”.",
            "The next moment of “{0}” arrives.",
            "All around you it is “{0}” as before.",
            "“{0}” has not let go of you.",
        ),
        "onward": (
            "Things move on by one step.",
            "That step is settled.",
            "A new moment begins.",
            "It all goes on from there.",
            "What lies ahead comes a little nearer.",
            "Nothing stands still.",
            "Another page is turned.",
            "There is more road ahead.",
            "A moment later, everything goes on.",
            "What has to come is coming, bit by bit.",
            "You steady yourself and look to the next step.",
        ),
        "chose": (
            "You chose: {0}.",
            "You decided: {0}.",
            "This time you picked: {0}.",
            "Your choice was: {0}.",
            "You made up your mind: {0}.",
            "And so you chose: {0}.",
            "For this step you took: {0}.",
            "You settled on it: {0}.",
            "You thought it over and chose: {0}.",
            "That was your decision: {0}.",
            "Of all the ways open, you took: {0}.",
        ),
        "spoke": ("You said: “{0}”", "You answered: “{0}”", "You spoke: “{0}”", "These were your words: “{0}”"),
        "went_on": (
            "You went on.",
            "You did not stop.",
            "You kept going.",
            "You let things run on.",
            "You took one more step.",
            "You took the next step.",
            "You carried on.",
            "You followed where it led.",
            "You moved ahead as before.",
            "You waited for the next moment, and it came.",
            "You lost no time.",
        ),
        "again": (
            "Once more, {0}",
            "Again, {0}",
            "Yet again, {0}",
            "As before, {0}",
            "It happens again: {0}",
            "The same again: {0}",
            "One more time, {0}",
            "Just as it was, {0}",
            "Nothing is different: {0}",
            "Like the last time, {0}",
        ),
        "lucky": ("This time luck was with you.", "It fell out your way.", "The moment was right.", "It came off."),
        "unlucky": (
            "This time luck was not with you.",
            "It did not fall out your way.",
            "You missed it by a little.",
            "It did not come off.",
        ),
        "chance": (
            "No one could have told how it would go.",
            "It hung on very little.",
            "It was settled in an instant.",
            "It might have gone either way.",
        ),
        "quiet": (
            "That step is done.",
            "So it happened.",
            "For now nothing else has changed.",
            "Everything is as it was, for the moment.",
            "The moment passed like that.",
            "Nothing more stirred.",
            "What comes of it remains to be seen.",
            "Things went their way.",
            "There is no other news yet.",
            "It was just that, and no more.",
            "Apart from that, all is as before.",
        ),
    },
    phrases={
        "ended": "The ending: “{0}”.",
        "ended_untitled": "Here it ends.",
        "good": "You came to it step by step.",
        "bad": "This time it was not to be.",
        "looked_back": "Looking back, these were your choices: {0}.",
        "in_the_end": "At the last, {0}.",
        "facts_join": "; ",
        "choices_join": "; ",
        "retold": "“{0}”: the choices were {1}, and the way led to “{2}”.",
        "retold_short": "In the end the way led to “{0}”.",
        "retold_bare": "The player went all the way to the end.",
        "titled": "“{0}”.",
        "stands_at": "It stands at “{0}”.",
        "before": "Before this: {0}.",
        "now": "Now {0}.",
        "premise": "“{0}” begins here.",
        "premise_bare": "Here it begins.",
        "role": "You stand at the centre of it, and every step is yours to choose.",
        "goal": "Go step by step to an ending, and make it the one you want.",
        "stakes": "Every step you take counts.",
        "stakes_timed": "Time is short, and every step you take counts.",
        "pick_one": "Choose one of the options and see what comes of it.",
        "pick_only": "Choose “{0}” to go on.",
        "say_something": "Write what you want to say, and go on.",
        "over": "This is where it ends.",
        "no_one_speaks": "(No one speaks.)",
        "continue": "Continue",
        "rose": "{0} rises from {1} to {2}.",
        "fell": "{0} falls from {1} to {2}.",
        "became": "{0} is now {1}.",
        "changed": "{0} has changed.",
        "yes": "{0}: yes.",
        "no": "{0}: no.",
        "gained": "{0}: {1} gained.",
        "lost": "{0}: {1} lost.",
        "things": "{0} more",
        "value": "{0} is {1}",
        "holds": "{0}: {1}",
        "holds_nothing": "{0}: nothing",
        "is_so": "{0}: yes",
    },
)

VOICES = {"zh": ZH, "en": EN}


def voice_for(language: str) -> Voice:
    """The voice of a language or of its base language; English where there is none."""
    return VOICES.get(language.partition("-")[0], EN)
