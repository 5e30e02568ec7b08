"""Every setting, in one frozen value: defaults < `.env` < environment < command line.

`load` reads them all, and refuses with every wrong one at once, each by its name. A field `x` is
set by `EDGEWISE_X`; `ALIASES` names the few that have a second name. An empty value counts as not
set.
"""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from dotenv import dotenv_values
from msgspec import Meta, Struct

from runtime.document import read
from runtime.errors import EdgewiseError

PREFIX: Final = "EDGEWISE_"
ALIASES: Final[Mapping[str, str]] = {
    "openai_api_key": "DEEPSEEK_API_KEY",
    "openai_base_url": "DEEPSEEK_API_BASE",
    "openai_model": "DEEPSEEK_MODEL",
}
"""Second names, kept from the service that this grew from; in one place `EDGEWISE_…` wins."""
SECRETS: Final = frozenset({"play_tokens", "operator_tokens", "openai_api_key"})
"""Fields whose values are never printed."""
MASK: Final = "********"
LISTS: Final = frozenset({"cors_origins", "play_tokens", "operator_tokens"})
"""Fields that are written as a comma list."""

POSTGRES: Final = frozenset({"postgresql", "postgres"})
"""The schemes of a database's address."""
ELSEWHERE: Final = frozenset({"EDGEWISE_TOKEN"})
"""Variables that are read, but not by the server: the token that `edgewise play --url` sends."""

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):.*@|((?<=[?&])password)=[^&]*", re.DOTALL)
_WORDS = {"Expected": "must be", "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_PLAIN = re.compile("|".join(rf"\b{word}\b" for word in _WORDS))
_DEEPSEEK_HOST = "api.deepseek.com"
PROJECT_FILE: Final = "edgewise.yaml"
"""What a project says of its models beside these settings; see `project_file`."""


class SettingsError(EdgewiseError):
    """Settings that can't be used; `faults` has one sentence for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Setting(Struct, frozen=True):
    """One line of the listing: `value` as text, secrets masked; `source` says where it came from."""

    name: str
    variable: str
    value: str
    source: str
    about: str


class Settings(Struct, frozen=True, kw_only=True):
    """What the server runs with. `sources` has field → where its value came from."""

    host: Annotated[str, Meta(min_length=1, description="Where to listen.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="The port; 0 takes a free one.")] = 8000
    store: Annotated[
        str, Meta(description="The journal: duckdb:///path/to/file, postgresql://user@host/database or memory:.")
    ] = ""
    store_cluster_safe: Annotated[
        bool, Meta(description="PostgreSQL: a statement of a turn names one session; for distributed tables.")
    ] = False
    project: Annotated[str, Meta(min_length=1, description="The folder with machines/ and prompts/.")] = "."
    machine: Annotated[str, Meta(min_length=1, description="The default machine of new sessions.")] = "haunted_house"
    narrator: Annotated[Literal["offline", "openai"], Meta(description="Who tells the turns.")] = "offline"
    workers: Annotated[int, Meta(ge=1, le=256, description="Processes; more than 1 needs a store they can share.")] = 1
    dev: Annotated[bool, Meta(description="Start again when a file changes.")] = False
    open: Annotated[bool, Meta(description="Listen beyond loopback though no tokens are set.")] = False
    cors_origins: Annotated[tuple[str, ...], Meta(description="Web origins that may call, or *.")] = ()
    play_tokens: Annotated[tuple[str, ...], Meta(description="Tokens that may play.")] = ()
    operator_tokens: Annotated[tuple[str, ...], Meta(description="Tokens that may do everything.")] = ()
    turns_per_minute: Annotated[int, Meta(ge=0, description="Turns a minute for each token; 0 = no limit.")] = 0
    budget_session_tokens: Annotated[int, Meta(ge=0, description="Tokens that a session may take; 0 = no limit.")] = 0
    budget_session_cost: Annotated[
        float, Meta(ge=0, le=1e9, description="What a session may cost, in the price table's currency; 0 = no limit.")
    ] = 0.0
    budget_day_tokens: Annotated[
        int, Meta(ge=0, description="Tokens that all sessions may take in a day (UTC); 0 = no limit.")
    ] = 0
    budget_day_cost: Annotated[
        float, Meta(ge=0, le=1e9, description="What all sessions may cost in a day (UTC); 0 = no limit.")
    ] = 0.0
    on_budget: Annotated[
        Literal["offline", "refuse"],
        Meta(description="What becomes of a turn over a budget: told offline, or refused with budget_exhausted."),
    ] = "offline"
    label_producer: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=128,
            pattern=r"^[^\x00-\x1f\x7f]+$",
            description="Who answers for AI-made text, in its label (AIGC).",
        ),
    ] = "edgewise"
    turn_deadline_s: Annotated[float, Meta(gt=0, le=3600, description="Seconds within which a turn must end.")] = 45.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is logged.")
    ] = "info"
    log_format: Annotated[Literal["auto", "json", "text"], Meta(description="auto = text on a terminal.")] = "auto"
    openai_profile: Annotated[
        Literal["", "deepseek", "openai", "ollama", "vllm", "llamacpp", "other", "fake"],
        Meta(description="The kind of chat API; by its address where it is not set."),
    ] = ""
    openai_base_url: Annotated[str, Meta(description="The chat API's address, up to /chat/completions.")] = ""
    openai_api_key: Annotated[str, Meta(description="The chat API's key.")] = ""
    openai_model: Annotated[str, Meta(description="The model to ask.")] = ""
    sources: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()

    @property
    def has_tokens(self) -> bool:
        """Whether callers need a token."""
        return bool(self.play_tokens or self.operator_tokens)

    @property
    def must_be_loopback(self) -> bool:
        """Whether only this machine may reach the server: nothing guards it, and nobody opened it."""
        return not self.has_tokens and not self.open

    @property
    def exposure(self) -> str | None:
        """Why the server must not listen on `host`, with the mend; None where it may."""
        if not self.must_be_loopback or is_loopback(self.host):
            return None
        return (
            f"{variable_of('host')} = {self.host!r} would let anyone in: set {variable_of('play_tokens')} and "
            f"{variable_of('operator_tokens')}, or say --open"
        )

    @property
    def store_path(self) -> Path | None:
        """The DuckDB file; None where the journal is kept in memory or in a database."""
        return None if self.store == "memory:" or self.is_shared else Path(_file_of(self.store))

    @property
    def is_shared(self) -> bool:
        """Whether several processes may keep this journal: it is in PostgreSQL."""
        return _scheme_of(self.store) in POSTGRES

    @property
    def store_shown(self) -> str:
        """The journal as it may be printed: its file, or its address without a password."""
        return str(self.store_path or _without_password(self.store))

    @property
    def project_path(self) -> Path:
        """The project's folder."""
        return Path(self.project)

    def listing(self) -> list[Setting]:
        """Every setting with where it came from; secrets masked."""
        return [
            Setting(
                name, variable_of(name), _shown(name, getattr(self, name)), self.sources.get(name, "default"), about
            )
            for name, about in _abouts().items()
        ]

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(setting.name, setting.value) for setting in self.listing()]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value}' for name, value in self.__rich_repr__())})"


def load(
    options: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    dotenv: Path = Path(".env"),
) -> Settings:
    """Read the settings.

    `options` are the command line's, by field name; None = not given. Raises SettingsError with
    every fault.
    """
    environ = os.environ if environ is None else environ
    in_file = _read_dotenv(dotenv)
    given = {**_named(in_file, ".env"), **_named(environ, "the environment")}
    given |= {name: (value, "the command line") for name, value in (options or {}).items() if value is not None}
    values, faults = _converted(given)
    sources = {name: source for name, (_, source) in given.items()}
    settings = _with_defaults(Settings(**values, sources=sources, warnings=_unknown({**in_file, **environ})))
    faults += _contradictions(settings, given)
    if faults:
        raise SettingsError(faults)
    return settings


def variables_of(project: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the environment, and the project's `.env` under it, say: where a provider's key is looked up.

    Raises SettingsError.
    """
    return {**_read_dotenv(project / ".env"), **(os.environ if environ is None else environ)}


def variable_of(name: str) -> str:
    """The environment variable of a field: `port` → `EDGEWISE_PORT`."""
    return PREFIX + name.upper()


def is_loopback(host: str) -> bool:
    """Whether a host names this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def store_fault(store: str) -> str | None:
    """Why a store can't be used, with the mend; None where it can."""
    scheme = _scheme_of(store)
    if store == "memory:":
        return None
    if scheme in POSTGRES:
        return _postgres_fault(store)
    if scheme != "duckdb":
        return "is no store: use duckdb:///path/to/file, postgresql://user@host/database or memory:"
    if not _file_of(store):
        return "names no file: use three slashes, duckdb:///path/to/file"
    return None


def _postgres_fault(store: str) -> str | None:
    if not store.partition(":")[2].startswith("//"):
        return "is no address of a database: use postgresql://user:password@host:5432/database"
    if importlib.util.find_spec("psycopg") is None:
        return "PostgreSQL's driver is missing: uv sync --extra postgres, or pip install 'edgewise[postgres]'"
    return None


def _scheme_of(store: str) -> str:
    return store.partition(":")[0].lower()


def _file_of(store: str) -> str:
    """The file that a DuckDB URL names, '' where it names none or a host.

    Taken as written: a path may hold %, ? and #, which a URL's own rules would read as something else.
    """
    rest = store.partition(":")[2]
    if not rest.startswith("//"):
        return rest
    host, _, path = rest[2:].partition("/")
    return "" if host else f"/{path.lstrip('/')}".rstrip("/")


def _read_dotenv(path: Path) -> dict[str, str]:
    """A `.env` file's values, as written; nothing where there is none. Raises SettingsError."""
    try:
        values = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path} can't be read: {error}"]) from error
    return {name: value for name, value in values.items() if value is not None}


def _named(variables: Mapping[str, str], source: str) -> dict[str, tuple[Any, str]]:
    """What a place sets: field → (value, where it came from)."""
    found = {}
    for name in _abouts():
        alias = ALIASES.get(name, "")
        for variable in (alias, variable_of(name)):
            if value := variables.get(variable, "").strip():
                found[name] = (value, f"{variable} in {source}")
    return found


def _converted(given: Mapping[str, tuple[Any, str]]) -> tuple[dict[str, Any], list[str]]:
    hints = get_type_hints(Settings, include_extras=True)
    values: dict[str, Any] = {}
    faults = []
    for name in sorted(given, key=list(hints).index):
        value, source = given[name]
        try:
            values[name] = msgspec.convert(_prepared(name, value, hints[name]), hints[name], strict=False)
        except msgspec.ValidationError as error:
            faults.append(f"{_label(name, value, source)}: {_mend(value, hints[name], str(error))}")
    return values, faults


def _prepared(name: str, value: Any, hint: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if name in LISTS and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value.lower() if isinstance(value, str) and _choices(hint) else value


def _choices(hint: Any) -> tuple[str, ...]:
    kind = get_args(hint)[0]
    return get_args(kind) if get_origin(kind) is Literal else ()


def _mend(value: Any, hint: Any, otherwise: str) -> str:
    choices = _choices(hint)
    if not choices:
        return _PLAIN.sub(lambda match: _WORDS[match[0]], otherwise.replace("`", "").partition(",")[0])
    near = difflib.get_close_matches(str(value), choices, 1)
    return f"must be one of {', '.join(choices)}" + (f". Did you mean {near[0]!r}?" if near else "")


def _with_defaults(settings: Settings) -> Settings:
    """Fill in what depends on other settings: the store's file, and the narrator by the key."""
    changes: dict[str, Any] = {}
    sources = dict(settings.sources)
    if not settings.store:
        file = (settings.project_path / "data" / "edgewise.duckdb").absolute().as_posix()
        changes["store"] = f"duckdb://{file if file.startswith('/') else '/' + file}"
    key_from = sources.get("openai_api_key", "")
    if "narrator" not in sources and key_from.startswith("DEEPSEEK_API_KEY "):
        changes["narrator"] = "openai"
        sources["narrator"] = "default, as DEEPSEEK_API_KEY is set"
    return msgspec.structs.replace(settings, **changes, sources=sources)


def _contradictions(settings: Settings, given: Mapping[str, tuple[Any, str]]) -> list[str]:
    faults = [
        f"{_label(name, value, given[name][1])}: {why}" for name, value, why in _value_faults(settings) if name in given
    ]
    if settings.workers > 1 and not settings.is_shared and not store_fault(settings.store):
        faults.append(
            f"{variable_of('workers')} = {settings.workers}: a DuckDB file or memory belongs to one process; "
            f"use 1 worker"
        )
    if settings.workers > 1 and settings.dev:
        faults.append(
            f"{variable_of('workers')} = {settings.workers}: --dev starts one process again when a file changes; "
            f"use 1 worker, or leave {variable_of('dev')} out"
        )
    if settings.narrator == "openai" and not settings.openai_api_key and _calls_deepseek(settings):
        faults.append(
            f"{variable_of('narrator')} = openai needs a key: set {ALIASES['openai_api_key']}, or "
            f"{variable_of('openai_base_url')} to a server that wants none"
        )
    return faults


def _value_faults(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    if settings.store and (why := store_fault(settings.store)):
        yield "store", settings.store, why
    for origin in settings.cors_origins:
        if not _ORIGIN.fullmatch(origin):
            yield "cors_origins", origin, "an origin is a scheme and a host, with no path: https://example.org"
    for name in ("play_tokens", "operator_tokens"):
        if name in settings.sources and not getattr(settings, name):
            yield name, MASK, "it holds no token, and would leave the server open: set one, or leave it out"
        if any(not token.isascii() or not token.isprintable() or " " in token for token in getattr(settings, name)):
            yield name, MASK, "a token holds a space or a character that no token has"
    both = set(settings.play_tokens) & set(settings.operator_tokens)
    if both:
        yield "play_tokens", MASK, f"{len(both)} of them stand in {variable_of('operator_tokens')} too"


def _calls_deepseek(settings: Settings) -> bool:
    """Whether nobody says otherwise: neither another profile or address, nor a file of the project's."""
    if settings.openai_profile not in ("", "deepseek"):
        return False
    if not settings.openai_base_url and lists_providers(settings.project_path):
        return False
    return urlsplit(settings.openai_base_url or f"https://{_DEEPSEEK_HOST}").hostname == _DEEPSEEK_HOST


def lists_providers(project: Path) -> bool:
    """Whether the project's file says who tells; one that can't be read may, and its faults are told elsewhere."""
    try:
        text = (project / PROJECT_FILE).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True
    document = read(PROJECT_FILE, text)
    return bool(document.findings) or "providers" in (document.value or {})


def _unknown(variables: Mapping[str, str]) -> tuple[str, ...]:
    """A warning for each `EDGEWISE_…` variable that sets nothing."""
    known = [variable_of(name) for name in _abouts()]
    unknown = sorted(name for name in variables if name.startswith(PREFIX) and name not in {*known, *ELSEWHERE})
    return tuple(f"{name} is no setting and was passed over.{_did_you_mean(name, known)}" for name in unknown)


def _did_you_mean(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {near[0]}?" if near else ""


def _label(name: str, value: Any, source: str) -> str:
    """A setting as its user knows it: `EDGEWISE_PORT in .env = 'x'`, secrets masked."""
    named = f"--{name.replace('_', '-')}" if source == "the command line" else source
    return f"{named} = {MASK if name in SECRETS else _quoted(value)}"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(MASK if name in SECRETS else str(each) for each in value)
    if name in SECRETS:
        return MASK if value else ""
    return str(value).lower() if isinstance(value, bool) else _without_password(str(value))


def _quoted(value: Any) -> str:
    return repr(_without_password(value)) if isinstance(value, str) else str(value)


def _without_password(text: str) -> str:
    """An address as it may be printed; what stands between its first colon and its last @ is a password."""
    return _PASSWORD.sub(lambda found: f"password={MASK}" if found[2] else f"{found[1]}:{MASK}@", text)


def _abouts() -> dict[str, str]:
    """Field → what it is for, in the order of the listing."""
    hints = get_type_hints(Settings, include_extras=True)
    return {
        name: next(meta.description or "" for meta in get_args(hint)[1:] if isinstance(meta, Meta))
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    }
