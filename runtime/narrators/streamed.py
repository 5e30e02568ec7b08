"""A chat completion out of bytes as they come: streamed as events, or whole as JSON. Pure: no I/O.

What arrives says which of the two it is: servers answer JSON though a stream was asked for, and
some name either by the other's media type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.narrators import chat
from runtime.narrators.sse import Events

if TYPE_CHECKING:
    from runtime.narrators.profile import Profile
    from runtime.session import Usage

DONE = "[DONE]"
_REASONING = ("reasoning_content", "reasoning")
"""Where servers put what a model thinks before it answers; one of them, some repeat it under the other name."""
_BLANKS = b" \t\r\n"


class Streamed:
    """Reads one answer: `feed` it every piece, then `end` it.

    `text` is what the model has written so far, without its reasoning. `finish` is the provider's
    finish_reason, '' while it has given none. `is_over`: nothing of the answer can follow. `trouble`
    says that the provider failed in the middle of it, with its own short word for why.
    """

    def __init__(self, profile: Profile) -> None:
        """Take the profile, which says how usage is read and which model was asked."""
        self._profile = profile
        self._events: Events | None = None
        self._whole = bytearray()
        self.text = ""
        self._thought: list[str] = []
        self.finish = ""
        self.model = profile.model
        self.usage: Usage = chat.usage_of(None, profile)
        self.is_over = False
        self.trouble = ""

    @property
    def written(self) -> str:
        """All that the model is known to have written, its reasoning and what is not read yet included."""
        unread = self._whole.decode("utf-8", "replace") if self._whole[:1] == b"{" and not self.is_over else ""
        return f"{''.join(self._thought)}{self.text}{unread}"

    def feed(self, piece: bytes) -> str:
        """Take a piece; what the model wrote in it, '' for noise."""
        if self._whole:
            self._whole += piece
            return ""
        if self._events is None:
            self._begin(piece.lstrip(_BLANKS))  # blanks before an answer are noise, whatever it is
        if self._events is None:
            return ""
        return "".join([self._event(data) for data in self._events.feed(piece)])

    def end(self) -> str:
        """The answer has ended; what only now can be read of it. Raises chat.NoReplyError."""
        if self._events is not None:
            rest = "".join([self._event(data) for data in self._events.end()])
            if not self.text.strip() and not self.finish and not self.trouble:
                reason = "a stream without an answer"
                raise chat.NoReplyError(reason)
            return rest
        reply = chat.reply_of(bytes(self._whole), self._profile)
        self.text, self.finish, self.model, self.usage = reply.content, reply.finish, reply.model, reply.usage
        self.is_over = True
        return reply.content

    def _begin(self, piece: bytes) -> None:
        if piece[:1] in (b"{", b"[", b"<"):
            self._whole += piece
        elif piece:
            self._events = Events()

    def _event(self, data: str) -> str:
        if data.strip() == DONE:
            self.is_over = True
            return ""
        try:
            found = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return ""  # noise in a field of data is noise
        is_read = isinstance(found, dict) and not self.is_over and not self.trouble
        return self._chunk(found) if is_read else ""

    def _chunk(self, chunk: Mapping[str, Any]) -> str:
        if chunk.get("error") or ("choices" not in chunk and "message" in chunk):
            code = chat.code_of(chunk)
            self.trouble = f"an error ({code})" if code else "an error"
            return ""
        self.model = chat.model_of(chunk.get("model"), self.model)
        if chunk.get("usage"):
            self.usage = chat.usage_of(chunk["usage"], self._profile)
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        if isinstance(choice.get("finish_reason"), str):
            self.finish = choice["finish_reason"]
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        self._thought += [delta[name] for name in _REASONING if isinstance(delta.get(name), str)][:1]
        word = delta.get("content")
        if not isinstance(word, str):
            return ""
        self.text += word
        return word
