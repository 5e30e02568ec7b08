"""`edgewise doctor`: whether each provider can tell this project's turns, in plain words, with the mend.

It asks as a turn would, and once more than a turn: the list of models, each response format, and one
whole answer to a prompt of the default machine. No key is printed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

import click
import msgspec
from msgspec import Struct

from runtime import loader, request
from runtime.advance import arrived, route
from runtime.errors import DesignError, WorldError
from runtime.narrators.openai import OpenAI
from runtime.narrators.probing import Known, Tried, held, is_sure, probe
from runtime.narrators.provider import CallError
from runtime.narrators.release import Release
from runtime.request import nearest
from runtime.session import Invoke
from runtime.turn import brief, choose_edge, settled_by
from server import project_file
from server.build import default_machine, known_path, profiles_of
from server.settings import PROJECT_FILE, lists_providers, variable_of

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.narrators import Narration, Task
    from runtime.narrators.profile import Profile
    from runtime.narrators.provider import Provider
    from server.settings import Settings

WITHIN_S = 60.0
"""The longest that each question to a provider may take: a local model may have to be loaded first."""
NAMED_MODELS = 8
_SEED = "doctor"
_KEY_REFUSED = re.compile(r"answered (401|403)\b")
_MARKS = {"good": ("ok", "green"), "unsure": ("?", "yellow"), "bad": ("FAIL", "red")}


class Checked(Struct, frozen=True):
    """One thing that was looked at: what was found, and the mend where it is bad."""

    what: Literal["key", "model", "formats", "latency", "answer"]
    verdict: Literal["good", "unsure", "bad"]
    found: str
    mend: str = ""


class Report(Struct, frozen=True):
    """What was found of one provider."""

    provider: str
    host: str
    model: str
    checks: tuple[Checked, ...]

    @property
    def is_good(self) -> bool:
        """Whether turns can be told with it."""
        return all(each.verdict != "bad" for each in self.checks)


def doctor(settings: Settings, form: str) -> int:
    """Print what was found of every provider; 1 where one of them is of no use, else 0.

    Raises SettingsError and DesignError where there is nothing that could be asked.
    """
    profiles = profiles_of(settings)
    if not profiles:
        return _offline(settings, form)
    machines = loader.load_project(settings.project_path)
    task = first_task(machines[default_machine(settings, machines)])
    reports = asyncio.run(_reports(profiles, task, Known(known_path(settings))))
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(reports)))
    else:
        for report in reports:
            _print(report)
    return int(not all(report.is_good for report in reports))


def first_task(machine: Machine) -> Task:
    """The first turn of a machine, as the flow gives it to a narrator."""
    invoke = Invoke(event=machine.definition.first.event, session_id=_SEED, run_seed=_SEED)
    opened = request.begin(machine, invoke, _SEED, lambda: _SEED, 0)
    asked = request.read(opened, invoke, "operator")
    settled = settled_by(choose_edge(opened, asked, "operator"), opened, asked)
    return brief(opened, settled, asked, route(machine, arrived(settled.session)).offer, WITHIN_S)


def _offline(settings: Settings, form: str) -> int:
    """Say that no model is asked, and how those that are described are checked. Raises DesignError."""
    if findings := project_file.findings_of(settings.project_path):
        raise DesignError(findings)
    told = "offline: turns are told from written fragments; no model is asked, and there is nothing to check"
    hint = ""
    described = _described(settings)
    if described:
        hint = (
            f"{described} is read where {variable_of('narrator')} = openai: `edgewise doctor --narrator openai` checks"
        )
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode({"narrator": "offline", "hint": hint})))
    else:
        click.echo(f"{told}\n{hint}" if hint else told)
    return 0


def _described(settings: Settings) -> str:
    """Where a model is described that nobody asks, '' where none is."""
    names = ("openai_base_url", "openai_model", "openai_profile")
    named = next((variable_of(name) for name in names if getattr(settings, name)), "")
    return named or (PROJECT_FILE if lists_providers(settings.project_path) else "")


async def _reports(profiles: tuple[Profile, ...], task: Task, known: Known) -> list[Report]:
    reports = []
    for profile in profiles:
        # One at a time, each with a narrator of its own: none stands in for another.
        narrator = OpenAI(_patient(profile))
        (provider,) = narrator.providers
        checks = [each async for each in _examined(narrator, provider, task, known, profile.first_token_s)]
        reports.append(Report(provider.name, profile.host, profile.model, _judged(checks)))
        await narrator.close()
    return reports


def _judged(checks: list[Checked]) -> tuple[Checked, ...]:
    """The checks, where a later one shows it with a key that is bad: some list their models to anyone."""
    bad = [each for each in checks if each.verdict == "bad" and each.what != "key"]
    refused = next((each for each in bad if _KEY_REFUSED.search(each.found)), None)
    if refused is None:
        return tuple(checks)
    status = _KEY_REFUSED.findall(refused.found)[0]
    key = Checked("key", "bad", f"a call was answered {status}: the key is not accepted", refused.mend)
    return tuple(key if each.what == "key" else each for each in checks)


def _patient(profile: Profile) -> Profile:
    """The profile with time to show how slow it is, and nothing left out for having failed."""
    return msgspec.structs.replace(
        profile, timeout_s=WITHIN_S, attempt_timeout_s=WITHIN_S, first_token_s=WITHIN_S, failures=1000
    )


async def _examined(
    narrator: OpenAI, provider: Provider, task: Task, known: Known, first_token_s: float
) -> AsyncIterator[Checked]:
    _tell(provider, "which models it has")
    reached = await _reached(provider)
    for checked in reached:
        yield checked
    if any(checked.verdict == "bad" for checked in reached):
        return
    _tell(provider, "in which formats it answers")
    tries = await probe(provider, WITHIN_S, every=True)
    yield _formats(tries)
    form = held(tries)
    if form is None:
        return
    provider.format = form
    if is_sure(tries):
        known.note(provider)
    yield _latency(next(each for each in tries if each.holds), first_token_s)
    _tell(provider, "for one whole answer")
    try:
        yield _answer(await narrator.narrate(task, Release(task)))
    except WorldError as error:
        yield Checked("answer", "bad", error.message, error.hint)


def _tell(provider: Provider, what: str) -> None:
    click.echo(f"asking {provider.name} ({provider.profile.host}) {what} …", err=True)


async def _reached(provider: Provider) -> list[Checked]:
    """What the models that it lists say of the key and the model."""
    try:
        listed = await provider.models(WITHIN_S)
    except CallError as failed:
        if failed.outcome in ("unreachable", "late"):
            return [Checked("model", "bad", f"it {failed.why}", "Check the base URL, and that it runs.")]
        if "401" in failed.why:
            return [Checked("key", "bad", f"it {failed.why}: the key is not accepted", failed.mend)]
        listed = None
    return [_key(provider.profile), _model(provider.profile, listed)]


def _key(profile: Profile) -> Checked:
    if not profile.key:
        return Checked("key", "good", "none is sent")
    return Checked(
        "key", "good", f"set{f' in {profile.key_variable}' if profile.key_variable else ''}, and not refused"
    )


def _model(profile: Profile, listed: tuple[str, ...] | None) -> Checked:
    if profile.replaces:
        told = f"{profile.replaces} was retired: {profile.model} is asked in its place"
        return Checked("model", "unsure", told, f"Name {profile.model} yourself.")
    if listed is None:
        return Checked("model", "unsure", f"it lists no models, so that nobody knows whether it has {profile.model}")
    if profile.model in listed or f"{profile.model}:latest" in listed:
        return Checked("model", "good", f"it has {profile.model}")
    have = ", ".join(listed[:NAMED_MODELS]) or "none"
    meant = nearest(profile.model, listed)
    mend = f"Did you mean {meant}?" if meant else "Name one that it has."
    # Gateways serve models that they don't list: the answers decide.
    return Checked("model", "unsure", f"it doesn't list {profile.model}; it lists {have}", mend)


def _formats(tries: list[Tried]) -> Checked:
    form = held(tries)
    if form is None:
        return Checked("formats", "bad", f"none: it {tries[-1].why}", tries[-1].mend)
    does = ", ".join(each.response_format for each in tries if each.holds)
    lacks = "; ".join(f"not {each.response_format}: it {each.why}" for each in tries if not each.holds)
    return Checked("formats", "good", f"{does}{f' ({lacks})' if lacks else ''}; {form} is asked for")


def _latency(tried: Tried, first_token_s: float) -> Checked:
    """How fast it is; bad where a turn would not wait for its first word."""
    told = f"first word after {tried.first_token_ms} ms, a short answer after {tried.total_ms} ms"
    if tried.first_token_ms <= first_token_s * 1000:
        return Checked("latency", "good", told)
    mend = f"Set first_token_s in {PROJECT_FILE}, or take a smaller model."
    return Checked("latency", "bad", f"{told}; a turn waits {first_token_s:g} s for its first word", mend)


def _answer(narration: Narration) -> Checked:
    spent, usage = narration.spent, narration.usage
    cost = f", cost {spent.cost_micros / 1_000_000:.6f}" if spent.cost_micros else ""
    took = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens, {spent.total_ms / 1000:.1f} s{cost}"
    steps = " → ".join(narration.rungs)
    if narration.fallback:
        lacks = ", ".join("all of it" if path == "*" else path for path in narration.fallback)
        mend = "Ask for less in the prompt, raise its max_tokens, or take a larger model."
        return Checked("answer", "bad", f"not by the model: {lacks} ({steps}; {took})", mend)
    return Checked("answer", "good", f"whole, within every limit ({steps}; {took})")


def _print(report: Report) -> None:
    click.echo(f"{report.provider}: {report.host}, model {report.model}")
    for checked in report.checks:
        mark, colour = _MARKS[checked.verdict]
        click.echo(f"  {click.style(f'{mark:<4}', fg=colour)}  {checked.what:<8}{checked.found}")
        if checked.mend:
            click.echo(f"        {'':<8}{checked.mend}")
