"""How a language model is reached: profiles as data. No I/O.

`PROFILES` has what is known of each kind of server beforehand; `configured` makes of one, and of
what a project or its operator says, the profile of a model that can be called.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from runtime.narrators.breaker import FAILURES
from runtime.prices import FREE, Prices

ResponseFormat = Literal["json_schema", "json_object", "text"]

DEEPSEEK = "https://api.deepseek.com"
DEEPSEEK_MODEL = "deepseek-flash"

_LOG = logging.getLogger(__name__)


class Profile(Struct, frozen=True, kw_only=True):
    """How to reach one model.

    `base_url` is what stands before `/chat/completions`. `key` may be '' (a local server) and is in
    no repr; `key_variable` names where it comes from. `formats` are the response formats that the
    server may know, the best first, and `safe_format` is asked for while nobody has tried;
    `response_format` settles it. `thinking` is sent to api.deepseek.com only. `sends_hint` = each
    request carries the offline narrator's answer, for a server that has no model to make one with.
    `keeps_connections` = a connection may serve another call; not where the server drops it unsaid.
    `cached_fields` are the paths in `usage` at which cached tokens may stand. `replaces` is the
    retired model that was named in place of `model`, '' where none was.

    Times in seconds: `timeout_s` is for one whole turn with all its calls, `attempt_timeout_s` for
    one call, `first_token_s` until its first word, `gap_s` between two words: what only keeps the
    connection alive, and a model's reasoning, are no words. `max_tokens` counts where the prompt
    sets none. `max_in_flight` calls run at once; `queue` more wait, within their deadline, and who
    comes then is turned away. `failures` in a row open its breaker.

    Raises ValueError for a URL or a key that can't be right.
    """

    base_url: str
    model: str = ""
    key: str = ""
    name: str = "other"
    key_variable: str = ""
    needs_key: bool = False
    formats: tuple[ResponseFormat, ...] = ("json_schema", "json_object", "text")
    safe_format: ResponseFormat = "json_object"
    response_format: ResponseFormat | None = None
    thinking: Literal["enabled", "disabled"] | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    cached_fields: tuple[str, ...] = ("prompt_tokens_details.cached_tokens", "prompt_cache_hit_tokens")
    sends_hint: bool = False
    keeps_connections: bool = True
    retired: Mapping[str, str] = {}
    replaces: str = ""
    price_table: Mapping[str, Prices] = {}
    own_prices: Prices | None = None
    timeout_s: float = 30.0
    attempt_timeout_s: float = 20.0
    first_token_s: float = 12.0
    gap_s: float = 8.0
    max_tokens: int = 1200
    max_in_flight: int = 200
    queue: int = 400
    failures: int = FAILURES

    def __post_init__(self) -> None:
        """Refuse what can't be right, in words without the key."""
        fault = (_fault_of_url(self.base_url) if self.base_url else "") or _fault_of_key(self.key)
        if fault:
            raise ValueError(fault)

    @property
    def host(self) -> str:
        """Whom the narrator calls: the host and, where the URL names one, its port."""
        url = urlsplit(self.base_url)
        return f"{url.hostname}:{url.port}" if url.port else str(url.hostname)

    @property
    def prices(self) -> Prices:
        """What its model costs: as the operator says, else as the table does, else nothing."""
        return self.own_prices or self.price_table.get(self.model, FREE)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Every field, the key hidden: a traceback with locals shows this too."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        return list({**shown, "key": "…" if self.key else ""}.items())

    def __repr__(self) -> str:
        """The same, as plain text."""
        return f"Profile({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


def _fault_of_url(base_url: str) -> str:
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        return "the narrator's base URL must begin with http:// or https:// and name a host"
    try:
        _ = url.port
    except ValueError:
        return "the narrator's base URL names a port that there isn't: 0 to 65535"
    if url.username or url.password or url.query or url.fragment:
        return "the narrator's base URL may hold no user, password, query or fragment: give the key as key"
    return ""


def _fault_of_key(key: str) -> str:
    if key.isascii() and key.isprintable() and " " not in key:
        return ""
    return "the narrator's key holds a space or a character that no key has: copy it again"


PROFILES: Final[Mapping[str, Profile]] = {
    "deepseek": Profile(
        name="deepseek",
        base_url=DEEPSEEK,
        model=DEEPSEEK_MODEL,
        key_variable="DEEPSEEK_API_KEY",
        needs_key=True,
        formats=("json_object", "text"),
        thinking="disabled",
        retired={
            "deepseek-chat": DEEPSEEK_MODEL,
            "deepseek-reasoner": DEEPSEEK_MODEL,
            "deepseek-v4-flash": DEEPSEEK_MODEL,
        },
        # Source: api-docs.deepseek.com/quick_start/pricing, 2026-10; USD at peak hours, twice what it is off them.
        price_table={
            DEEPSEEK_MODEL: Prices(0.30, 0.006, 1.20),
            "deepseek-v4-pro": Prices(1.32, 0.044, 3.96),
        },
    ),
    "openai": Profile(
        name="openai",
        base_url="https://api.openai.com/v1",
        model="gpt-5.4-mini",
        key_variable="OPENAI_API_KEY",
        needs_key=True,
        # Its newer models refuse `max_tokens`.
        max_tokens_field="max_completion_tokens",
        # Source: developers.openai.com/api/docs/pricing, 2026; USD.
        price_table={"gpt-5.4-mini": Prices(0.75, 0.075, 4.50)},
    ),
    "ollama": Profile(name="ollama", base_url="http://127.0.0.1:11434/v1", first_token_s=18.0, max_in_flight=8),
    "vllm": Profile(name="vllm", base_url="http://127.0.0.1:8000/v1", max_in_flight=64),
    "llamacpp": Profile(
        name="llamacpp",
        base_url="http://127.0.0.1:8080/v1",
        first_token_s=18.0,
        max_in_flight=8,
        # It closes a connection after each stream, though it says that it keeps it: the next call on it would fail.
        keeps_connections=False,
    ),
    "other": Profile(name="other", base_url=""),
    "fake": Profile(name="fake", base_url="http://127.0.0.1:8088/v1", model="fake-1", sends_hint=True),
}
"""Each kind of server: what stands here is the default of what a project may say of one."""


def configured(kind: str, **given: Any) -> Profile:
    """The profile of a model that can be called: a kind's, with what was given over it; None = not given.

    A retired model's name is mapped, with a warning in the log. Raises ValueError, in a sentence,
    for a kind that there isn't and for what is missing.
    """
    if kind not in PROFILES:
        fault = f"there is no profile '{kind}': {', '.join(PROFILES)}"
        raise ValueError(fault)
    profile = replace(PROFILES[kind], **{name: value for name, value in given.items() if value is not None})
    if fault := _missing(profile):
        raise ValueError(fault)
    asked = profile.retired.get(profile.model, profile.model)
    if asked != profile.model:
        _LOG.warning("the model %s was retired: asking %s instead", profile.model, asked)
        return replace(profile, model=asked, replaces=profile.model)
    return profile


def kind_of(base_url: str) -> str:
    """The profile of a URL's host; `other` where it says nothing."""
    host = urlsplit(base_url).hostname
    return next(
        (name for name in ("deepseek", "openai") if urlsplit(PROFILES[name].base_url).hostname == host), "other"
    )


def deepseek(key: str, base_url: str | None = None, model: str = DEEPSEEK_MODEL) -> Profile:
    """DeepSeek's API, thinking off; a retired model's name is mapped, with a warning in the log."""
    return configured("deepseek", key=key, base_url=base_url, model=model)


def _missing(profile: Profile) -> str:
    if not profile.base_url:
        return f"the profile '{profile.name}' needs a base URL: the chat API's address, up to /chat/completions"
    if not profile.model:
        return f"the profile '{profile.name}' needs a model: name one that {profile.host} has"
    if profile.needs_key and not profile.key:
        return f"the profile '{profile.name}' needs a key: set {profile.key_variable}"
    return ""
