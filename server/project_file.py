"""`edgewise.yaml`: which models tell a project, and how far its tests must go. Machines stand in `machines/`.

Read as machines are: every fault at once, each at file:line:col, with the mend. A key never stands
in it: `key_variable` names the environment's, or `.env`'s, that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from runtime.document import Document, read
from runtime.errors import DesignError, Finding
from runtime.narrators.profile import PROFILES, Profile, configured
from runtime.prices import Prices
from runtime.shape import did_you_mean
from runtime.shaped import Form, faults_of, form_of
from server.settings import PROJECT_FILE, SettingsError

_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_URL = r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$"
_MENDS = {
    _VARIABLE: "is no name of a variable: write the name under which the environment or .env has the key",
    _URL: "is no base URL: write http:// or https://, a host and a path; a key has a variable of its own",
}
_MEANT = {
    "url": "base_url",
    "name": "profile",
    "timeout": "timeout_s",
}
_ELSEWHERE = "a secret stands in no file. Write key_variable: and the name of its variable"

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Percent = Annotated[float, Meta(ge=0, le=100)]


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


class CoverageLine(Struct, frozen=True, forbid_unknown_fields=True):
    """How much of each kind must be covered, in percent; None = nothing is asked."""

    states: Percent | None = None
    edges: Percent | None = None
    guards: Percent | None = None
    options: Percent | None = None
    pairs: Percent | None = None
    prompts: Percent | None = None
    endings: Percent | None = None


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine's replays must reach, in percent. A number alone is for edges, guards and endings."""

    coverage: Percent | CoverageLine = CoverageLine()
    mutation: Percent | None = None

    @property
    def kinds(self) -> dict[str, float]:
        """The kinds of coverage that are asked for, with their percent."""
        if not isinstance(self.coverage, CoverageLine):
            return dict.fromkeys(("edges", "guards", "endings"), float(self.coverage))
        return {kind: float(least) for kind, least in structs.asdict(self.coverage).items() if least is not None}


class Bench(Thresholds, frozen=True, forbid_unknown_fields=True):
    """What `edgewise test` holds machines to; those in `machines` have their own over it."""

    machines: dict[str, Thresholds] = {}


class ProjectFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. `providers` are asked in this order."""

    providers: Annotated[tuple[ProviderLine, ...], Meta(min_length=1)] = ()
    test: Bench = Bench()


def findings_of(project: Path) -> list[Finding]:
    """Every fault of the project's file, in file order; none where there is no file."""
    return _read(project)[1]


class Asked(Struct, frozen=True):
    """What is asked of one machine, in percent: of each kind of coverage, and of mutants that are killed."""

    coverage: Mapping[str, float] = {}
    mutation: float | None = None


def thresholds_of(project: Path, machine: str) -> Asked:
    """What the project asks of a machine: its own thresholds over those for all. Raises DesignError."""
    document, findings = _read(project)
    if findings:
        raise DesignError(findings)
    if document is None:
        return Asked()
    bench = msgspec.convert(document.value, ProjectFile).test
    own = bench.machines.get(machine, Thresholds())
    return Asked({**bench.kinds, **own.kinds}, bench.mutation if own.mutation is None else own.mutation)


def _strangers(project: Path, document: Document) -> Iterator[Finding]:
    """The machines that are named and that there are none of."""
    try:
        named = document.value["test"]["machines"]
    except (KeyError, TypeError):
        return
    known = sorted(path.stem for path in (project / "machines").glob("*.yaml"))
    for name in named if isinstance(named, dict) else ():
        if name not in known:
            line, col = document.places.key(("test", "machines", name))
            mend = did_you_mean(name, known, f"There are: {', '.join(known)}")
            yield Finding(PROJECT_FILE, line, col, "E101", f"no machine '{name}'{mend}")


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
    return document, sorted({*document.findings, *faults_of(document, _form()), *_strangers(project, document)})


@cache
def _form() -> Form:
    secrets = {("ProviderLine", name): _ELSEWHERE for name in ("key", "api_key")}
    return form_of(ProjectFile, meant=_MEANT, hints=secrets, mends=_MENDS)
