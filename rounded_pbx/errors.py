"""Every error that rounded_pbx raises on purpose.

RoundedPbxError
├── ConfigError           the configuration cannot be used; every problem at once
├── BadNumber             not a number that can be made E.164
├── SwitchError           the switch's side of the wire
│   ├── Hangup            the caller left, or the switch closed the session
│   ├── ProtocolError     bytes that the protocol does not allow, or too many of them
│   ├── CommandFailed     the switch refused a command of ours
│   │   └── NoPermission  we have not the right to give it
│   ├── SwitchUnreachable no answer when we logged in to the switch, or asked it
│   └── LoginRefused      the switch does not let us in: password or ACL
└── ApiError              the Rounded API's side
    ├── ApiUnreachable    DNS, TCP or TLS failed, or the connection broke
    ├── ApiServerError    5xx
    ├── ApiBadAnswer      an answer that is not in the contract: HTML, half a JSON, a redirect
    ├── ApiTimeout        408: the API's own deadline for a sync staging
    ├── ApiRejected       400, 404, 422 and every other 4xx: this request is wrong
    ├── ApiUnauthorized   401 or 403: the key is wrong
    └── ApiLimited        429
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: What a CancelledError says where a request spent most of its time waiting for its turn here.
OUR_QUEUE = "no connection was free"


class RoundedPbxError(Exception):
    """The root of the tree."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a configuration file: where it is and what would be right."""

    file: str
    line: int
    text: str

    def __post_init__(self) -> None:
        # One mistake is one line, whatever stands in the key that it names.
        text = re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", "?", self.text)
        object.__setattr__(self, "text", text)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class ConfigError(RoundedPbxError):
    """The configuration cannot be used; ``problems`` holds every mistake found, in line order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class BadNumber(RoundedPbxError):
    """A number is missing, or is none that E.164 can express."""


class SwitchError(RoundedPbxError):
    """Something went wrong on the wire to the switch."""


class Hangup(SwitchError):
    """The caller left, or the switch closed the session."""


class ProtocolError(SwitchError):
    """The peer sent what its protocol does not allow, or more than we read."""


class CommandFailed(SwitchError):
    """The switch answered a command of ours with an error."""


class NoPermission(CommandFailed):
    """The switch's user whom we are logged in as has not the right to do this."""


class SwitchUnreachable(SwitchError):
    """The switch does not answer, or not in time."""


class LoginRefused(SwitchError):
    """The switch does not let us in: the password is wrong, or an ACL of its own."""


class ApiError(RoundedPbxError):
    """The Rounded API could not do what was asked.

    Args:
        message: what happened, in the API's words where it spoke.
        status: the HTTP status, or None where there was no answer.
        details: the error envelope's ``(field, message)`` pairs.
        retry_after: seconds, from the Retry-After header, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        details: tuple[tuple[str, str], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        self.message = message
        self.status = status
        self.details = details
        self.retry_after = retry_after
        fields = "; ".join(f"{field}: {text}" if field else text for field, text in details)
        super().__init__(f"{message} ({fields})" if fields else message)


class ApiUnreachable(ApiError):
    """No answer came: DNS, TCP or TLS failed, or the connection broke.

    ``safe_to_retry`` says that the API cannot have seen the request: the connection was never
    made, or it was a kept-alive one that had been closed before a byte of an answer came.
    """

    def __init__(self, message: str, *, safe_to_retry: bool = False) -> None:
        super().__init__(message)
        self.safe_to_retry = safe_to_retry


class ApiServerError(ApiError):
    """The API answered 5xx."""


class ApiBadAnswer(ApiError):
    """The API's answer is not one that its contract knows."""


class ApiTimeout(ApiError):
    """408: the API gave up waiting for the agent to be ready (``sync=true``)."""


class ApiRejected(ApiError):
    """400, 404, 422 or another 4xx: sending the same request again would not help."""


class ApiUnauthorized(ApiError):
    """401 or 403: the API key is wrong, or may not do this."""


class ApiLimited(ApiError):
    """429: too many requests."""
