"""Holds what clients saw against what a store kept, and names every promise that was broken.

    log = Log()                       # clients write into it: what was sent, what was heard, in which order
    found = check(log, rows)          # rows: all that the store has in the end
    assert found == []

A *mark* names one thing that a client wanted: its retries carry the same mark, in `client_context`,
and so does the entry that it made. The rules, by the name that a Violation carries:

chain      seq 1 to n, each hash over its own body, each the next one's link
numbers    a session's tellings are numbered 1, 2, 3 …, whatever moved its head between; only what a fork copied
           may leave numbers out
lineage    each entry grew from a turn that is there, and begins in the state which that turn left,
           or which a migration since made of it
lost       what was answered is in the store
altered    … byte for byte
twice      a mark, and a key, made one entry at most, and was heard as new once at most
changed    what was only ever refused changed nothing
unasked    each entry was asked for by somebody
order      what was asked for after an answer was heard stands after it
expected   a turn that named the head it had seen grew from that head
read       a session is never shown older than what was heard before it was asked for, nor from the future
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct

from runtime.formats import is_intact, read_entry
from runtime.session import Entry
from runtime.stores import Row

OK = 200
REFUSED = range(400, 500)
"""A refusal: the request was understood, and changed nothing."""


class Violation(Struct, frozen=True):
    """A promise that was broken, in a sentence."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


class Sent(Struct):
    """One request, and what came of it. `status` 0 = nothing was heard; `heard_at` 0 likewise.

    `sent_at` and `heard_at` count what happened at all clients of one log, from 1. `kind` is
    "read" for what only looks. `data` is the answer's, in its bytes.
    """

    mark: str
    client: str
    session_id: str
    kind: str
    sent_at: int
    key: str | None = None
    expected_turn: int | None = None
    heard_at: int = 0
    status: int = 0
    data: bytes = b""
    is_replayed: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether it was answered well."""
        return self.status == OK


class Log:
    """What all clients sent and heard, in one order."""

    def __init__(self) -> None:
        self.requests: list[Sent] = []
        self._clock = count(1)

    def sent(self, **what: Any) -> Sent:
        """Note a request on its way."""
        request = Sent(sent_at=next(self._clock), **what)
        self.requests.append(request)
        return request

    def heard(self, request: Sent, status: int, data: bytes, *, is_replayed: bool = False) -> None:
        """Note what came back."""
        request.heard_at = next(self._clock)
        request.status, request.data, request.is_replayed = status, data, is_replayed

    @property
    def answered(self) -> int:
        """How many requests that change something were answered well."""
        return sum(each.is_answered and each.kind != "read" for each in self.requests)


def check(log: Log, rows: Iterable[Row]) -> list[Violation]:
    """Every promise that was broken, of all sessions."""
    kept: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kept[row.session_id].append(row)
    asked: defaultdict[str, list[Sent]] = defaultdict(list)
    for request in log.requests:
        asked[request.session_id].append(request)
    return [
        found
        for session_id in sorted(kept.keys() | asked.keys())
        for found in _Session(session_id, asked[session_id], kept[session_id]).violations()
    ]


def mark_of(entry: Entry) -> str | None:
    """The mark of the request that made an entry; None where it carried none."""
    return entry.request.get("client_context", {}).get("mark")


class _Session:
    """One session: what was asked of it, and what is kept of it."""

    def __init__(self, session_id: str, asked: list[Sent], rows: list[Row]) -> None:
        self.session_id = session_id
        self.rows = rows
        self.entries = [read_entry(row.body, row.hash) for row in rows]
        self.reads = [each for each in asked if each.kind == "read"]
        self.asked = [each for each in asked if each.kind != "read"]
        self.by_mark: defaultdict[str, list[Sent]] = defaultdict(list)
        for each in self.asked:
            self.by_mark[each.mark].append(each)
        self.by_key = {each.key: each.mark for each in self.asked if each.key is not None}
        self.made = {mark: entry for entry in self.entries if (mark := self._mark(entry)) is not None}
        self.by_data = {entry.data: entry for entry in self.entries}
        self.by_answer = {bytes(entry.answer): entry for entry in self.entries if entry.is_telling}

    def violations(self) -> Iterator[Violation]:
        """All rules, one after the other."""
        for rule in (
            self.chain,
            self.numbers,
            self.lineage,
            self.lost,
            self.twice,
            self.changed,
            self.unasked,
            self.order,
            self.expected,
            self.read,
        ):
            for what in rule():
                name, _, said = what.rpartition("|")
                yield Violation(name or rule.__name__, f"session '{self.session_id}': {said}")

    def _mark(self, entry: Entry) -> str | None:
        """The mark that an entry was made for: its key's, else its request's. A copy was made for nobody."""
        if entry.origin is not None:
            return None
        return self.by_key.get(entry.key) or (mark_of(entry) if entry.kind == "turn" else None)

    def chain(self) -> Iterator[str]:
        link = ""
        for seq, (row, entry) in enumerate(zip(self.rows, self.entries, strict=True), 1):
            if (row.seq, entry.seq) != (seq, seq):
                yield f"the entry after seq {seq - 1} has seq {entry.seq}"
            if entry.prev_hash != link:
                yield f"seq {entry.seq} is not linked to the entry before it"
            if not is_intact(row.body, row.hash):
                yield f"seq {entry.seq} has another hash than its body"
            link = row.hash

    def numbers(self) -> Iterator[str]:
        last = 0
        for entry in self.entries:
            if entry.origin is not None:  # a copy keeps the number that it had
                last = max(last, entry.next_turn - 1)
            elif entry.is_telling and entry.turn != last + 1:
                yield f"turn {entry.turn} follows turn {last}"
            elif not entry.is_telling and (entry.turn > last or entry.next_turn != last + 1):
                yield f"seq {entry.seq} ({entry.kind}) stands on turn {entry.turn}, and the newest is turn {last}"
            last = max(last, entry.turn)

    def lineage(self) -> Iterator[str]:
        before: Entry | None = None
        for entry in self.entries:
            stood = self._grown_from(entry, before)
            if entry.is_telling and entry.parent is None:
                if entry.outcome.source:
                    yield f"turn {entry.turn} begins the story in state '{entry.outcome.source}'"
            elif stood is None:
                yield f"seq {entry.seq} ({entry.kind}) grew from turn {entry.parent}, which is not before it"
            elif entry.is_telling and entry.outcome.source != stood.after.state:
                left, begun = stood.after.state, entry.outcome.source
                yield f"turn {entry.turn} begins in '{begun}', and turn {entry.parent} ended in '{left}'"
            before = entry

    def _grown_from(self, entry: Entry, before: Entry | None) -> Entry | None:
        """The entry whose `after` this one goes on from."""
        if entry.kind == "turn" and entry.origin is None:  # the head, whatever its kind
            return before if before is not None and before.turn == entry.parent else None
        earlier = (each for each in reversed(self.entries) if each.seq < entry.seq and each.turn == entry.parent)
        return next(earlier, None)

    def lost(self) -> Iterator[str]:
        turns = {entry.turn for entry in self.entries if entry.is_telling}
        for each in self.asked:
            if each.is_answered and each.data not in self.by_data:
                turn = msgspec.json.decode(each.data)["session"]["turn"]
                rule = "altered|" if turn in turns else "lost|"
                yield f"{rule}turn {turn}, answered to {each.mark}, is not in the store as it was answered"

    def twice(self) -> Iterator[str]:
        for what, names in (("mark", map(self._mark, self.entries)), ("key", (each.key for each in self.entries))):
            seen: set[str] = set()
            for name in names:
                if name is not None and name in seen:
                    yield f"{what} {name} made more than one entry"
                seen.add(name or "")
        for mark, tries in self.by_mark.items():
            answers = {each.data for each in tries if each.is_answered}
            if len(answers) > 1:
                yield f"{mark} was answered in {len(answers)} ways"
            if sum(each.is_answered and not each.is_replayed for each in tries) > 1:
                yield f"{mark} was answered as new more than once"

    def changed(self) -> Iterator[str]:
        for mark, tries in self.by_mark.items():
            if mark in self.made and all(each.status in REFUSED for each in tries):
                yield f"{mark} was refused with {tries[-1].status}, and is in the store as seq {self.made[mark].seq}"

    def unasked(self) -> Iterator[str]:
        for entry in self.entries:
            if entry.origin is None and entry.kind == "turn" and self._mark(entry) not in self.by_mark:
                yield f"nobody asked for seq {entry.seq} ({entry.kind}, turn {entry.turn})"

    def order(self) -> Iterator[str]:
        heard_first, of = 0, 0
        for mark, entry in sorted(self.made.items(), key=lambda each: -each[1].seq):
            tries = self.by_mark.get(mark, [])
            if heard_first and heard_first < self._first_sent(tries):
                yield f"seq {of} was answered before {mark} was sent, which made seq {entry.seq}"
            heard = min((each.heard_at for each in tries if each.is_answered), default=0)
            if heard and (not heard_first or heard < heard_first):
                heard_first, of = heard, entry.seq

    @staticmethod
    def _first_sent(tries: list[Sent]) -> int:
        return min((each.sent_at for each in tries), default=0)

    def expected(self) -> Iterator[str]:
        for mark, entry in self.made.items():
            for each in self.by_mark.get(mark, []):
                if each.expected_turn is not None and (entry.parent or 0) != each.expected_turn:
                    yield f"{mark} expected turn {each.expected_turn}, and grew from turn {entry.parent}"

    def read(self) -> Iterator[str]:
        if not all(entry.is_telling for entry in self.entries):
            return  # a head that moved back is shown older than what was heard
        answered = [each for each in self.asked if each.is_answered and each.data in self.by_data]
        for look in self.reads:
            if not look.is_answered:
                continue
            shown = self.by_answer.get(look.data)
            if shown is None:
                yield "altered|a session was shown with an answer that is not in the store"
                continue
            known = [self.by_data[each.data].seq for each in answered if each.heard_at < look.sent_at]
            if shown.seq < max(known, default=0):
                yield f"it was shown at seq {shown.seq} after seq {max(known)} had been heard"
            asked = self.by_mark.get(self._mark(shown) or "", [])
            if asked and self._first_sent(asked) > look.heard_at:
                yield f"it was shown at seq {shown.seq} before that was asked for"
