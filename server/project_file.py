"""`edgewise.yaml`: what a project says of the models that tell it. A machine's own words are in `machines/`.

Read as machines are: every fault at once, each at file:line:col, with the mend. A key never stands
in it: `key_variable` names the environment's, or `.env`'s, that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
from msgspec import Meta, Struct

from runtime.document import Document, read
from runtime.errors import DesignError, Finding
from runtime.narrators.profile import PROFILES, Profile, configured
from runtime.prices import Prices
from runtime.shape import did_you_mean
from server.settings import PROJECT_FILE, SettingsError

_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_URL = r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$"
_KINDS = jsonschema_rs.ValidationErrorKind
_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list",
    "object": "a map (key: value)",
}
_MENDS = {
    _VARIABLE: "is no name of a variable: write the name under which the environment or .env has the key",
    _URL: "is no base URL: write http:// or https://, a host and a path; a key has a variable of its own",
}
_BOUNDS = {
    _KINDS.Minimum: "too small: at least {}",
    _KINDS.ExclusiveMinimum: "too small: more than {}",
    _KINDS.Maximum: "too large: at most {}",
    _KINDS.MinLength: "too short: at least {} long",
    _KINDS.MinItems: "too short: at least {} long",
}
_MEANT = {
    "key": "key_variable",
    "api_key": "key_variable",
    "url": "base_url",
    "name": "profile",
    "timeout": "timeout_s",
}
_SECRETS = frozenset({"key", "api_key"})

Seconds = Annotated[float, Meta(gt=0, le=3600)]


class PriceLine(Struct, frozen=True, forbid_unknown_fields=True):
    """What a million tokens cost: of fresh input, of cached input (as fresh where left out), of output."""

    input: Annotated[float, Meta(ge=0)]
    output: Annotated[float, Meta(ge=0)]
    cached: Annotated[float, Meta(ge=0)] | None = None


class ProviderLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider: a profile, and what is said over it."""

    profile: Literal["deepseek", "openai", "ollama", "vllm", "llamacpp", "other", "fake"]
    model: Annotated[str, Meta(min_length=1)] | None = None
    base_url: Annotated[str, Meta(pattern=_URL)] | None = None
    key_variable: Annotated[str, Meta(pattern=_VARIABLE)] | None = None
    response_format: Literal["json_schema", "json_object", "text"] | None = None
    thinking: Literal["enabled", "disabled"] | None = None
    prices: PriceLine | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    max_in_flight: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    queue: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    timeout_s: Seconds | None = None
    attempt_timeout_s: Seconds | None = None
    first_token_s: Seconds | None = None
    gap_s: Seconds | None = None
    failures: Annotated[int, Meta(ge=1, le=1000)] | None = None


class ProjectFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. `providers` are asked in this order."""

    providers: Annotated[tuple[ProviderLine, ...], Meta(min_length=1)] = ()


def findings_of(project: Path) -> list[Finding]:
    """Every fault of the project's file, in file order; none where there is no file."""
    return _read(project)[1]


def profiles_of(project: Path, variables: Mapping[str, str]) -> tuple[Profile, ...]:
    """The providers that the project lists, their keys from `variables`; () where it lists none.

    Raises DesignError for a faulty file, SettingsError where a key or an address is missing.
    """
    document, findings = _read(project)
    if findings:
        raise DesignError(findings)
    if document is None:
        return ()
    faults: list[str] = []
    profiles = []
    for number, line in enumerate(msgspec.convert(document.value, ProjectFile).providers):
        try:
            profiles.append(_profile(line, variables))
        except ValueError as error:
            row, col = document.places.value(("providers", number))
            faults.append(f"{PROJECT_FILE}:{row}:{col}: {error}")
    if faults:
        raise SettingsError(faults)
    return tuple(profiles)


def _profile(line: ProviderLine, variables: Mapping[str, str]) -> Profile:
    given = {name: getattr(line, name) for name in line.__struct_fields__ if name not in ("profile", "prices")}
    variable = line.key_variable or PROFILES[line.profile].key_variable
    priced = line.prices
    cached = priced.input if priced and priced.cached is None else priced and priced.cached
    return configured(
        line.profile,
        **given,
        key=variables.get(variable, "").strip(),
        needs_key=True if line.key_variable else None,
        own_prices=Prices(priced.input, cached or 0.0, priced.output) if priced else None,
    )


def _read(project: Path) -> tuple[Document | None, list[Finding]]:
    try:
        text = (project / PROJECT_FILE).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None, []
    except (OSError, UnicodeDecodeError) as error:
        return None, [Finding(PROJECT_FILE, 1, 1, "E002", f"the file can't be read as UTF-8: {error}")]
    document = read(PROJECT_FILE, text.replace("\r\n", "\n"))
    findings = list(document.findings)
    if document.value is not None:
        findings += [_finding(document, *wrong) for error in _validator().iter_errors(document.value)
                     for wrong in _wrong(error)]  # fmt: skip
    return document, sorted(set(findings))


@cache
def _validator() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(_schema())


@cache
def _schema() -> dict[str, Any]:
    return msgspec.json.schema(ProjectFile)


def _finding(document: Document, path: tuple[Any, ...], code: str, message: str) -> Finding:
    is_key = code == "E101"
    line, col = document.places.key(path) if is_key else document.places.value(path)
    return Finding(PROJECT_FILE, line, col, code, message)


def _wrong(error: Any) -> Iterator[tuple[tuple[Any, ...], str, str]]:
    """The path, code and sentence of each fault; of a part with several forms, of the form that was meant."""
    path, kind = tuple(error.instance_path), error.kind
    if isinstance(kind, _KINDS.AnyOf):
        for each in next((branch for branch in kind.context if not _is_null(branch)), ()):
            yield from _wrong(each)
    elif isinstance(kind, _KINDS.AdditionalProperties):
        for key in kind.unexpected:
            yield (*path, key), "E101", _unknown(key, path)
    elif isinstance(kind, _KINDS.Required):
        yield path, "E102", f"'{kind.property}' is missing here. Add it"
    else:
        yield path, *_told(error, kind, path)


def _is_null(branch: Any) -> bool:
    return any(isinstance(each.kind, _KINDS.Type) and each.kind.types == ["null"] for each in branch)


def _unknown(key: str, path: tuple[Any, ...]) -> str:
    kind = {0: ProjectFile, 2: ProviderLine}.get(len(path), PriceLine)
    known = kind.__struct_fields__
    if key in _SECRETS and kind is ProviderLine:
        return f"no key '{key}' here: a secret stands in no file. Write key_variable: and the name of its variable"
    if _MEANT.get(key) in known:
        return f"no key '{key}' here. Did you mean '{_MEANT[key]}'?"
    return f"no key '{key}' here" + did_you_mean(key, known, f"Keys are {', '.join(known)}")


def _told(error: Any, kind: Any, path: tuple[Any, ...]) -> tuple[str, str]:
    value = error.instance
    name = f"'{path[-1]}'" if path and isinstance(path[-1], str) else "this item"
    if isinstance(kind, _KINDS.Type):
        return "E105", f"{name} is {' or '.join(_TYPES[each] for each in kind.types if each in _TYPES)}"
    if isinstance(kind, _KINDS.Enum):
        words = [str(each) for each in kind.options if each is not None]
        return "E106", f"'{value}' is not one of {', '.join(words)}{did_you_mean(str(value), words)}"
    if isinstance(kind, _KINDS.Pattern):
        # What stands here by mistake may be a key: it is not repeated.
        return "E110", f"{name} {_MENDS[kind.pattern]}"
    bound = next((words for each, words in _BOUNDS.items() if isinstance(kind, each)), "")
    return "E110", f"{name} is {'out of range' if not bound else bound.format(kind.limit)}"
