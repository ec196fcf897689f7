"""`trt-ff canary`: how far a candidate's rollout is, and a person's word in it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from trt_facefusion.cli import console, options
from trt_facefusion.errors import BadInputError, GateError
from trt_facefusion.serving.engines.budget import average
from trt_facefusion.serving.engines.rollout import Phase, Rollout, decide
from trt_facefusion.serving.engines.rollout_file import NAME, RolloutFile
from trt_facefusion.serving.engines.shares import write_share

app = typer.Typer(help="Look at the rollout of a candidate, promote it, or roll it back.", no_args_is_help=True)

State = Annotated[
    Path, typer.Option(help=f"The rollout's file, or the folder with {NAME} in it: the model's, unless moved.")
]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the decision.")]


@app.command("status", epilog=console.EXIT_CODES)
def status_command(state: State, as_json: options.AsJson = False) -> None:
    """Show how far the rollout is. Exits with 3 where the candidate was rolled back."""
    rollout = _require(_open(state).read(), state)
    if as_json:
        console.print_json(_describe(rollout))
    else:
        _show(rollout)
    if rollout.phase == Phase.ROLLED_BACK.value:
        raise typer.Exit(GateError.exit_code)


@app.command("promote", epilog=console.EXIT_CODES)
def promote_command(
    state: State,
    force: Annotated[bool, typer.Option("--force", help="Also a candidate that was rolled back.")] = False,
    reason: Reason = "asked for with trt-ff canary promote",
    as_json: options.AsJson = False,
) -> None:
    """Let the candidate become the baseline. A running service does it within a second."""

    def check(rollout: Rollout) -> None:
        if rollout.phase == Phase.ROLLED_BACK.value and not force:
            raise GateError(
                f"{rollout.candidate_label} was rolled back: {rollout.reason}",
                "build a better candidate, which begins anew; or promote this one all the same with --force",
            )

    _decide(state, Phase.PROMOTED, reason, check, as_json)


@app.command("rollback", epilog=console.EXIT_CODES)
def rollback_command(
    state: State, reason: Reason = "asked for with trt-ff canary rollback", as_json: options.AsJson = False
) -> None:
    """Let nobody see the candidate any more, also where it was promoted. A running service does it within a second."""
    _decide(state, Phase.ROLLED_BACK, reason, lambda rollout: None, as_json)


def _decide(state: Path, phase: Phase, reason: str, check: Callable[[Rollout], None], as_json: bool) -> None:
    def change(stored: Rollout | None) -> Rollout | None:
        rollout = _require(stored, state)
        check(rollout)
        return None if rollout.phase == phase.value else decide(rollout, phase, reason, time.time())

    file = _open(state)
    written = file.update(change)
    rollout = _require(written or file.read(), state)
    if as_json:
        console.print_json(_describe(rollout))
        return
    word = {Phase.PROMOTED: "promoted", Phase.ROLLED_BACK: "rolled back"}[phase]
    before = "" if written is not None else "already "
    console.line(f"{rollout.candidate_label}: {before}{word}")


def _open(state: Path) -> RolloutFile:
    return RolloutFile(state / NAME if state.is_dir() else state)


def _require(rollout: Rollout | None, state: Path) -> Rollout:
    if rollout is None:
        raise BadInputError(
            f"{state} holds no rollout",
            f"name the folder that holds {NAME}, or that file, with --state",
        )
    return rollout


def _describe(rollout: Rollout) -> dict[str, Any]:
    document = dataclasses.asdict(rollout)
    window = document.pop("window")
    means = dataclasses.asdict(average(rollout.window)) if rollout.window else None
    return {**document, "reason": rollout.reason, "window": {"comparisons": len(window), "mean": means}}


def _show(rollout: Rollout) -> None:
    console.line(f"{rollout.candidate_label} in place of {rollout.baseline_label}")
    share = write_share(rollout.share)
    colour = {Phase.ROLLED_BACK.value: "red", Phase.PROMOTED.value: "green"}.get(rollout.phase, "bold")
    console.line(console.styled(rollout.phase.replace("_", " "), colour), f", {share} of requests: {rollout.reason}")
    console.show(_tabulate_figures(rollout))
    steps = rollout.plan.schedule.steps[rollout.step :]
    if steps and rollout.phase == Phase.RUNNING.value:
        schedule = rollout.plan.schedule
        every = f"{schedule.comparisons} comparisons" if schedule.comparisons else f"{schedule.seconds:.0f} s"
        console.line(
            f"next {', '.join(map(write_share, steps))} of requests, each after {every}; "
            f"{rollout.step_comparisons} comparisons since the last one"
        )
    table = _open_table("when", "what", "why")
    for decision in rollout.history:
        table.add_row(*map(console.plain, (decision.when, decision.what.replace("_", " "), decision.reason)))
    console.show(table)


def _tabulate_figures(rollout: Rollout) -> Table:
    budget, table = rollout.plan.budget, _open_table("", "window", "allowed")
    if rollout.window:
        means = average(rollout.window)
        table.add_row("SSIM drop", f"{1 - means.ssim:.4f}", f"<= {budget.max_ssim_drop:.4f}")
        table.add_row("PSNR", f"{means.psnr_db:.2f} dB", f">= {budget.min_psnr_db:.2f} dB")
        table.add_row("identity cosine", f"{means.identity:.4f}", f">= {budget.min_identity:.4f}")
    table.add_row("faults", str(len(rollout.fault_marks)), f"<= {budget.max_faults}")
    table.add_row("comparisons", f"{len(rollout.window)} of {budget.window}", "")
    table.add_row("in all", f"{rollout.comparisons} comparisons, {rollout.faces} faces, {rollout.faults} faults", "")
    return table


def _open_table(*columns: str) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
