"""Curation as a whole: survey a folder, look at a generator's activations if there is one, select."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trt_facefusion.build.activations import measure_activations
from trt_facefusion.faces.curation.chip import SIZE, TEMPLATE
from trt_facefusion.faces.curation.coverage import CoverageFinding, FaceCoverage, measure_coverage
from trt_facefusion.faces.curation.select import Selection, select
from trt_facefusion.faces.curation.survey import Survey, survey_folder
from trt_facefusion.faces.embedder import DlibEmbedder, Embedder
from trt_facefusion.faces.faceset import require_enough
from trt_facefusion.inference.described import prepare_described
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.inference.feeder import Feeder, list_input_shapes
from trt_facefusion.inference.identity import find_projection
from trt_facefusion.model.export import ModelSource
from trt_facefusion.model.presets import Preset
from trt_facefusion.types import Progress, silent

LEAST_FACES = 2
"""A swap needs two people."""


@dataclass(frozen=True)
class Generator:
    """A generator whose activations the selection is spread over as well."""

    source: ModelSource
    preset: Preset
    embedder: Path | None = None
    converter: Path | None = None

    def open_embedder(self) -> Embedder:
        """The embedder that its source faces go through; dlib's where none is named."""
        return open_embedder(self.preset, self.embedder, self.converter)


@dataclass(frozen=True, eq=False)
class Curated:
    """A selection, the survey that it was made from, and whether a generator was asked."""

    survey: Survey
    selection: Selection
    generator: str | None

    @cached_property
    def selected(self) -> Survey:
        """The survey of the chosen photos."""
        return self.survey.subset(self.selection.indices)

    @cached_property
    def coverage(self) -> Mapping[str, FaceCoverage]:
        """Coverage "before" (the whole folder) and "after" (the selection)."""
        return {
            "before": measure_coverage(self.survey),
            "after": measure_coverage(self.selected, advised=len(self.selected)),
        }

    @property
    def problems(self) -> tuple[CoverageFinding, ...]:
        """What is wrong with the folder, and with the selection where the folder's problems do not say it already."""
        folder, selection = self.coverage["before"].problems, self.coverage["after"].problems
        kinds = {finding.kind for finding in folder}
        return (*folder, *(finding for finding in selection if finding.kind not in kinds))


def curate(
    folder: Path, count: int, generator: Generator | None = None, *, aligned: bool = False, progress: Progress = silent
) -> Curated:
    """Choose ``count`` photos of ``folder``.

    Raises:
        FacesError: no such folder, fewer than two faces, or none that is good enough.
        BadInputError: the description does not fit the generator.
        ModelError: the generator cannot be read or run.
    """
    embedder: Embedder = DlibEmbedder() if generator is None else generator.open_embedder()
    prepared = projection = None
    template, size = TEMPLATE, SIZE
    if generator is not None:  # a model that does not fit is told before photos are read
        model = generator.source.load(list_input_shapes(generator.preset, embedder.fed_dim))
        prepared = prepare_described(model, generator.preset, embedder.fed_dim).prepared
        projection = find_projection(generator.preset, model)
        template, size = generator.preset.crops[0]
    survey = survey_folder(folder, embedder=embedder, template=template, size=size, aligned=aligned, progress=progress)
    require_enough(survey.faces, LEAST_FACES)
    activations = None
    if generator is not None and prepared is not None:
        fixed = None if prepared.dynamic_batch else prepared.fixed_batch
        feeder = Feeder(generator.preset, survey.faces, embedder, projection, fixed, prepared.inputs)
        activations = measure_activations(prepared, feeder, progress)
    selection = select(survey, count, same_person=embedder.same_person, activations=activations)
    return Curated(survey, selection, None if generator is None else generator.source.name)
