"""The audit log: JSON lines in a file that may be moved away, and no flood of refusals."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.audit import Audit, write_audit_to
from server.errors import StartupError
from valuemodels.contract.throttle import Throttle, left_out


@pytest.fixture
def audit_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("mavis.audit")
    before = list(logger.handlers), logger.propagate, logger.level
    yield logger
    logger.handlers, logger.propagate, logger.level = before


@pytest.mark.usefixtures("audit_logger")
def test_every_entry_is_one_line_of_json_in_the_file_that_has_the_name_now(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_audit_to(path)
    audit = Audit()
    audit.note("change", generation='with "quotes"\nand lines \u2028', fields={"beta": 1.0})
    path.rename(tmp_path / "audit.log.1")
    audit.note("change", generation="next")
    (first,) = (tmp_path / "audit.log.1").read_text().splitlines()
    (second,) = path.read_text().splitlines()
    assert json.loads(first)["generation"] == 'with "quotes"\nand lines \u2028' and json.loads(first)["at"]
    assert json.loads(second)["generation"] == "next"


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="MAVIS_AUDIT_LOG"):
        write_audit_to(tmp_path / "nowhere" / "audit.log")


def test_a_burst_passes_then_so_many_a_second_and_what_was_left_out_is_counted() -> None:
    now = [0.0]
    throttle = Throttle(burst=3, interval_s=2.0, clock=lambda: now[0])
    assert [throttle.admit() for _ in range(5)] == [0, 0, 0, None, None]
    now[0] += 2.0
    assert [throttle.admit() for _ in range(2)] == [2, None]
    now[0] += 1000.0
    assert [throttle.admit() for _ in range(4)] == [1, 0, 0, None], "a long pause allows one burst, not a thousand"
    assert left_out(0) == "" and "7 more" in left_out(7)
