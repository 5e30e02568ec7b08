"""The command `edgewise fake-llm`, and what it makes of its options.

Imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from server.options import examples, settings_of

PORT = 8088


@click.command(
    "fake-llm",
    epilog=examples(
        "`edgewise fake-llm --fault fences`",
        "`EDGEWISE_OPENAI_PROFILE=fake edgewise serve --narrator openai`",
        "`edgewise fake-llm --chaos 0.2 --seed demo --latency 1.5 --tokens-per-second 40`",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=int, default=PORT, show_default=True, help="The port; 0 takes a free one.")
@click.option("--fault", "faults", metavar="NAME[,NAME…]", help="What is wrong with each answer; `list` tells all.")
@click.option("--script", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A YAML file of answers.")
@click.option("--chaos", type=click.FloatRange(0, 1), default=0.0, help="The share of answers that have a fault.")
@click.option("--seed", default="", help="What chaos draws with: the same seed, the same faults.")
@click.option("--tokens-per-second", type=click.FloatRange(0), default=0.0, help="How fast it writes; 0 = at once.")
@click.option("--latency", type=click.FloatRange(0), default=0.0, help="Seconds before the first token of each answer.")
@click.option("--stall", type=click.FloatRange(0), default=60.0, help="Seconds that `latency` and `first_token` wait.")
@click.option("--model", default="", help="The one model that it has; any by default.")
@click.option("--key", default="", help="The key that it wants; any or none by default.")
@click.option("--term", default="", help="The term that `forbidden_term` says.")
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Speak with the offline texts of this project; with sentences of its own by default.",
)
def fake_llm(**options: Any) -> None:
    """Serve the OpenAI chat API as a provider that misbehaves: test what you do when a model fails.

    It answers POST /v1/chat/completions, plain or streamed, and GET /v1/models, with DeepSeek's usage. An answer is
    the offline narrator's where Edgewise asks; for any other client it is made to fit the JSON Schema of the request,
    or the shape that its prompt shows.
    """
    from server.fake.faults import FAULTS  # noqa: PLC0415 - see the module

    if options["faults"] == "list":
        width = max(map(len, FAULTS))
        click.echo("\n".join(f"{name:<{width}}  {fault.about}" for name, fault in FAULTS.items()))
        return
    sys.exit(_served(options))


def _served(options: dict[str, Any]) -> int:
    from msgspec.structs import replace  # noqa: PLC0415 - see the module

    from server.fake import service  # noqa: PLC0415 - see the module
    from server.fake.provider import Provider  # noqa: PLC0415 - see the module

    manner = manner_of(options)
    settings = replace(
        settings_of({"project": options["project"], "narrator": "offline"}), host=options["host"], port=options["port"]
    )
    return service.serve(Provider(manner, service.sentences_of(options["project"])), settings)


def manner_of(options: dict[str, Any]) -> Any:
    """How the provider shall behave. Raises UsageError for a fault that is none, DesignError for a faulty script."""
    from server.fake import script  # noqa: PLC0415 - see the module
    from server.fake.provider import Manner  # noqa: PLC0415 - see the module

    return Manner(
        faults=faults_of(options["faults"] or "", is_drawn=bool(options["chaos"])),
        script=script.load(options["script"]) if options["script"] else script.Script(),
        chaos=options["chaos"],
        seed=options["seed"],
        tokens_per_second=options["tokens_per_second"],
        latency_s=options["latency"],
        stall_s=options["stall"],
        model=options["model"],
        key=options["key"],
        term=options["term"],
    )


def faults_of(listed: str, *, is_drawn: bool) -> tuple[str, ...]:
    """The faults of a comma list; where one of them is drawn at a time, they need not go together."""
    from runtime.shape import did_you_mean  # noqa: PLC0415 - see the module
    from server.fake.faults import FAULTS, clashes  # noqa: PLC0415 - see the module

    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    unknown = [f"no fault '{name}'{did_you_mean(name, FAULTS)}" for name in names if name not in FAULTS]
    faults = unknown or [why for why in [clashes(names)] if why and not is_drawn]
    if faults:
        raise click.UsageError("\n".join([*faults, "`edgewise fake-llm --fault list` names them all."]))
    return names
