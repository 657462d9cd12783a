"""What goes wrong with a request, as HTTP and OpenAI's clients know it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamacli import errors

# By status; the others are an invalid_request_error.
KINDS = {
    401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large",
    429: "rate_limit_error", 500: "server_error", 503: "overloaded_error",
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

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, which with its type is Anthropic's, too."""
        kind = KINDS.get(self.status, "invalid_request_error")
        told: dict[str, Any] = {"message": self.message, "type": kind, "param": self.param,
                                "code": self.code}  # fmt: skip
        if self.details:
            told["details"] = dict(self.details)
        return {"type": "error", "error": told}


# What a request may end with, of others' making; anything else is a fault of ours.
FAULTS = (Fault, errors.LlamacliError, RecursionError)


class Ended(errors.LlamacliError):
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


# What a client is told of an error from below: status and code, of the first kind that it is.
TOLD: dict[type[errors.LlamacliError], tuple[int, str | None]] = {
    errors.UsageError: (422, "invalid_value"),
    errors.UnreachableError: (503, "worker_lost"),
    errors.NotFoundError: (404, "model_not_found"),
    errors.DoesNotFitError: (400, "cannot_be_answered"),
    errors.InvalidModelError: (400, "cannot_be_answered"),
    Ended: (503, "ended"),
    errors.LlamacliError: (500, None),
}


def as_fault(error: BaseException) -> Fault:
    """An error from below as a client is told of it."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, RecursionError):
        return Fault(400, "the request nests too deeply", code="invalid_json")
    for kind, (status, code) in TOLD.items():
        if isinstance(error, kind):
            headers = {"Retry-After": "10"} if kind is errors.UnreachableError else {}
            return Fault(status, str(error), code=code, headers=headers)
    return Fault(500, f"unexpected {type(error).__name__}")
