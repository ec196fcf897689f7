"""What `trt-ff serve` reads about engines that stand in for each other, and about a candidate; opens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.serving.engines.budget import RolloutBudget
from trt_facefusion.serving.engines.canary import CanaryPool, CanarySettings
from trt_facefusion.serving.engines.events import OnEvent, drop_event
from trt_facefusion.serving.engines.pool import EnginePool
from trt_facefusion.serving.engines.pooled import PoolSettings
from trt_facefusion.serving.engines.rollout_file import LARGEST_WINDOW
from trt_facefusion.serving.engines.shares import parse_canary, parse_schedule, parse_share
from trt_facefusion.swap.engines import ChainOptions
from trt_facefusion.types import Note, Precision, drop_note

_CANARY, _ENGINES = "A candidate for a share of requests", "Engines that stand in for each other"
_NEEDS_CANARY = ("promote", "canary_state")


@dataclass(frozen=True, kw_only=True)
class CanaryOptions:
    """How a candidate is rolled out, and how long an inference may take."""

    canary: Annotated[
        Optional[str],
        typer.Option(
            help="The candidate, a precision or an engine's folder, and its share of requests: int8=5%.",
            rich_help_panel=_CANARY,
        ),
    ] = None
    shadow: Annotated[
        str,
        typer.Option(help="Share of requests on which it is compared with the baseline.", rich_help_panel=_CANARY),
    ] = "10%"
    promote: Annotated[
        Optional[str],
        typer.Option(
            help="Later shares, and after how many good comparisons or how long each: 25%,100%:1000 or 25%,100%:30m.",
            rich_help_panel=_CANARY,
        ),
    ] = None
    canary_window: Annotated[
        int,
        typer.Option(min=1, max=LARGEST_WINDOW, help="Its last so many comparisons decide.", rich_help_panel=_CANARY),
    ] = RolloutBudget.window
    canary_max_ssim_drop: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Mean SSIM lost against the baseline at most.", rich_help_panel=_CANARY),
    ] = RolloutBudget.max_ssim_drop
    canary_min_psnr: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="Mean PSNR at least, in dB.", rich_help_panel=_CANARY)
    ] = RolloutBudget.min_psnr_db
    canary_min_identity: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="Mean identity cosine at least.", rich_help_panel=_CANARY)
    ] = RolloutBudget.min_identity
    canary_max_faults: Annotated[
        int,
        typer.Option(
            min=0, help="Broken pictures and failures at most, within as many faces.", rich_help_panel=_CANARY
        ),
    ] = RolloutBudget.max_faults
    canary_state: Annotated[
        Optional[Path],
        typer.Option(help="File that the rollout is kept in; else beside the engines.", rich_help_panel=_CANARY),
    ] = None
    engine_timeout: Annotated[
        Optional[float],
        typer.Option(
            min=0.1,
            help="Seconds after which an inference counts as hanging; else 20 times what one takes, at least 10.",
            rich_help_panel=_ENGINES,
        ),
    ] = None

    def read(self) -> CanarySettings | None:
        """How the candidate is rolled out; None where there is none.

        Raises:
            BadInputError: an option is not understood, or speaks of a candidate that none is named.
        """
        if self.canary is None:
            named = [option for option in _NEEDS_CANARY if getattr(self, option) is not None]
            if named:
                option = f"--{named[0].replace('_', '-')}"
                raise BadInputError(f"{option} speaks of a candidate, and none is named", "name one: --canary int8=5%")
            return None
        spec = parse_canary(self.canary)
        if self.canary_max_faults >= self.canary_window:
            raise BadInputError(
                "--canary-max-faults allows as many faults as --canary-window has faces", "allow fewer, or look at more"
            )
        budget = RolloutBudget(
            self.canary_max_ssim_drop,
            self.canary_min_psnr,
            self.canary_min_identity,
            self.canary_max_faults,
            self.canary_window,
        )
        schedule = parse_schedule(self.promote, spec.share)
        return CanarySettings(spec, parse_share(self.shadow, "--shadow"), schedule, budget, self.canary_state)


def open_pool(
    paths: Sequence[Path],
    canary: CanaryOptions,
    *,
    precision: Precision | None = None,
    chain: ChainOptions | None = None,
    contract: Contract | None = None,
    embedder: Path | None = None,
    converter: Path | None = None,
    on_event: OnEvent = drop_event,
    note: Note = drop_note,
) -> EnginePool | CanaryPool:
    """The engines that ``paths`` name, with the candidate that the options name, if any.

    Args:
        paths: a model's folder, engines' folders, or one ONNX file.
        canary: the options.
        precision: that of the baseline; the cheapest where none is named. Cheaper ones are left out, but as candidates.
        chain: where engines run.
        contract: how an ONNX file is fed; engines say it themselves.
        embedder: the ONNX file that embeds faces, where the generator takes ArcFace's vectors.
        converter: the ONNX file that converts them, where it takes one.
        on_event: is told what happens to engines and the candidate, from any thread.
        note: takes messages while they are opened.

    Raises:
        TrtFaceFusionError: an option is wrong, or no engine can be opened.
    """
    rollout = canary.read()
    settings = PoolSettings(chain or ChainOptions(), infer_limit_s=canary.engine_timeout)
    if rollout is None:
        return EnginePool(
            paths, contract, settings, precision, embedder=embedder, converter=converter, on_event=on_event, note=note
        )
    return CanaryPool(
        paths,
        rollout,
        contract,
        settings,
        precision,
        embedder=embedder,
        converter=converter,
        on_event=on_event,
        note=note,
    )
