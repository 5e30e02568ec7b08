"""The rules about words: prompts (E40x), fragments (E51x) and texts in every language (E53x)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from runtime.check_graph import is_true
from runtime.check_reads import prompt_reads, said_reads
from runtime.constraints import Bounds, same_words
from runtime.draft import Draft, FragmentFile, PromptFile, own_path, texts
from runtime.errors import Finding
from runtime.expression import tokens
from runtime.fragments import WORDS, Fragments, Group
from runtime.machine import DEFAULT_PROMPTS, asked_ai_state
from runtime.model import INITIAL, Edge, Option, Path, State, Text
from runtime.prompt import TURN_INPUTS
from runtime.shape import did_you_mean

SHORT_CHARS = {"zh": 8, "ja": 8, "ko": 8}
SHORT_CHARS_ELSEWHERE = 14
"""The longest `short` of an option, in code points. Source: DESIGN, where keys stand."""
DATA_KINDS = frozenset({"int", "float", "bool", "json"})
"""Kinds of outputs that no text tells."""
TOLD_BY_RULES = frozenset({"decision.text", "result.text"})
"""Outputs that the offline narrator tells from the choice and its `tell`: they need no fragment."""

_FIELD = re.compile(r"\w+(\.\w+)*", re.ASCII)
_AT = re.compile(r"[\w.>*]+", re.ASCII)
_HOLES = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_SPOKEN = re.compile(r"\bwords\.(\w+)")


def worded(draft: Draft) -> Iterator[Finding]:
    """Every fault of prompts, fragments and texts."""
    yield from _prompt_names(draft)
    for file in draft.prompts:
        yield from _inputs(draft, file)
    yield from prompt_reads(draft)
    yield from _unused_prompts(draft)
    for fragments in draft.fragments:
        yield from _fragments(draft, fragments)
    yield from _fragment_languages(draft)
    yield from _pack_languages(draft)
    if {("title",), ("language",)} & draft.document.gone:
        return
    yield from _texts(draft)
    yield from _options(draft)


def _prompt_names(draft: Draft) -> Iterator[Finding]:
    found: dict[str, set[str]] = {}
    for file in draft.prompts:
        found.setdefault(file.name, set()).add(file.language)
    for path, name in _named_prompts(draft).items():
        if name not in found:
            folder = f"prompts/{draft.definition.machine}"
            mend = did_you_mean(
                name, found, f"Write {folder}/{name}.prompty, or delete `prompt`: there is a built-in one"
            )
            yield draft.at_value(path, "E401", f"no prompt '{name}' in {folder}{mend}")
            continue
        for language in draft.definition.languages:
            if not {language, language.partition("-")[0], ""} & found[name]:
                file_name = f"prompts/{draft.definition.machine}/{name}.{language}.prompty"
                yield draft.at_value(path, "E402", f"the prompt '{name}' is missing in {language}. Write {file_name}")


def _named_prompts(draft: Draft) -> dict[Path, str]:
    named: dict[Path, str] = {}
    for name, state in draft.definition.states.items():
        if state.prompt:
            named["states", name, "prompt"] = state.prompt
    for edge in draft.edges:
        if edge.prompt:
            named[own_path(draft, edge, "prompt")] = edge.prompt
    return named


def _inputs(draft: Draft, file: PromptFile) -> Iterator[Finding]:
    context = draft.definition.context
    written = file.document.value.get("inputs", []) if isinstance(file.document.value, dict) else []
    for index, name in enumerate(written if isinstance(written, list) else []):
        line, col = file.document.places.key(("inputs", index))
        if not isinstance(name, str) or name in TURN_INPUTS or name in draft.lost:
            continue
        if name not in context:
            known = [*TURN_INPUTS, *(each for each, variable in context.items() if not variable.secret)]
            mend = did_you_mean(name, known, "Inputs are the context's variables and what every turn has")
            yield Finding(file.document.file, line, col, "E403", f"no input '{name}'{mend}")
        elif context[name].secret:
            message = f"'{name}' is secret, and a prompt would tell it. Delete it from `inputs`"
            yield Finding(file.document.file, line, col, "E404", message)


def _unused_prompts(draft: Draft) -> Iterator[Finding]:
    named = set(_named_prompts(draft).values())
    first: dict[str, PromptFile] = {}
    for file in draft.prompts:
        other = first.setdefault(file.name, file)
        if file.name not in named and draft.is_whole:
            message = f"no state or edge names the prompt '{file.name}'. Name it, or delete the file"
            yield Finding(file.document.file, 1, 1, "W401", message)
        elif file.prompt and other.prompt and file.prompt.fields != other.prompt.fields:
            message = f"its outputs differ from those of {other.document.file}. Let every language have the same"
            yield Finding(file.document.file, *file.document.places.key(("outputs",)), "W402", message)


def _fragments(draft: Draft, file: FragmentFile) -> Iterator[Finding]:
    if file.language not in draft.definition.languages:
        offered = ", ".join(draft.definition.languages)
        message = (
            f"the machine doesn't offer '{file.language}', only {offered}. Add it to the title, or delete the file"
        )
        yield Finding(file.document.file, 1, 1, "W503", message)
    value = file.document.value if isinstance(file.document.value, dict) else {}
    fields = _fields(draft, file.language)
    places = dict.fromkeys([*draft.definition.states, *(edge.full_name for edge in draft.edges)])
    for field, groups in value.items():
        if field == WORDS or not _FIELD.fullmatch(field):
            continue
        if fields is not None and field not in fields:
            mend = did_you_mean(field, fields, f"Outputs are {', '.join(sorted(fields))}")
            yield _at(file, (field,), "E512", f"no prompt has the output '{field}'{mend}")
        for index, group in enumerate(groups if isinstance(groups, list) else []):
            if isinstance(group, Mapping):
                yield from _place(draft, file, (field, index, "at"), group.get("at"), places)
    yield from _words(draft, file, value.get(WORDS))
    yield from _unread(draft, file, value)
    if file.fragments is not None:
        yield from _says(draft, file, file.fragments)
        if file.is_whole:
            yield from _last_resorts(draft, file, file.fragments)


def _unread(draft: Draft, file: FragmentFile, fields: Iterable[str]) -> Iterator[Finding]:
    """Texts for outputs that are no texts: the offline narrator gives these a variable's value."""
    told = [prompt.fields for edge in draft.edges for prompt in draft.prompts_of(edge)]
    for field in fields:
        kinds = {each[field] for each in told if field in each}
        if kinds and kinds <= DATA_KINDS:
            kind = ", ".join(sorted(kinds))
            message = f"'{field}' is {kind}, and no text: nothing reads these. Delete them, or make the output a text"
            yield Finding(file.document.file, *file.document.places.key((field,)), "W504", message)


def _at(file: FragmentFile, path: Path, code: str, message: str) -> Finding:
    return Finding(file.document.file, *file.document.places.value(path), code, message)


def _fields(draft: Draft, language: str) -> dict[str, str] | None:
    """Every output that a turn in a language may have, with its kind; None where a prompt has faults."""
    if any(file.prompt is None for file in draft.prompts):
        return None
    fields = {f"ai_state.{name}": "text" for name in asked_ai_state(draft.definition)}
    for edge in draft.edges:
        for prompt in draft.prompts_of(edge):
            if prompt.language in {None, "", language, language.partition("-")[0]}:
                fields |= prompt.fields
    for built_in in _built_in(draft):
        fields |= built_in
    return fields


def _built_in(draft: Draft) -> Iterator[dict[str, str]]:
    for edge in draft.edges:
        state = draft.definition.states.get(edge.target)
        if state is not None and not edge.prompt and not state.prompt:
            outputs = DEFAULT_PROMPTS["final" if state.is_final else "turn"]["outputs"]
            if isinstance(outputs, dict):
                yield outputs


def _place(
    draft: Draft, file: FragmentFile, path: Path, written: object, known: Mapping[str, None]
) -> Iterator[Finding]:
    if not isinstance(written, str) or not _AT.fullmatch(written) or written in known or not draft.is_whole:
        return
    where = "edge" if "." in written else "state"
    source, _, key = written.partition(".")
    of_option = [edge.full_name for edge in draft.edges if edge.option == key and edge.source == source]
    if of_option:
        message = f"'{key}' is an option of '{source}', and no edge. Its edges are {', '.join(of_option)}"
        yield _at(file, path, "E511", message)
        return
    states = [*draft.definition.states, INITIAL]
    beside = [name for name in known if name.startswith(f"{source}.")] if where == "edge" else states
    mend = did_you_mean(written, beside or list(known), f"There are {', '.join(beside[:8])}" if beside else "")
    yield _at(file, path, "E511", f"no {where} '{written}'{mend}")


def _words(draft: Draft, file: FragmentFile, written: object) -> Iterator[Finding]:
    definition = draft.definition
    for name, values in written.items() if isinstance(written, Mapping) else ():
        path: Path = (WORDS, name)
        line, col = file.document.places.key(path)
        variable = definition.context.get(name)
        if variable is None and name not in definition.slots:
            if name not in draft.lost:
                yield Finding(file.document.file, line, col, "E515", _no_word(draft, name))
        elif variable is not None and variable.secret:
            yield Finding(
                file.document.file, line, col, "E514", f"'{name}' is secret, and words would tell it. Delete it"
            )
        elif variable is not None and variable.of and isinstance(values, Mapping):
            for value in (each for each in values if each not in variable.of):
                mend = did_you_mean(str(value), variable.of, f"There are {', '.join(variable.of)}")
                place = file.document.places.key((*path, value))
                yield Finding(file.document.file, *place, "E515", f"'{value}' is none of the members of '{name}'{mend}")


def _no_word(draft: Draft, name: str) -> str:
    known = [
        *draft.definition.slots,
        *(each for each, variable in draft.definition.context.items() if not variable.secret),
    ]
    return f"no slot or variable '{name}' to be spoken{did_you_mean(name, known)}"


def _says(draft: Draft, file: FragmentFile, fragments: Fragments) -> Iterator[Finding]:
    fields = _fields(draft, file.language) or {}
    for field, groups in fragments.groups.items():
        limit = _limit(draft, file.language, fields.get(field, ""))
        for group in groups:
            for index, say in enumerate(group.say):
                path: Path = (field, group.index, "say", index)
                yield from _said(draft, file, path, say.source, say.names)
                yield from said_reads(draft, file, path, say)
                length = len(_HOLES.sub("", say.source))
                if limit is not None and length > limit:
                    message = (
                        f"the text has {length} characters, and {limit} are allowed in {file.language}. Shorten it"
                    )
                    yield _at(file, path, "E533", message)


def _limit(draft: Draft, language: str, kind: str) -> int | None:
    """The longest text of a kind in a language, in code points; None where there is none."""
    if kind not in {"scene", "option", "text"}:
        return None
    definition = draft.definition
    scene, option = definition.max_chars("scene", language), definition.max_chars("option", language)
    return Bounds(language=language, max_chars_scene=scene, max_chars_option=option).max_chars(kind)


def _said(draft: Draft, file: FragmentFile, path: Path, source: str, names: Iterable[str]) -> Iterator[Finding]:
    context = draft.definition.context
    for name in sorted(names):
        if name in context and context[name].secret:
            message = f"'{name}' is secret, and a text would tell it. Let `when` choose between texts instead"
            yield _at(file, path, "E514", message)
        elif name not in TURN_INPUTS and name not in context and name != WORDS and name not in draft.lost:
            known = [*TURN_INPUTS, *context, WORDS]
            yield _at(file, path, "E513", f"no name '{name}' to be told{did_you_mean(name, known)}")
    for name in dict.fromkeys(_SPOKEN.findall("".join(_HOLES.findall(source)))):
        variable = context.get(name)
        if variable is None and name not in draft.definition.slots and name not in draft.lost:
            yield _at(file, path, "E513", _no_word(draft, name))
        elif variable is not None and variable.secret:
            yield _at(file, path, "E514", f"'{name}' is secret, and a text would tell it. Delete it")


def _last_resorts(draft: Draft, file: FragmentFile, fragments: Fragments) -> Iterator[Finding]:
    """Required outputs that no group is sure to tell."""
    told: dict[str, list[Edge]] = {}
    for edge in draft.edges:
        for prompt in draft.prompts_of(edge):
            if prompt.language in {None, "", file.language, file.language.partition("-")[0]}:
                for field in prompt.required:
                    told.setdefault(field, []).append(edge)
    for field, edges in told.items():
        kind = (_fields(draft, file.language) or {}).get(field)
        if field in TOLD_BY_RULES or kind not in {"scene", "text", "str"}:
            continue
        sure = _sure_places(draft, fragments.groups.get(field, ()))
        open_edges = [edge for edge in edges if not sure & {"", edge.target, edge.full_name}]
        if open_edges:
            where = ", ".join(dict.fromkeys(edge.target for edge in open_edges))
            message = f"'{field}' has no last resort for {where}. Add a group without `at` and `when`"
            yield _at(file, (field,), "W501", message)


def _sure_places(draft: Draft, groups: Iterable[Group]) -> set[str]:
    """Places where some group always fits: one without `when`, or one for each value of a variable."""
    lasting = [group for group in groups if not group.once]
    met: dict[tuple[str, str], set[str]] = {}
    for group in lasting:
        name, value = _asked(group)
        met.setdefault((group.at, name), set()).add(value)
    sure = {at for (at, name), values in met.items() if _values(draft, name) <= values}
    return sure | {group.at for group in lasting if group.when is None}


def _asked(group: Group) -> tuple[str, str]:
    """The variable and the one value that a `when` asks for; ('', '') where it asks otherwise."""
    words = [token.text for token in tokens(group.when.source)] if group.when else []
    if len(words) == len(("name", "==", "member")) and words[1] == "==":
        return words[0], words[2]
    return (words[-1], "".join(words[:-1])) if words and words[:-1] in ([], ["!"]) else ("", "")


def _values(draft: Draft, name: str) -> set[str]:
    """Every value of an enum or a bool, as `_asked` writes them."""
    variable = draft.definition.context.get(name)
    if variable is None or variable.type not in {"enum", "bool"}:
        return {"anything else"}
    return set(variable.of or ()) if variable.type == "enum" else {"", "!"}


def _fragment_languages(draft: Draft) -> Iterator[Finding]:
    present = {file.language for file in draft.fragments}
    for language in draft.definition.languages:
        if present and not {language, language.partition("-")[0]} & present:
            file = draft.fragments[0].document.file
            message = f"there are no fragments in {language}, which the machine offers. Write offline.{language}.yaml"
            yield Finding(file, 1, 1, "W502", message)


def _pack_languages(draft: Draft) -> Iterator[Finding]:
    offered = draft.definition.languages
    for file in draft.packs:
        if file.language.partition("-")[0] not in {each.partition("-")[0] for each in offered}:
            message = f"the machine doesn't offer '{file.language}', only {', '.join(offered)}. Delete the file"
            yield Finding(file.document.file, 1, 1, "W521", message)


def _texts(draft: Draft) -> Iterator[Finding]:
    languages = draft.definition.languages
    for path, key, text in texts(draft):
        yield from _blank(draft, path, text)
        yield from _templates(draft, path, text)
        if isinstance(text, str):
            if len(languages) > 1:
                example = ", ".join(f"{language}: …" for language in languages)
                offered = " and ".join(languages)
                message = f"this text is for one language, and the machine offers {offered}. Write {{{example}}}"
                yield draft.at_value(path, "E531", message)
        else:
            yield from _languages(draft, path, text)
        if key == "tell":
            yield from _tells(draft, path, text)


def _written(path: Path, text: Text) -> dict[Path, str]:
    """A text's own words by their place, in every language that it has."""
    return {path: text} if isinstance(text, str) else {(*path, language): each for language, each in text.items()}


def _templates(draft: Draft, path: Path, text: Text) -> Iterator[Finding]:
    for where, each in _written(path, text).items():
        hole = _HOLES.search(each)
        if hole:
            folder = f"prompts/{draft.definition.machine}"
            message = f"'{hole.group()}' would be shown as it stands: only prompts and fragments have templates"
            yield draft.at_value(
                where, "E536", f"{message}. Say it in {folder}/offline.{draft.definition.language}.yaml"
            )


def _blank(draft: Draft, path: Path, text: Text) -> Iterator[Finding]:
    for where, each in _written(path, text).items():
        if not each.strip():
            mend = "Write one" if path[-1] in {"text", "title"} or "kinds" in path else "Write one, or delete it"
            yield draft.at_value(where, "E534", f"this text is empty, so a player would read nothing. {mend}")


def _languages(draft: Draft, path: Path, text: Mapping[str, str]) -> Iterator[Finding]:
    languages = draft.definition.languages
    for language in languages:
        if language not in text and (*path, language) not in draft.document.gone:
            yield draft.at_key(
                path, "E531", f"'{path[-1]}' is missing in {language}, which the machine offers. Add {language}: …"
            )
    for language in text:
        if language not in languages:
            message = f"the machine doesn't offer '{language}'. Add it to the title, or delete it"
            yield draft.at_key((*path, language), "W532", message)


def _said_in(path: Path, text: Text, languages: Iterable[str]) -> Iterator[tuple[Path, str, str]]:
    for language in languages:
        if isinstance(text, str):
            yield path, language, text
        elif language in text:
            yield (*path, language), language, text[language]


def _tells(draft: Draft, path: Path, text: Text) -> Iterator[Finding]:
    for where, language, said in _said_in(path, text, draft.definition.languages):
        limit = draft.definition.max_chars("scene", language)
        if len(said) > limit:
            message = f"the tell has {len(said)} characters, and a scene in {language} has {limit}. Shorten it"
            yield draft.at_value(where, "E533", message)


def _options(draft: Draft) -> Iterator[Finding]:
    for name, state in draft.definition.states.items():
        base: Path = ("states", name, "options")
        for index, option in enumerate(state.authored):
            yield from _option(draft, (*base, index), option)
        for kind, text in state.kinds.items():
            yield from _fits(draft, (*base, "kinds", kind), text, None)
        yield from _alike(draft, base, state)


def _alike(draft: Draft, base: Path, state: State) -> Iterator[Finding]:
    """Options and kinds of one state that a player can't tell from each other."""
    written: list[tuple[Path, Text, Option | None]] = [
        ((*base, index, "text"), option.text, option) for index, option in enumerate(state.authored)
    ]
    written += [((*base, "kinds", kind), text, None) for kind, text in state.kinds.items()]
    first: dict[tuple[str, str], tuple[Path, Option | None]] = {}
    told: set[Path] = set()
    for path, text, option in written:
        for where, language, said in _said_in(path, text, draft.definition.languages):
            before, other = first.setdefault((language, same_words(said)), (where, option))
            if before != where and where not in told and said.strip() and not _exclude(other, option):
                told.add(where)
                yield _same_text(draft, where, before, is_sure=_is_open(other) and _is_open(option))


def _same_text(draft: Draft, path: Path, before: Path, *, is_sure: bool) -> Finding:
    line, _ = draft.document.places.value(before)
    message = f"the option in line {line} has the same text, and "
    if is_sure:
        return draft.at_value(path, "E535", f"{message}both are offered together. Let them differ")
    return draft.at_value(
        path, "W535", f"{message}both may be offered together. Let them differ, or make one option with `edges`"
    )


def _is_open(option: Option | None) -> bool:
    """Whether an option is offered whenever its state is reached."""
    if option is None or not is_true(option.guard):
        return False
    return not option.edges or any(is_true(part.guard) for part in option.edges)


def _exclude(one: Option | None, other: Option | None) -> bool:
    """Whether two options' guards are written as each other's opposite: `x` and `!(x)`."""
    if one is None or other is None or one.guard is None or other.guard is None:
        return False
    guards = [str(option.guard).replace(" ", "") for option in (one, other)]
    return any(a in {f"!{b}", f"!({b})"} for a, b in (guards, guards[::-1]))


def _option(draft: Draft, path: Path, option: Option) -> Iterator[Finding]:
    yield from _fits(draft, (*path, "text"), option.text, option.short)
    if option.short is None:
        return
    for where, language, short in _said_in((*path, "short"), option.short, draft.definition.languages):
        limit = SHORT_CHARS.get(language.partition("-")[0], SHORT_CHARS_ELSEWHERE)
        if len(short) > limit:
            message = f"the short text has {len(short)} characters, and {limit} are allowed in {language}. Shorten it"
            yield draft.at_value(where, "E532", message)


def _fits(draft: Draft, path: Path, text: Text, short: Text | None) -> Iterator[Finding]:
    for where, language, said in _said_in(path, text, draft.definition.languages):
        limit = draft.definition.max_chars("option", language)
        has_short = short is not None and (isinstance(short, str) or language in short)
        if len(said) > limit and not has_short:
            mend = "Shorten it" if path[-2] == "kinds" else "Shorten it, or add a `short` beside it"
            message = f"the option's text has {len(said)} characters, and {limit} are allowed in {language}. {mend}"
            yield draft.at_value(where, "E532", message)
