"""`report`, and the report that a build leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workplace import Outcome, Workplace

Command = Callable[[list[str]], Outcome]


def test_a_build_leaves_a_report_that_can_be_written_again(place: Workplace, command: Command) -> None:
    page = Path(command(place.options()).err.rpartition("report: ")[2].strip())
    first = page.read_text()
    page.unlink()
    assert command(["report", str(place.root / "reports"), "--json"]).json["report"] == str(page)
    assert page.read_text() == first
    elsewhere = place.root / "page.html"
    assert command(["report", str(page.parent), "-o", str(elsewhere)]).code == 0
    assert elsewhere.read_text() == first


def test_no_report_is_written_where_none_is_wanted(place: Workplace, command: Command) -> None:
    assert "report: " not in command(place.options(no_report=True)).err
    assert not (place.root / "reports").exists()


def test_a_report_that_cannot_be_written_does_not_fail_the_build(place: Workplace, command: Command) -> None:
    (place.root / "reports").write_text("a file is in the way")
    outcome = command(place.options())
    assert outcome.code == 0 and "no report" in outcome.err
    assert "--reports" in outcome.err


def test_a_folder_without_a_record_is_refused(place: Workplace, command: Command) -> None:
    outcome = command(["report", str(place.root), "--json"])
    assert outcome.code == 2 and "no record" in outcome.json["error"]["message"]
