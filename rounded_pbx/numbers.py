"""Phone numbers: E.164, and what stands for a caller who shows none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from .call import CallerId
from .errors import BadNumber

#: What the API accepts, from its contract.
E164 = re.compile(r"\+[1-9][0-9]{6,14}")

# What people and switches put around digits. Letters would be read as a keypad ("0800 FLOWERS")
# and other scripts' digits as ours, so only these characters reach the parser.
_DIALLABLE = re.compile(r"\+?[0-9][0-9 ().\-/]{1,38}")

# What switches and carriers write where they have no number.
_WITHHELD = frozenset(
    [
        "",
        "-",
        "anonymous",
        "asterisk",
        "private",
        "restricted",
        "unavailable",
        "unknown",
        "withheld",
    ]
)


@dataclass(frozen=True, slots=True)
class CallerPolicy:
    """The number that stands for a caller without one; None refuses the call (BAD_NUMBER)."""

    withheld: str | None = None
    malformed: str | None = None


@lru_cache(maxsize=4096)
def to_e164(number: str, country: str | None) -> str:
    """``number`` as E.164, read in ``country`` (ISO 3166, two letters) where it has no plus.

    Numbers are checked to be possible, not to be assigned. One that is impossible in ``country``
    but valid with a plus in front comes from a trunk that leaves the plus out.

    Raises:
        BadNumber: it is no number, or an impossible one. The message never repeats it.
    """
    if not _DIALLABLE.fullmatch(number):
        raise BadNumber("not a phone number")
    e164 = _possible(number, country) or _valid_without_plus(number)
    if e164 is None or not E164.fullmatch(e164):
        raise BadNumber(f"not a possible number in {country}" if country else "not in E.164")
    return e164


def _possible(number: str, country: str | None) -> str | None:
    import phonenumbers  # 60 ms and 20 MB: `rounded-pbx --help` need not pay for it

    try:
        parsed = phonenumbers.parse(number, country)
    except phonenumbers.NumberParseException:
        return None
    # Not is_possible_number(): it also takes a local number without its area code.
    if (
        phonenumbers.is_possible_number_with_reason(parsed)
        != phonenumbers.ValidationResult.IS_POSSIBLE
    ):
        return None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def _valid_without_plus(number: str) -> str | None:
    import phonenumbers

    if number.startswith(("+", "0")):
        return None
    try:
        parsed = phonenumbers.parse("+" + number)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def shows_none(caller: CallerId) -> bool:
    """Whether the caller is withheld, by presentation or by what stands for a number."""
    return caller.withheld or caller.number.strip().lower() in _WITHHELD


def caller_number(caller: CallerId, policy: CallerPolicy, country: str | None) -> str:
    """The caller's number as E.164, or the policy's where it is withheld or is none.

    Raises:
        BadNumber: the caller shows no usable number and the policy replaces it by none.
    """
    if shows_none(caller):
        if policy.withheld is None:
            raise BadNumber("caller withheld, and numbers.withheld is not set")
        return policy.withheld
    try:
        return to_e164(caller.number.strip(), country)
    except BadNumber as error:
        if policy.malformed is None:
            raise BadNumber(f"caller: {error}, and numbers.malformed is not set") from None
        return policy.malformed
