"""What goes wrong with a request, as HTTP and OpenAI's clients know it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamacli.errors import (
    DoesNotFitError,
    InvalidModelError,
    LlamacliError,
    NotFoundError,
    UnreachableError,
    UsageError,
)

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 405: "invalid_request_error", 408: "timeout_error",
    413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error",
    500: "server_error", 503: "overloaded_error",
}  # fmt: skip


@dataclass
class Fault(Exception):
    """A request that ends without an answer: its status and what a client is told.

    param is the field's path, as `messages.2.content`. details are for programs, where an API has
    them.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        return KINDS.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, which with its type is Anthropic's, too."""
        told: dict[str, Any] = {"message": self.message, "type": self.kind, "param": self.param,
                                "code": self.code}  # fmt: skip
        if self.details:
            told["details"] = dict(self.details)
        return {"type": "error", "error": told}


class Ended(LlamacliError):
    """An answer that the server ended: it stops, or the time is over."""


def invalid(path: str, problem: str) -> Fault:
    """422 with the field's path."""
    return Fault(422, f"{path} {problem}", path, "invalid_value")


def unsupported(path: str, instead: str = "") -> Fault:
    """422 for a field that is known and can't be honoured."""
    return Fault(422, f"{path} is not supported{instead}", path, "unsupported_parameter")


def too_long(prompt: int, context: int) -> Fault:
    """400, as OpenAI has it: clients don't try again."""
    return Fault(
        400,
        f"the prompt has {prompt} tokens, the context {context}; shorten it, or start the server "
        "with a larger -c",
        code="context_length_exceeded",
    )


def as_fault(error: BaseException) -> Fault:
    """An error from below as a client is told of it."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, UsageError):
        return Fault(422, str(error), code="invalid_value")
    if isinstance(error, UnreachableError):
        return Fault(503, str(error), code="worker_lost", headers={"Retry-After": "10"})
    if isinstance(error, NotFoundError):
        return Fault(404, str(error), code="model_not_found")
    if isinstance(error, DoesNotFitError | InvalidModelError):
        return Fault(400, str(error), code="cannot_be_answered")
    if isinstance(error, Ended):
        return Fault(503, str(error), code="ended")
    if isinstance(error, LlamacliError):
        return Fault(500, str(error))
    return Fault(500, f"unexpected {type(error).__name__}")
