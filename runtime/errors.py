"""Every error of the engine, in one tree with one root.

EdgewiseError
├── DesignError               a designer's faults, each at file:line:col; nothing was loaded
├── ClientError               a client's faults; the session is as it was
│   ├── SessionNotFound       MachineNotFound   TurnNotFound
│   ├── SessionExists         SessionEnded      TurnInProgress   StaleTurn   MachineChanged
│   ├── RewindRefused         IdempotencyMismatch
│   ├── EventNotAllowed       GuardRefused
│   ├── Forbidden             ValidationError   UnknownEventType
│   ├── OptionNotOffered      OptionEventMismatch
│   ├── TextNotAllowed        ConstraintsUnsatisfiable
│   └── BudgetExhausted       SessionBudgetExhausted   NotImplementedYet
├── MachineFault              a guard or an assign that errs while it runs; the session is as it was
└── WorldError                the world's faults; the session is as it was
    ├── NarratorUnavailable   NarrationInvalid
    └── StoreUnavailable      Overloaded

Beside the tree stand what never leaves the engine: ExpressionError, EvaluationError, NotKnown
(`expression`), PromptError and SayError (`prompt`); they become findings or a MachineFault.

`code` is stable: clients and docs rely on it. `retry` says what helps: `same` (send the same
again), `refresh` (read the session, then choose again) or `never`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from msgspec import Struct

Retry = Literal["same", "refresh", "never"]


class Finding(Struct, frozen=True, order=True):
    """One thing found in a designer's file; prints as `file:line:col CODE message`.

    `line` and `col` count from 1. Codes begin with E (a fault: the machine is refused) or
    W (a warning: it runs).
    """

    file: str
    line: int
    col: int
    code: str
    message: str

    @property
    def is_fault(self) -> bool:
        """Whether the machine is refused for it."""
        return self.code.startswith("E")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col} {self.code} {self.message}"


class EdgewiseError(Exception):
    """The root: `except EdgewiseError` catches all that the engine raises on purpose."""


class DesignError(EdgewiseError):
    """A machine, prompt or fragment file has faults; `findings` has all of them, in file order."""

    code: ClassVar[str] = "design_faults"

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


class Refusal(EdgewiseError):
    """An error that a client sees: one sentence, the mend, and facts to act on.

    `language` is the session's, where one is known, for the sentence that a player reads.
    """

    code: ClassVar[str]
    retry: ClassVar[Retry] = "never"

    def __init__(self, message: str, hint: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts
        self.language: str | None = None


class ClientError(Refusal):
    """The client asked for what can't be; nothing changed."""


class SessionNotFound(ClientError):
    """No session has this id. Facts: session_id."""

    code = "session_not_found"


class MachineNotFound(ClientError):
    """No machine has this name. Facts: machine, machines, did_you_mean."""

    code = "machine_not_found"


class TurnNotFound(ClientError):
    """The session has no such turn. Facts: session_id, turn."""

    code = "turn_not_found"


class SessionExists(ClientError):
    """The initial event was sent to a session that has begun. Facts: state, turn."""

    code = "session_exists"
    retry = "refresh"


class EventNotAllowed(ClientError):
    """The state has no edge for the event, or another's must edge is open.

    Facts: state, allowed_event_types, because (that edge's full name, or None).
    """

    code = "event_not_allowed"
    retry = "refresh"


class GuardRefused(ClientError):
    """The event has edges and none is open. Facts: state, allowed_event_types, why, considered."""

    code = "guard_refused"
    retry = "refresh"


class SessionEnded(ClientError):
    """The session is in a final state. Facts: ending, turn."""

    code = "session_ended"
    retry = "refresh"


class TurnInProgress(ClientError):
    """Another turn of this session is under way. Facts: same_key."""

    code = "turn_in_progress"
    retry = "same"


class StaleTurn(ClientError):
    """The client has not seen the head turn. Facts: expected_turn, turn, allowed_event_types."""

    code = "stale_turn"
    retry = "refresh"


class RewindRefused(ClientError):
    """The machine or the session's history doesn't let it go there. Facts: reasons."""

    code = "rewind_refused"
    retry = "refresh"


class IdempotencyMismatch(ClientError):
    """The Idempotency-Key was sent before with another request."""

    code = "idempotency_mismatch"


class MachineChanged(ClientError):
    """The session's own definition is not in the store. Facts: machine, digest, reasons."""

    code = "machine_changed"
    retry = "refresh"


class Forbidden(ClientError):
    """The caller's role may not do this. Facts: role_needed."""

    code = "forbidden"


class ValidationError(ClientError):
    """The request has the wrong shape. Facts: details [{loc, msg, type}], all faults at once."""

    code = "validation_error"


class UnknownEventType(ClientError):
    """The machine has no such event. Facts: machine, event_types, did_you_mean."""

    code = "unknown_event_type"


class OptionNotOffered(ClientError):
    """The option's id was not in the last offer, or one is needed. Facts: offered."""

    code = "option_not_offered"
    retry = "refresh"


class OptionEventMismatch(ClientError):
    """The chosen option belongs to another event. Facts: offered, event_type."""

    code = "option_event_mismatch"
    retry = "refresh"


class TextNotAllowed(ClientError):
    """A player's text holds what the session forbids. Facts: what."""

    code = "text_not_allowed"


class ConstraintsUnsatisfiable(ClientError):
    """No text at all is left under these constraints. Facts: what."""

    code = "constraints_unsatisfiable"


class BudgetExhausted(ClientError):
    """Nothing is left to tell another turn with. Facts: budget, and for a day's retry_after_seconds."""

    code = "budget_exhausted"
    retry: ClassVar[Retry] = "same"


class SessionBudgetExhausted(BudgetExhausted):
    """The session's own budget is used up: no day brings it back. Facts: budget."""

    retry: ClassVar[Retry] = "never"


class NotImplementedYet(ClientError):
    """The contract has it and this version has not. Facts: what."""

    code = "not_implemented"


class MachineFault(Refusal):
    """A guard or an assign errs (division by zero, overflow, a value outside its type).

    Facts: machine, edge.
    """

    code = "machine_fault"


class WorldError(Refusal):
    """Something outside failed; the same request may work later. Facts: rungs."""

    retry = "same"


class NarratorUnavailable(WorldError):
    """The narrator gave no answer in time."""

    code = "narrator_unavailable"


class NarrationInvalid(WorldError):
    """The narrator answered, and never within the schema and the constraints."""

    code = "narration_invalid"


class StoreUnavailable(WorldError):
    """The journal can't be read or written now."""

    code = "store_unavailable"


class Overloaded(WorldError):
    """Too much is waiting."""

    code = "overloaded"
