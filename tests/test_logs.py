"""The log: one line an event, whatever stands in it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from rounded_pbx import logs
from rounded_pbx.call import CallContext, CallerId, Switch, clean
from rounded_pbx.handler import log_call
from rounded_pbx.logs import CALL, JsonFormatter, TextFormatter
from rounded_pbx.records import CallRecord
from rounded_pbx.staging import Outcome, StagingResult

HOSTILE = "a\r\n2026-01-01 INFO forged\x1b[2J\x00\x85\u2028\u202e"
CALL_ID = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"


def call_record(text: str = "1.1") -> CallRecord:
    call = CallContext(
        switch=Switch.ASTERISK, did=text, caller=CallerId("+33612345678", text), unique_id=text
    )
    result = StagingResult(Outcome.STAGED, CALL_ID, text)
    return CallRecord.of(result, call.switch, call, None, ms=12, time=0.0)


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("rounded_pbx.x", logging.INFO, "", 0, message, arguments, None)
    made.__dict__.update(more)
    return made


@pytest.fixture
def in_a_call() -> Iterator[None]:
    token = CALL.set("1795328067.92")
    yield
    CALL.reset(token)


@pytest.mark.usefixtures("in_a_call")
def test_a_line_of_text_names_its_call() -> None:
    line = TextFormatter().format(record("%s calls", 2))
    assert line.endswith(" INFO rounded_pbx.x [1795328067.92]: 2 calls")


def test_a_line_that_belongs_to_no_call_names_none() -> None:
    assert TextFormatter().format(record("up")).endswith(" INFO rounded_pbx.x: up")
    assert "call" not in json.loads(JsonFormatter().format(record("up")))


@pytest.mark.usefixtures("in_a_call")
def test_a_line_of_json_is_an_object_with_the_time_in_utc() -> None:
    event = json.loads(JsonFormatter().format(record("é %d", 1, created=1.5, msecs=500.0)))
    assert event == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "info",
        "logger": "rounded_pbx.x",
        "message": "é 1",
        "call": "1795328067.92",
    }


def test_what_became_of_a_call_has_fields_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rounded_pbx"):
        log_call(call_record())
    event = json.loads(JsonFormatter().format(caplog.records[0]))
    assert event["message"].startswith("STAGED did=1.1 from=+3361234****")
    wanted = {"switch": "asterisk", "outcome": "STAGED", "call_id": CALL_ID, "ms": 12, "did": "1.1"}
    assert wanted.items() <= event.items()
    assert "33612345678" not in json.dumps(event)


def test_a_callers_number_stands_in_full_only_where_it_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "rounded_pbx"):
        log_call(call_record(), full_numbers=True)
    assert "from=+33612345678 " in caplog.messages[0]
    event = json.loads(JsonFormatter().format(caplog.records[0]))
    assert event["caller"] == "+33612345678"
    assert "33612345678" not in repr(call_record())


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_nothing_begins_a_line_of_its_own(
    formatter: logging.Formatter, caplog: pytest.LogCaptureFixture
) -> None:
    token = CALL.set(HOSTILE)
    try:
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            line = formatter.format(record(HOSTILE + "%s", HOSTILE, exc_info=sys.exc_info()))
    finally:
        CALL.reset(token)
    with caplog.at_level(logging.INFO, "rounded_pbx"):
        log_call(call_record(HOSTILE))
    lines = [line, formatter.format(caplog.records[0])]
    assert [clean(each, 100_000) for each in lines] == lines
    assert "forged" in line
    assert "ValueError" in line


def test_a_message_has_an_end() -> None:
    assert len(TextFormatter().format(record("x" * 1_000_000))) < 2 * logs.LONGEST


def test_the_format_can_be_changed_while_running(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept = (root.level, root.handlers[:])
    try:
        logs.configure("text", verbose=False)
        logging.getLogger("rounded_pbx.a").info("one")
        logging.getLogger("rounded_pbx.a").debug("not this one")
        logs.configure("json", verbose=True)
        logging.getLogger("rounded_pbx.a").debug("two")
        logging.getLogger("httpx").info("nor this")
    finally:
        root.handlers[:] = kept[1]
        root.setLevel(kept[0])
    one, two = capsys.readouterr().err.splitlines()
    assert one.endswith("INFO rounded_pbx.a: one")
    assert json.loads(two)["message"] == "two"
