"""How a language model is reached: profiles as data. No I/O."""

from __future__ import annotations

import logging
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct

ResponseFormat = Literal["json_schema", "json_object", "text"]

DEEPSEEK = "https://api.deepseek.com"
DEEPSEEK_MODEL = "deepseek-flash"
RETIRED_MODELS = {"deepseek-chat": DEEPSEEK_MODEL, "deepseek-reasoner": DEEPSEEK_MODEL}
"""Names that DeepSeek retired on 2026-07-24, and what is asked in their place."""

_LOG = logging.getLogger(__name__)


class Profile(Struct, frozen=True, kw_only=True):
    """How to reach one model.

    `base_url` is what stands before `/chat/completions`. `key` may be '' (a local server) and is in
    no repr. `timeout_s` is for one whole turn with its retries, `attempt_timeout_s` for one call.
    `max_tokens` counts where the prompt sets none. `thinking` is sent to api.deepseek.com only.
    `max_in_flight` calls run at once; more wait, within their deadline.

    Raises ValueError for a URL or a key that can't be right.
    """

    base_url: str
    model: str
    key: str = ""
    timeout_s: float = 30.0
    attempt_timeout_s: float = 20.0
    max_tokens: int = 1200
    response_format: ResponseFormat = "json_object"
    thinking: Literal["enabled", "disabled"] | None = None
    max_in_flight: int = 200

    def __post_init__(self) -> None:
        """Refuse what can't be right, in words without the key."""
        fault = _fault_of_url(self.base_url) or _fault_of_key(self.key)
        if fault:
            raise ValueError(fault)

    @property
    def host(self) -> str:
        """Whom the narrator calls: the host and, where the URL names one, its port."""
        url = urlsplit(self.base_url)
        return f"{url.hostname}:{url.port}" if url.port else str(url.hostname)

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
    if url.username or url.password or url.query or url.fragment:
        return "the narrator's base URL may hold no user, password, query or fragment: give the key as key"
    return ""


def _fault_of_key(key: str) -> str:
    if key.isascii() and key.isprintable() and " " not in key:
        return ""
    return "the narrator's key holds a space or a character that no key has: copy it again"


def deepseek(key: str, base_url: str | None = None, model: str = DEEPSEEK_MODEL) -> Profile:
    """DeepSeek's API, thinking off; a retired model's name is mapped, with a warning in the log."""
    if model in RETIRED_MODELS:
        _LOG.warning("the model %s was retired: asking %s instead", model, RETIRED_MODELS[model])
    asked = RETIRED_MODELS.get(model, model)
    return Profile(base_url=base_url or DEEPSEEK, key=key, model=asked, thinking="disabled")
