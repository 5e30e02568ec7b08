"""What an entry stood on, and whether it follows from it: the rules, run again on what the journal has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runtime.advance import begun, route
from runtime.errors import StoreUnavailable
from runtime.session import Entry, Offer, Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.machine import CompiledEdge, Machine
    from runtime.stores import Store


async def before(store: Store, machine: Machine, entry: Entry) -> Session:
    """The session that a telling was judged on; one that has not begun, at a root.

    `machine` is the entry's own. Raises StoreUnavailable where the journal has lost the parent.
    """
    if entry.parent is None:
        return unbegun(machine, entry.after)
    parent = await store.entry(entry.session_id, entry.parent)
    if parent is None:
        raise lost(entry.session_id, entry.parent)
    if parent.digest == entry.digest:
        return judged_on(parent.after, entry)
    return judged_on(await _migrated(store, parent, entry), entry)


def unbegun(machine: Machine, after: Session) -> Session:
    """The session before its root turn."""
    return Session(
        session_id=after.session_id,
        machine=after.machine,
        version=after.version,
        digest=after.digest,
        run_seed=after.run_seed,
        salt=after.salt,
        constraints=after.constraints,
        player_id=after.player_id,
        player_count=after.player_count,
        difficulty=after.difficulty,
        slots=after.slots,
        limit_ms=after.limit_ms,
        context=begun(machine),
    )


def judged_on(snapshot: Session, entry: Entry) -> Session:
    """What the parent's telling left, with the time and the salt that the entry was judged with."""
    if entry.judged is None:
        return snapshot
    return replace(snapshot, elapsed_ms=entry.judged.elapsed_ms, salt=entry.judged.salt)


async def _migrated(store: Store, parent: Entry, entry: Entry) -> Session:
    """The session as the last migration between a turn and its parent left it; the parent's where there is none."""
    between = [
        node.seq
        for node in await store.tree(entry.session_id)
        if node.kind == "migration" and node.turn == parent.turn and parent.seq < node.seq < entry.seq
    ]
    if not between:
        return parent.after
    return (await store.entries(entry.session_id, after=between[-1] - 1, limit=1))[0].after


def lost(session_id: str, turn: int) -> StoreUnavailable:
    """The refusal of what stands on a turn that the journal should have."""
    return StoreUnavailable(f"turn {turn} of session '{session_id}' is not in the journal", "Run `edgewise db verify`.")


def returned(machine: Machine, told: Session, left: Session) -> Session:
    """The session that goes back to a turn: as it was told, with the clock and the salt of what is left.

    `told` is what the turn had left behind. Routing and offer are computed anew, since time may
    have closed what was open; an option that is still offered keeps the words that it was told in.
    """
    # Which free options are drawn hangs on the salt: the turn's own draws those that it told.
    back = replace(told, elapsed_ms=left.elapsed_ms, answered_at_ms=left.answered_at_ms)
    routed = route(machine, back)
    words = {(each.key, each.kind): each.text for each in told.offer}
    offer = tuple(_worded(each, words) for each in routed.offer)
    return replace(back, salt=left.salt, routing=routed.routing, offer=offer)


def _worded(offer: Offer, words: dict[tuple[str, str], str]) -> Offer:
    return replace(offer, text=words.get((offer.key, offer.kind), offer.text))


def taken(machine: Machine, entry: Entry) -> CompiledEdge:
    """The edge that a telling took. Raises StoreUnavailable where its machine has none of that name."""
    outcome = entry.outcome
    if not outcome.source:
        return machine.initial
    edges = machine.table.get(outcome.source, ())
    found = [each for each in edges if each.full_name == outcome.edge and each.edge.event == outcome.event]
    if not found:
        where = f"turn {entry.turn} of session '{entry.session_id}'"
        raise StoreUnavailable(
            f"{where} took edge {outcome.edge}, which its machine doesn't have", "Run `edgewise db verify`."
        )
    return found[0]


def words_of(machine: Machine, event: str, payload: Mapping[str, Any]) -> str:
    """The player's own words in a payload, '' where there are none."""
    declared = machine.definition.event(event).payload
    return next(
        (str(payload[name]) for name, kind in declared.items() if kind.rstrip("?") == "text" and name in payload), ""
    )
