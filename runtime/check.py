"""The check of a machine: pure rules from a draft to findings, all of them at once.

Each rule says what is wrong, where, and the mend. `CODES` has one sentence per code;
machines/README.md repeats it, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runtime import prompt
from runtime.check_costs import costs
from runtime.check_expressions import expressed, told_when
from runtime.check_graph import graph
from runtime.check_migrations import migrations
from runtime.check_names import names
from runtime.check_properties import properties
from runtime.check_texts import worded
from runtime.draft import Draft
from runtime.errors import Finding

CODES: Mapping[str, str] = {
    "E001": "The file is not YAML.",
    "E002": "The file can't be read: not UTF-8, over 1 MiB, nested over 64 levels, or with control characters.",
    "E003": "A tab stands where YAML wants spaces.",
    "E004": "A key stands twice in one map.",
    "E005": "An anchor, alias or merge key, which are not part of the language.",
    "E006": "A YAML tag, which is not part of the language.",
    "E007": "The file is empty, isn't a map of plain keys, or holds a second document.",
    "E008": "A key has no value.",
    "E009": "A value that no machine can hold: an infinite number, or a text with U+0000.",
    "E010": "YAML read a value's leading `!` as a tag.",
    "E011": "YAML ended a value at its second quote mark.",
    "E012": "YAML read the `:` of `? :` as a key's.",
    "E013": "YAML ended a value inside {} at a comma or bracket.",
    "E014": "YAML began a comment at ` #`.",
    "E015": "YAML read `: ` inside a text as a key and its value.",
    "E016": "A full-width mark stands where YAML wants its own.",
    "E017": "A space is missing after `:` or `-`, or is a no-break one.",
    "E101": "A key that isn't part of the language here.",
    "E102": "A key that must be there is missing.",
    "E103": "No state has this name.",
    "E104": "A name isn't letters, digits and _ after a letter.",
    "E105": "A value has another form than is wanted: text, number, list, map.",
    "E106": "A value is none of the words that may stand here.",
    "E107": "A die isn't written as 1d20, 2d6+1, 30% or {pick: […]}.",
    "E108": "A payload's type isn't int, float, bool, str or text, with ? where optional.",
    "E109": "A language isn't a code like zh, en or pt-BR.",
    "E110": "A number or length is out of its range.",
    "E111": "A name belongs to the language of expressions, to the runtime or to the request.",
    "E112": "Two names are equal, or differ in case only.",
    "E113": "A member has the name of a variable.",
    "E114": "The free options' number can't be met.",
    "E115": "The machine's name isn't the file's.",
    "E120": "`of` is missing on an enum or set, or stands on another type.",
    "E121": "A default doesn't fit its variable.",
    "E122": "min or max doesn't fit its variable.",
    "E123": "A variable is secret and shown.",
    "E124": "A migration's value doesn't fit its variable.",
    "E201": "No state is final.",
    "E202": "A state can't be reached.",
    "E203": "A state can't reach a final one.",
    "E204": "An edge can never be taken.",
    "E205": "A final state has edges or options.",
    "E206": "A limit has no root must edge to a final state that reads it.",
    "E207": "A must edge waits for a choice, or reads payload, dice or option.",
    "E208": "Two edges of one state have one name.",
    "E209": "An event is neither declared nor the name of a state.",
    "E210": "An option has no target and no edges, or both.",
    "E211": "Two options of one state have one key.",
    "E212": "An ending stands on a state that isn't final.",
    "E213": "Two dice of one state and event have one name.",
    "E215": "The free options' event has no edge in the state.",
    "E216": "An option with edges says what its edges should say.",
    "E217": "An event has an empty list of edges.",
    "E218": "Two migrations are from one version.",
    "E219": "A migration is from the file's own version.",
    "E220": "A migration leads to a final state.",
    "E221": "A property has none, or several, of never, always and eventually.",
    "E222": "A property's within or when is missing, or goes with another rule.",
    "E301": "An expression can't be read.",
    "E302": "An expression reads a name or function that isn't there.",
    "E303": "Types don't fit.",
    "E304": "A guard or property isn't a bool.",
    "E305": "A literal is none of the members that it meets.",
    "E306": "No variable has this name.",
    "E307": "A secret would be told through a variable or ai_state that isn't secret.",
    "E308": "A secret takes a die that isn't secret.",
    "E309": "A set is compared with a list that it never equals.",
    "E310": "An expression divides by zero.",
    "E401": "No prompt has this name.",
    "E402": "A prompt is missing in a language that the machine offers.",
    "E403": "A prompt declares an input that doesn't exist.",
    "E404": "A prompt reads a secret.",
    "E405": "A prompt's file has no front matter, or no prompt's name.",
    **{code: text for code, text in prompt.CODES.items() if code.startswith("E")},
    "E419": "A prompt reads a key that an input doesn't have.",
    "E501": "A fragments file, field or group has another form than is wanted.",
    "E502": "A field isn't names joined by dots.",
    "E503": "A group has an unknown key.",
    "E504": '`at` isn\'t STATE, STATE.edge, "*.edge" or initial.',
    "E505": "`when` isn't an expression.",
    "E506": "`say` isn't a list of texts.",
    "E507": "A text of `say` can't be rendered.",
    "E508": "`once` isn't true or false.",
    "E509": "`words` isn't a map of maps of texts.",
    "E510": "A text stands twice in its group.",
    "E511": "`at` names a state or edge that isn't there.",
    "E512": "A field is no output of any prompt.",
    "E513": "A text reads a name that isn't there.",
    "E514": "A text or `words` reads a secret.",
    "E515": "`words` has a name or value that isn't there.",
    "E521": "A rating pack, or a list in it, has another form than is wanted.",
    "E522": "A rating pack names what is no rating.",
    "E523": "A term of a rating pack is empty, too long, no text, or holds a full-width comma or quote.",
    "E524": "A term stands twice in a rating pack.",
    "E531": "A text is missing in a language that the machine offers.",
    "E532": "An option's text is over its limit without a `short`, or its `short` is too long.",
    "E533": "A tell or a fragment's text is over its limit.",
    "E534": "A text is empty.",
    "E535": "Two options that are offered together have one text.",
    "E536": "A text of a machine holds a template, which is shown as it stands.",
    "W014": "A text may go on behind the ` #` at which YAML began a comment.",
    "W201": "Nothing reads a die.",
    "W202": "Checkpoints and `history.rewind` don't go together.",
    "W203": "Several options are offered and nothing reads the choice.",
    "W204": "A state can be left only with what a narration may not bring.",
    "W205": "Every edge of a state says suggest: false.",
    "W206": "An option leads on to several states, and its event has the name of the first.",
    "W207": "Every way on from a state that can be reached again is `once`.",
    "W208": "A property reads nothing that changes.",
    "W301": "A variable is set to a number beyond its range, or with a sign as if it were added.",
    "W302": "A text is compared with norm(…), and is none that norm gives.",
    "W401": "Nothing names a prompt.",
    "W402": "A prompt's outputs differ between languages.",
    **{code: text for code, text in prompt.CODES.items() if code.startswith("W")},
    "W412": "What changes from turn to turn stands before text that doesn't.",
    "W413": "limits.memory_tokens is less than one scene takes.",
    "W501": "A required output has no last resort among the fragments.",
    "W502": "Fragments are missing in a language that the machine offers.",
    "W503": "Fragments are in a language that the machine doesn't offer.",
    "W504": "Fragments tell an output that is no text.",
    "W505": "Nothing reads a file of the prompts folder.",
    "W521": "A rating pack is in a language that the machine doesn't offer.",
    "W522": "A term of a rating pack is one letter that stands in most texts.",
    "W532": "A text is in a language that the machine doesn't offer.",
    "W535": "Two options that may be offered together have one text.",
}
"""Every code of `edgewise check`, with one sentence each; E is a fault, W a warning."""


def check(draft: Draft) -> Iterator[Finding]:
    """Judge a draft by every rule.

    Where faulty parts were cut out of it, what is unused, unreachable or missing is not judged.
    """
    yield from names(draft)
    yield from migrations(draft)
    yield from properties(draft)
    if draft.is_whole:
        yield from graph(draft)
    yield from expressed(draft)
    yield from told_when(draft)
    yield from worded(draft)
    yield from costs(draft)
