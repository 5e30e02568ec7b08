"""What is told where no fragment fits: any machine, from titles, labels, `tell` and choices.

Each function gives drafts from the fullest to the shortest; the narrator tells the first that
the session's constraints let pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runtime.model import CONTINUE, Variable
from runtime.narrators.telling import TELL, Draft, Telling, written_as
from runtime.session import Change, Rolled, Value

Drafts = Iterator[Draft]
CHANGES = "~changes"
"""Marks a draft that tells the changes, so that no other field of the turn repeats them."""
LOOKED_BACK = 5
"""How many choices an epilogue names."""
REMEMBERED = 3
"""How many choices a memory summary names."""


def drafts_for(telling: Telling, path: str, kind: str) -> Drafts:
    """Drafts for one output of the prompt, best first; never none."""
    if kind == "scene":
        return scene(telling)
    if kind == "option":
        return iter((Draft(telling.voice.phrase("continue")),))
    tell_it = _KNOWN.get(path) or _KNOWN.get(path.rpartition(".")[2]) or other
    return tell_it(telling)


def scene(telling: Telling) -> Drafts:
    """The choice, what came of it and where it led, as far as no other output tells it."""
    choice = Draft("") if telling.outputs("decision") else chosen(telling)
    result = Draft("") if telling.outputs("result") else tell(telling)
    where, changes = standing(telling), changed(telling)
    if CHANGES in telling.heard:
        changes = Draft("")
    yield telling.joined((choice, result, where, changes))
    yield telling.joined((result, where, changes))
    yield telling.joined((result, where))
    yield from (each for each in (result, changes, where) if each.text)
    yield telling.pick("onward")


def decision(telling: Telling) -> Drafts:
    """The choice told back."""
    yield chosen(telling)
    yield telling.pick("went_on")


def result(telling: Telling) -> Drafts:
    """What came of it: the edge's tell, else what changed, else how the dice fell."""
    yield from (each for each in (tell(telling), changed(telling), luck(telling)) if each.text)
    yield telling.pick("quiet")


def tell(telling: Telling) -> Draft:
    """The edge's own words; heard within ten turns, they come with a word that says so."""
    words = telling.voice.sentence(telling.own(telling.task.edge.tell))
    identity = f"{TELL}{telling.task.outcome.edge}"
    if not words or telling.is_fresh(identity) or telling.is_written:
        return Draft(words, (identity,) if words else ())
    lead = telling.pick("again", "{0}")
    return Draft(telling.voice.led_in(lead.text, words), (identity, *lead.ids))


def chosen(telling: Telling) -> Draft:
    """What the player chose or said; '' at the very start."""
    task = telling.task
    if task.outcome.choice.text and task.outcome.choice.key != CONTINUE:
        return telling.pick("chose", task.outcome.choice.text.strip().rstrip(".。"))
    if text := str(task.inputs.get("text", "")).strip():
        return telling.pick("spoke", text)
    return telling.pick("went_on") if task.outcome.source else Draft("")


def standing(telling: Telling) -> Draft:
    """Where the session stands now."""
    task, label = telling.task, telling.label
    if telling.state.is_final:
        return Draft(telling.voice.phrase("ended", label) if label else telling.voice.phrase("ended_untitled"))
    if not label:
        return telling.pick("onward")
    if not task.outcome.source:
        return telling.pick("begin", label)
    return telling.pick("stay" if task.outcome.source == task.outcome.target else "enter", label)


def changed(telling: Telling) -> Draft:
    """What the rules changed in the variables that a player sees, in words."""
    sentences = [
        _change(telling, change, telling.shown[change.name])
        for change in telling.task.outcome.changes
        if change.name in telling.shown
    ]
    text = telling.voice.join(sentences)
    return Draft(text, (CHANGES,) if text else ())


def _change(telling: Telling, change: Change, variable: Variable) -> str:
    label, before, after = telling.named(change.name, variable), change.before, change.after
    if not label:
        return ""
    if isinstance(before, list) and isinstance(after, list):
        return _moved(telling, change.name, label, before, after)
    if isinstance(after, bool):
        return telling.voice.phrase("yes" if after else "no", label)
    if isinstance(before, int | float) and isinstance(after, int | float):
        phrase = "rose" if after > before else "fell"
        return telling.voice.phrase(phrase, label, written_as(before), written_as(after))
    word = telling.spoken(change.name, after) if variable.type == "enum" else ""
    return telling.voice.phrase("became", label, word) if word else telling.voice.phrase("changed", label)


def _moved(telling: Telling, name: str, label: str, before: list[str], after: list[str]) -> str:
    gained = [each for each in after if each not in before]
    lost = [each for each in before if each not in after]
    moves = (("gained", gained), ("lost", lost))
    return telling.voice.join(
        telling.voice.phrase(phrase, label, _things(telling, name, members)) for phrase, members in moves if members
    )


def _things(telling: Telling, name: str, members: list[str]) -> str:
    spoken = [telling.spoken(name, member) for member in members]
    return telling.voice.listed(spoken) if all(spoken) else telling.voice.phrase("things", len(members))


def luck(telling: Telling) -> Draft:
    """How the open dice fell, without a number; '' where none was rolled."""
    rolled = [die for die in telling.task.outcome.dice if not die.secret and not isinstance(die.value, str)]
    return telling.pick(_fortune(rolled[0])) if rolled else Draft("")


def _fortune(die: Rolled) -> str:
    if not isinstance(die.value, bool):
        return "chance"
    return "lucky" if die.value else "unlucky"


def facts(telling: Telling) -> str:
    """The shown variables as they stand, in one breath."""
    context = telling.task.session.context
    told = (_fact(telling, name, variable, context[name]) for name, variable in telling.shown.items())
    return telling.voice.phrase("facts_join").join(telling.clean(told))


def _fact(telling: Telling, name: str, variable: Variable, value: Value) -> str:
    label, voice = telling.named(name, variable), telling.voice
    if not label or value is False or value == "":
        return ""
    if value is True:
        return voice.phrase("is_so", label)
    if isinstance(value, list):
        return voice.phrase("holds", label, _things(telling, name, value)) if value else ""
    if isinstance(value, str):
        word = telling.spoken(name, value) if variable.type == "enum" else ""
        return voice.phrase("value", label, word) if word else ""
    return voice.phrase("value", label, written_as(value))


def epilogue(telling: Telling) -> Drafts:
    """The ending's title, the choices that led to it and what is left."""
    voice = telling.voice
    result = Draft("") if telling.outputs("result") else tell(telling)
    end, judged = standing(telling), Draft(_judged(telling))
    choices, left = telling.choices(LOOKED_BACK), facts(telling)
    back = Draft(voice.phrase("looked_back", voice.choices(choices)) if choices else "")
    last = Draft(voice.phrase("in_the_end", left) if left else "")
    yield telling.joined((result, back, last, judged, end))
    yield telling.joined((result, back, judged, end))
    yield telling.joined((result, judged, end))
    yield from (each for each in (end, judged) if each.text)


def _judged(telling: Telling) -> str:
    good = telling.state.ending.good if telling.state.ending else None
    return "" if good is None else telling.voice.phrase("good" if good else "bad")


def novel_summary(telling: Telling) -> Drafts:
    """The same told shorter, from outside."""
    voice, choices = telling.voice, telling.choices(LOOKED_BACK)
    if telling.title and telling.label and choices:
        yield Draft(voice.phrase("retold", telling.title, voice.choices(choices), telling.label))
    if telling.label:
        yield Draft(voice.phrase("retold_short", telling.label))
    yield Draft(voice.phrase("retold_bare"))


def memory_summary(telling: Telling) -> Drafts:
    """The story so far: title, where it stands, the last choices, what a player sees."""
    voice, left = telling.voice, facts(telling)
    recent = [told.choice for told in telling.task.session.recent][-REMEMBERED:]
    choices = telling.clean([*recent, telling.task.outcome.choice.text])[-REMEMBERED:]
    titled = voice.phrase("titled", telling.title) if telling.title else ""
    stands = voice.phrase("stands_at", telling.label) if telling.label else ""
    before = voice.phrase("before", voice.choices(choices)) if choices else ""
    now = voice.phrase("now", left) if left else ""
    everything = (titled, stands, before, now)
    for parts in (everything, everything[:3], (stands, before), everything[:2], (stands,)):
        if any(parts):
            yield Draft(voice.join(parts))
    yield telling.pick("onward")


def premise(telling: Telling) -> Drafts:
    """How it begins."""
    opened = Draft(telling.voice.phrase("premise", telling.title) if telling.title else "")
    yield telling.joined((opened, tell(telling)))
    yield from (opened,) if opened.text else ()
    yield Draft(telling.voice.phrase("premise_bare"))


def stakes(telling: Telling) -> Drafts:
    """What there is to lose: time, where it is limited."""
    limits = telling.task.machine.definition.limits
    yield Draft(telling.voice.phrase("stakes_timed" if limits.seconds or limits.turns else "stakes"))
    yield Draft(telling.voice.phrase("stakes"))


def what_next(telling: Telling) -> Drafts:
    """How to go on from here."""
    voice, offer = telling.voice, telling.task.offer
    if telling.state.is_final:
        yield Draft(voice.phrase("over"))
    elif len(offer) > 1:
        yield Draft(voice.phrase("pick_one"))
    elif offer:
        text = voice.phrase("continue") if offer[0].key == CONTINUE else offer[0].text
        yield Draft(voice.phrase("pick_only", text))
    else:
        yield Draft(voice.phrase("say_something"))
    yield telling.pick("onward")


def other(telling: Telling) -> Drafts:
    """Any other text: what is known of the turn."""
    yield from (each for each in (tell(telling), changed(telling)) if each.text)
    yield standing(telling)
    yield telling.pick("quiet")


def _phrase(name: str) -> Callable[[Telling], Drafts]:
    return lambda telling: iter((Draft(telling.voice.phrase(name)), telling.pick("quiet")))


_KNOWN: dict[str, Callable[[Telling], Drafts]] = {
    "decision.text": decision,
    "decision": decision,
    "result.text": result,
    "result": result,
    "epilogue": epilogue,
    "novel_summary": novel_summary,
    "memory_summary": memory_summary,
    "premise": premise,
    "player_role": _phrase("role"),
    "primary_goal": _phrase("goal"),
    "stakes": stakes,
    "how_to_play_next": what_next,
    "next_action": what_next,
    "npc_line": _phrase("no_one_speaks"),
    "scene": scene,
}
"""Outputs that many machines have, by their path or its last name."""
