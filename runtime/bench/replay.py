"""A replay: what was sent, what chance and the model bring, and what must come of it. The form is DESIGN's.

One form is the recording, the regression test, the bug report and the cassette. It is read by
`replay_file`, written by `written`, and played by `player`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

Parts = Mapping[str, Any]
SUFFIX = ".replay.yaml"


class Given(Struct, frozen=True, kw_only=True):
    """Where a replay begins. With `state` it stands there at step 1 and nothing was told; without, it begins anew.

    `constraints` are without the language. `hard_limit_seconds` as a client's; None = not said.
    """

    machine: str
    language: str | None = None
    seed: str | None = None
    state: str | None = None
    context: Parts = {}
    slots: Mapping[str, str | None] = {}
    constraints: Parts = {}
    player_count: int = 1
    difficulty: str = "NORMAL"
    hard_limit_seconds: float | None = None


class Chosen(Struct, frozen=True):
    """How a step names an offered option; exactly one is not None. `text` is as offered."""

    key: str | None = None
    kind: str | None = None
    text: str | None = None
    id: int | None = None


class Text(Struct, frozen=True):
    """What a text of the answer must hold; a map picks by language. None = not asked."""

    contains: str | Mapping[str, str] | None = None
    pattern: str | Mapping[str, str] | None = None


class Expect(Struct, frozen=True, kw_only=True):
    """What must come of a step; None = not asked. With `error` it is refused, and nothing has changed.

    `context` has the variables that are named, `options` the keys (or kinds) in the order offered.
    `texts` are by their dotted path in the answer's payload; `meta` by the name in payload.meta.
    """

    edge: str | None = None
    state: str | None = None
    context: Parts = {}
    next: str | None = None
    allowed: tuple[str, ...] | None = None
    should_end: bool | None = None
    ended: bool | None = None
    ending: str | None = None
    options: tuple[str, ...] | None = None
    error: str | None = None
    texts: Mapping[str, Text] = {}
    meta: Parts = {}


class ReplayStep(Struct, frozen=True, kw_only=True):
    """One turn: an option that is chosen, or an event that is sent.

    `dice` are fixed by name, `narrate` is what the model answers ({} with a model that says nothing;
    None = told offline), `after_ms` the player's clock since the step before, `times` how often the same
    request is sent: all answers must be the same bytes. `line` is the step's in its file, 0 where it has none.
    """

    choose: Chosen | None = None
    send: str | None = None
    with_: Parts = {}
    constraints: Parts = {}
    dice: Parts = {}
    narrate: Parts | None = None
    after_ms: int = 0
    key: str | None = None
    times: int = 1
    expect: Expect = Expect()
    prompt: str | None = None
    line: int = 0


class Replay(Struct, frozen=True, kw_only=True):
    """One test: a file's, for one combination of its `each`.

    `id` is `FILE::NAME` with `[zh-a]` behind it for a combination. `xfail` says why it is known to fail:
    then it must. The steps of the replay that it reproduces stand before its own already.
    """

    name: str
    given: Given
    steps: tuple[ReplayStep, ...]
    xfail: str | None = None
    file: str = ""
    id: str = ""
