"""How two models are fed alike: the one contract that both have, or that the user describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.inference.described import require_templates
from trt_facefusion.inference.identity import find_projection
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.export.onnx_file import load_model
from trt_facefusion.model.graph import read_input_specs
from trt_facefusion.model.presets import Preset
from trt_facefusion.model.presets.binding import bind_preset, is_open
from trt_facefusion.model.presets.contract import PRESET_FILE, Contract
from trt_facefusion.model.presets.fit import suggest_inputs


def agree_on_contract(a: OpenedModel, b: OpenedModel, described: Preset | None) -> Contract:
    """How both are fed: what their folders say, or what the user describes.

    Raises:
        BadInputError: the two are fed differently, nobody says how they are fed, both the folder and the user do, or
            a crop template is not known.
        ModelError: the preset multiplies embeddings with a matrix that is in neither file.
    """
    contract = _choose_contract(a, b, described)
    require_templates(contract.preset)
    return contract


def _choose_contract(a: OpenedModel, b: OpenedModel, described: Preset | None) -> Contract:
    describing = [model for model in (a, b) if model.contract is not None]
    if describing and described is not None:
        raise BadInputError(
            f"{describing[0].label} says itself how it is fed",
            "leave --preset and --input out; they are for bare ONNX files",
        )
    if described is not None:
        if is_open(described):
            described = bind_preset(described, read_input_specs(load_model(a.graph)))
        return Contract(described, _find_projection(described, a, b))
    if not describing:
        with OnnxRuntimeRunner(a.graph) as runner:
            takes = runner.inputs
        raise BadInputError(
            f"nothing says what the inputs of {a.label} are. It takes {'; '.join(map(str, takes))}",
            f"name a --preset, or describe each input, perhaps with {suggest_inputs(takes)}",
        )
    contracts = [model.contract for model in describing if model.contract is not None]
    if len(contracts) == 2 and _list_fed_facts(contracts[0]) != _list_fed_facts(contracts[1]):
        different = _format_differences(a, b, *contracts)
        raise BadInputError(
            f"{a.label} and {b.label} are fed differently, so their pictures cannot be compared: {different}",
            "compare two engines of one model; build one of them again with the inputs of the other",
        )
    return contracts[0]


def _find_projection(preset: Preset, a: OpenedModel, b: OpenedModel) -> Any:
    try:
        return find_projection(preset, load_model(a.graph))
    except ModelError:
        return find_projection(preset, load_model(b.graph))


def _list_fed_facts(contract: Contract) -> dict[str, Any]:
    """Everything that decides what is fed; the preset's name does not."""
    files: dict[str, Any] = dict(contract.files())
    described = json.loads(files.pop(PRESET_FILE))
    del described["name"]
    return {**files, **described}


def _format_differences(a: OpenedModel, b: OpenedModel, first: Contract, second: Contract) -> str:
    one, two = _list_fed_facts(first), _list_fed_facts(second)
    texts = []
    for key in sorted(one.keys() | two.keys()):
        if one.get(key) == two.get(key):
            continue
        if key == "inputs":
            texts.append(f"{_format_inputs(one[key])} against {_format_inputs(two[key])}")
        elif isinstance(one.get(key), bytes) or isinstance(two.get(key), bytes):
            texts.append(f"other values in {key}")
        else:
            texts.append(f"{key} {one.get(key)} against {two.get(key)}")
    return "; ".join(texts)


def _format_inputs(inputs: list[Mapping[str, Any]]) -> str:
    def format_input(spec: Mapping[str, Any]) -> str:
        details = ", ".join(f"{key} {text}" for key, text in spec.items() if key not in {"name", "kind"})
        return f"{spec['name']} = {spec['kind']}" + (f" ({details})" if details else "")

    return "[" + "; ".join(map(format_input, inputs)) + "]"
