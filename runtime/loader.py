"""From a project's files to machines: what a designer wrote, read, judged and compiled.

A pipeline in which every step hands on what it could save, so that all faults are told at once:
files → `document` (YAML with places) → `shape` (schema) → `draft` (with prompts and fragments) →
`check` (rules) → `machine.build`. What is read here is what the digest covers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec.structs import replace

from runtime import machine as machines
from runtime import model, rating
from runtime.check import check
from runtime.document import Document, read, too_large
from runtime.draft import Draft, FragmentFile, PackFile, PromptFile
from runtime.errors import DesignError, Finding
from runtime.expression import Names
from runtime.fragments import language_of, parse_fragments
from runtime.machine import Machine, story_names
from runtime.model import Definition, Edge, edges_of
from runtime.places import Places
from runtime.prompt import parse_prompt
from runtime.schema import schema
from runtime.shape import did_you_mean, shaped

__all__ = [
    "built",
    "digest_of",
    "drafted",
    "findings_of",
    "load",
    "load_project",
    "read_project",
    "rewritten",
    "schema",
]

MACHINES, PROMPTS = "machines", "prompts"
OFFLINE = "offline"
SHIPPED_PACKS = Path(__file__).parent / "ratings"
_FENCE = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_INCLUDE = re.compile(r"""\{%-?\s*include\s+["']([^"']+)["']""")
_OFFLINE = re.compile(r"offline\.[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?\.yaml")
_RATING = re.compile(r"rating\.[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?\.yaml")
_PROMPT = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_]*)(\.(?P<language>[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?))?\.prompty")


def read_project(folder: Path) -> dict[str, dict[str, str]]:
    """Every machine of a project: its name → its files (path in the project → text).

    Its files are its YAML, what stands in its prompts folder, and what these include.
    Raises DesignError where a file is no UTF-8 or too large, or where there is no machine.
    """
    findings: list[Finding] = []
    found = {path.stem: path for path in sorted((folder / MACHINES).glob("*.yaml"))}
    if not found:
        raise DesignError(
            [Finding(f"{MACHINES}/", 1, 1, "E002", f"no machine in {folder / MACHINES}. Write NAME.yaml there")]
        )
    projects = {name: dict(_files(folder, path, findings)) for name, path in found.items()}
    if findings:
        raise DesignError(sorted(set(findings)))
    return projects


def _files(folder: Path, path: Path, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    own = folder / PROMPTS / path.stem
    waiting = [path, *sorted(each for each in own.rglob("*") if each.is_file() and not each.name.startswith("."))]
    seen = set(waiting)
    while waiting:
        here = waiting.pop(0)
        name = here.relative_to(folder).as_posix()
        text = _text(here, name, findings)
        if text is None:
            continue
        yield name, text
        included = [folder / PROMPTS / each for each in _INCLUDE.findall(text) if _stays_inside(each)]
        fresh = [each for each in dict.fromkeys(included) if each not in seen and each.is_file()]
        seen.update(fresh)
        waiting += fresh


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _text(path: Path, name: str, findings: list[Finding]) -> str | None:
    """A file's text with one kind of line end, None where it can't be read."""
    if fault := too_large(name, path.stat().st_size):
        findings.append(fault)
        return None
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        col = error.start - raw.rfind(b"\n", 0, error.start)
        findings.append(Finding(name, line, col, "E002", "the file is not UTF-8 here. Save it as UTF-8"))
        return None


def digest_of(files: Mapping[str, str]) -> str:
    """The SHA-256 of a machine's files, as hex: over JSON with sorted keys, so equal everywhere."""
    return hashlib.sha256(msgspec.json.encode(dict(files), order="sorted")).hexdigest()


def load(files: Mapping[str, str]) -> Machine:
    """Compile a machine from its files. Raises DesignError with every fault, in file order."""
    draft, findings = _judged(files)
    faults = [finding for finding in findings if finding.is_fault]
    if faults or draft is None:
        raise DesignError(faults)
    return _built(draft, files, findings)


def load_kept(files: Mapping[str, str]) -> Machine:
    """Compile a definition that was served before: it was checked then, by the rules of then.

    Raises DesignError where it has no shape any more.
    """
    draft, findings = _draft(files)
    if draft is None:
        raise DesignError(findings)
    return _built(draft, files, [])


def drafted(files: Mapping[str, str]) -> Draft:
    """A machine as it was read, before it is judged. Raises DesignError where it has no whole shape."""
    draft, findings = _draft(files)
    if draft is None or not draft.is_whole:
        raise DesignError([finding for finding in findings if finding.is_fault])
    return draft


def rewritten(draft: Draft, value: Any) -> Draft:
    """The draft with another value of its file, whose places are those of the old one.

    Raises msgspec.ValidationError where the value is no machine's.
    """
    definition = msgspec.convert(value, Definition)
    edges = tuple(_in_file_order(edges_of(definition), draft.document.places))
    document = replace(draft.document, value=value)
    return replace(draft, document=document, definition=definition, edges=edges)


def built(draft: Draft, files: Mapping[str, str], like: Machine | None = None) -> Machine:
    """The machine of a draft that has passed the check. Raises ExpressionError where it has not.

    `like` is a machine of the same files, of which this is a rewriting: what is the same is taken over.
    """
    return _built(draft, files, [], like)


def _built(draft: Draft, files: Mapping[str, str], findings: list[Finding], like: Machine | None = None) -> Machine:
    if like is not None:
        fragments, packs, digest = like.fragments, like.packs, like.digest
        return machines.build(
            draft.definition, draft.edges, like.prompts, fragments, packs, like.files, digest, tuple(findings),
            {each.name: each.place for each in like.properties}, like,
        )  # fmt: skip
    fragments = {file.language: file.fragments for file in draft.fragments if file.fragments}
    packs = {**shipped_packs(), **{file.language: file.pack for file in draft.packs}}
    return machines.build(
        draft.definition,
        draft.edges,
        draft.variants(),
        fragments,
        packs,
        dict(files),
        digest_of(files),
        tuple(findings),
        {name: _place(draft, ("properties", name)) for name in draft.definition.properties},
    )


def _place(draft: Draft, path: model.Path) -> str:
    """Where a part's key stands, as findings say it."""
    line, col = draft.document.places.key(path)
    return f"{draft.document.file}:{line}:{col}"


@cache
def shipped_packs() -> Mapping[str, rating.Pack]:
    """The rating packs of ours by language: they stand where a machine has none of its own."""
    found = {}
    for path in sorted(SHIPPED_PACKS.glob("*.yaml")):
        pack, faults = rating.parse_pack(read(path.name, path.read_text(encoding="utf-8")).value)
        if faults:
            raise DesignError([Finding(path.name, 1, 1, code, message) for _, code, message in faults])
        found[path.stem] = pack
    return found


def load_project(folder: Path) -> dict[str, Machine]:
    """Every machine of a project. Raises DesignError with all faults of all machines."""
    loaded: dict[str, Machine] = {}
    faults: list[Finding] = []
    for name, files in read_project(folder).items():
        try:
            loaded[name] = load(files)
        except DesignError as error:
            faults += error.findings
    if faults:
        raise DesignError(sorted(set(faults)))
    return loaded


def findings_of(files: Mapping[str, str]) -> list[Finding]:
    """Every fault and warning of a machine's files, in file order."""
    return _judged(files)[1]


def _judged(files: Mapping[str, str]) -> tuple[Draft | None, list[Finding]]:
    draft, findings = _draft(files)
    if draft is not None:
        findings += check(draft)
    return draft, sorted(set(findings), key=lambda finding: (not finding.file.startswith(MACHINES), finding))


def _draft(files: Mapping[str, str]) -> tuple[Draft | None, list[Finding]]:
    """The draft of a machine, None where its file has no shape; and the faults of reading it."""
    file = next((name for name in files if name.startswith(f"{MACHINES}/")), f"{MACHINES}/")
    document = read(file, files.get(file, ""), may_be_null=lambda path: path[:1] == ("slots",))
    findings = list(document.findings)
    is_whole = document.value is not None and not document.gone
    if document.value is not None:
        document, faults = shaped(document)
        findings += faults
        is_whole = is_whole and not faults
    prompts = tuple(_prompts(files, findings))
    if document.value is None:
        return None, findings
    definition = msgspec.convert(document.value, Definition)
    edges = tuple(_in_file_order(edges_of(definition), document.places))
    fragments = tuple(_fragments(files, definition, edges, findings))
    packs = tuple(_packs(files, findings))
    draft = Draft(
        document=document, definition=definition, edges=edges, prompts=prompts, fragments=fragments, packs=packs,
        is_whole=is_whole,
    )  # fmt: skip
    return draft, findings


def _in_file_order(edges: tuple[Edge, ...], places: Places) -> list[Edge]:
    """Edges as they stand in the file inside each state: options and `on` in either order."""
    rank = {source: index for index, source in enumerate(dict.fromkeys(edge.source for edge in edges))}
    return sorted(edges, key=lambda edge: (rank[edge.source], places.key(edge.path)))


def _prompts(files: Mapping[str, str], findings: list[Finding]) -> Iterator[PromptFile]:
    includes = {
        name.removeprefix(f"{PROMPTS}/"): text for name, text in files.items() if name.startswith(f"{PROMPTS}/")
    }
    for file, text in files.items():
        if PurePosixPath(file).suffix == ".prompty":
            yield _prompt(file, text, includes, findings)


def _prompt(file: str, text: str, includes: Mapping[str, str], findings: list[Finding]) -> PromptFile:
    match = _PROMPT.fullmatch(PurePosixPath(file).name)
    if match is None:
        message = "no prompt's file name: write NAME.prompty or NAME.zh.prompty"
        findings.append(Finding(file, 1, 1, "E405", message))
        return PromptFile(PurePosixPath(file).stem, "", _nothing(file), None)
    name, language = match["name"], match["language"] or ""
    fence = _FENCE.match(text)
    if fence is None:
        message = "a prompt begins with its front matter between two lines of ---"
        findings.append(Finding(file, 1, 1, "E405", message))
        return PromptFile(name, language, _nothing(file), None)
    front = read(file, fence[1], first_line=2) if fence[1].strip() else _nothing(file)
    findings += front.findings
    if front.value is None:
        return PromptFile(name, language, front, None)
    body_line = text.count("\n", 0, fence.end()) + 1
    prompt, faults = parse_prompt(name, language or None, file, front.value, text[fence.end() :], body_line, includes)
    for fault in faults:
        if prompt is None and fault.code == "W410":
            continue  # what can't be parsed reads nothing
        place = front.places.key(fault.path) if fault.path else (fault.line, fault.col)
        findings.append(Finding(fault.file, *place, fault.code, fault.message))
    return PromptFile(name, language, front, prompt)


def _nothing(file: str) -> Document:
    return Document(file, {}, Places({(): (1, 1)}, {}, {}), (), frozenset())


def _fragments(
    files: Mapping[str, str], definition: Definition, edges: tuple[Edge, ...], findings: list[Finding]
) -> Iterator[FragmentFile]:
    names = story_names(definition, edges)
    for file, text in files.items():
        path = PurePosixPath(file)
        if path.suffix not in {".yaml", ".yml"} or not file.startswith(f"{PROMPTS}/"):
            continue
        if _OFFLINE.fullmatch(path.name):
            yield _fragment_file(file, text, names, findings)
        elif not _RATING.fullmatch(path.name):
            findings.append(Finding(file, 1, 1, "W505", _unread(path.name, definition)))


def _unread(name: str, definition: Definition) -> str:
    known = [f"{OFFLINE}.{language}.yaml" for language in definition.languages]
    packs = [f"rating.{language}.yaml" for language in definition.languages]
    if name in {"rating.yaml", "rating.yml"}:
        return f"nothing reads '{name}': a language is needed. Call it {' or '.join(packs)}"
    if name in {f"{OFFLINE}.yaml", f"{OFFLINE}.yml"}:
        return f"nothing reads '{name}': a language is needed. Call it {' or '.join(known)}"
    mend = did_you_mean(name, [*known, *packs], f"Texts without a model stand in {' and '.join(known)}")
    return f"nothing reads '{name}'{mend}"


def _packs(files: Mapping[str, str], findings: list[Finding]) -> Iterator[PackFile]:
    for file, text in files.items():
        if file.startswith(f"{PROMPTS}/") and _RATING.fullmatch(PurePosixPath(file).name):
            document = read(file, text)
            findings += document.findings
            if document.value is not None:
                pack, faults = rating.parse_pack(document.value)
                findings += [_pack_fault(document, *fault) for fault in faults]
                yield PackFile(rating.language_of(file), document, pack)


def _pack_fault(document: Document, path: model.Path, code: str, message: str) -> Finding:
    place = document.places.key(path) if code in {"E521", "E522"} and path else document.places.value(path)
    return Finding(document.file, *place, code, message)


def _fragment_file(file: str, text: str, names: Names, findings: list[Finding]) -> FragmentFile:
    document = read(file, text)
    findings += document.findings
    if document.value is None:
        return FragmentFile(language_of(file), document, None)
    fragments, faults = parse_fragments(document.value, names, file)
    findings += [
        Finding(file, *document.places.value(where), code, message)
        for where, code, message in faults
        if code != "E505" or not _is_expression(document.value, where)
    ]
    return FragmentFile(language_of(file), document, fragments, is_whole=not faults and not document.gone)


def _is_expression(value: Any, path: model.Path) -> bool:
    """Whether a `when` could be compiled: what is wrong in it is told by the check, with its column."""
    for step in path:
        value = value[step]
    return isinstance(value, bool | int | float | str)
