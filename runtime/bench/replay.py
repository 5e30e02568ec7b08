"""A replay: what was sent, what chance and the model bring, and what must come of it. The form is DESIGN's.

One form is the recording, the regression test, the bug report and the cassette. It is read by
`replay_file`, written by `written`, and played by `player`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta, Struct
from msgspec.structs import replace

from runtime.advance import KINDS
from runtime.model import INT_MAX
from runtime.session import Offer, Rolled

Parts = Mapping[str, Any]
Place = tuple[str, int, int]
"""A file, and a line and a column in it, from 1."""
SUFFIX = ".replay.yaml"
SEED_PATTERN = r"^[A-Za-z0-9_.:-]{1,128}$"
"""A run seed, as a server takes it."""


class Limits(TypedDict, total=False):
    """What a client asks of the texts, as it sends it; null = the machine's own again."""

    content_rating: Literal["G", "PG", "PG13", "R"] | None
    max_chars_scene: Annotated[int, Meta(ge=20)] | None
    max_chars_option: Annotated[int, Meta(ge=2)] | None
    forbidden_terms: Annotated[list[Annotated[str, Meta(min_length=1, max_length=32)]], Meta(max_length=200)] | None


class Given(Struct, frozen=True, kw_only=True):
    """Where a replay begins. With `state` it stands there at step 1 and nothing was told; without, it begins anew.

    `constraints` are without the language. `hard_limit_seconds` as a client's; None = not said.
    """

    machine: str
    language: str | None = None
    seed: Annotated[str, Meta(pattern=SEED_PATTERN)] | None = None
    state: str | None = None
    context: Parts = {}
    slots: Mapping[str, str | None] = {}
    constraints: Limits = {}
    player_count: Annotated[int, Meta(ge=1, le=INT_MAX)] = 1
    difficulty: Literal["EASY", "NORMAL", "HARD"] = "NORMAL"
    hard_limit_seconds: Annotated[float, Meta(ge=0)] | None = None


class Chosen(Struct, frozen=True):
    """How a step names an offered option; exactly one is not None.

    `text` is as offered, or a part of it that no other option has; a map picks by language.
    """

    key: str | None = None
    kind: str | None = None
    text: str | Mapping[str, str] | None = None
    id: int | None = None


class Text(Struct, frozen=True):
    """What a text of the answer must hold; a map picks by language. None = not asked."""

    contains: str | Mapping[str, str] | None = None
    pattern: str | Mapping[str, str] | None = None


class Expect(Struct, frozen=True, kw_only=True):
    """What must come of a step; None = not asked. With `error` it is refused, and nothing has changed.

    `context` has the variables that are named, `options` the keys (or kinds) in the order offered.
    `texts` are by their dotted path in the answer's payload, or in what a refusal says (`why`, `hint`,
    `message`, …); `meta` by the name in payload.meta. `allowed` is in any order.
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
    """One turn: an option that is chosen, or an event that is sent; with both, the client named both.

    Neither is only the first step's right, where nothing is given: the initial event is sent.

    `dice` are fixed by name, `narrate` is what the model answers ({} with a model that says nothing;
    None = told offline), `after_ms` the player's clock since the step before, `times` how often the same
    request is sent: all answers must be the same bytes. `prompt` is what it was told by when it was recorded.
    `line` is the step's in its file, 0 where it has none; `places` has its parts by their dotted path, as
    `dice.attack`, and the step itself as ''.
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
    places: Mapping[str, Place] = {}


class Replay(Struct, frozen=True, kw_only=True):
    """One test: a file's, for one combination of its `each`.

    `id` is `FILE::NAME` with `[zh-a]` behind it for a combination. `xfail` says why it is known to fail:
    then it must. The steps of the replay that it reproduces stand before its own already. `places` has
    the parts of `given` as `given.machine`, and the file itself as ''.
    """

    name: str
    given: Given
    steps: tuple[ReplayStep, ...]
    xfail: str | None = None
    file: str = ""
    id: str = ""
    places: Mapping[str, Place] = {}


def bare(replay: Replay) -> Replay:
    """The replay without where it stands in which file: what two files have in common that say the same."""
    steps = tuple(replace(step, line=0, places={}) for step in replay.steps)
    return replace(replay, steps=steps, file="", id="", places={})


def fixed_dice(dice: Iterable[Rolled], offer: Iterable[Offer]) -> dict[str, Any]:
    """A turn's `dice` as a step fixes them: each die, secret ones too, and the kinds drawn for the next choice."""
    kinds = [each.kind for each in offer if each.kind]
    return {**{die.name: die.value for die in dice}, **({KINDS: kinds} if kinds else {})}
