"""What is written for Triton: every configuration parses, fits the engine, and appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import packaged_engines as engines
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.cli.main import run
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.triton import python_models, releases, repository
from trt_facefusion.triton.border import GeneratorBorder
from trt_facefusion.triton.configs import ServingSettings
from trt_facefusion.triton.gpus import NO_ENGINE
from trt_facefusion.triton.messages import find_type, load_messages, make_config, read_config, write_config
from trt_facefusion.triton.repository import CI_CONFIG, CONFIG, PackageRequest, package_engines
from trt_facefusion.triton.steps import PhotoSteps
from trt_facefusion.types import BatchRange, TensorSpec

_FOLDERS = {"1", "warmup", "configs", "config.pbtxt"}
MODELS = ("swap", "swap_preprocess", "swap_postprocess", "swap_photo")


@pytest.fixture(scope="module")
def packaged(a10g_engine: Path, l4_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository for two GPUs; no test changes it."""
    root = tmp_path_factory.mktemp("packaged") / "model_repository"
    package_engines(PackageRequest((a10g_engine, l4_engine), root, "swap", ("a10g", "l4")))
    return root


def config_of(root: Path, model: str, file: str = CONFIG) -> Any:
    return read_config((root / model / file).read_bytes())


def dims(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in tensors}


def type_of(tensor: Any) -> str:
    return str(load_messages().DataType.Name(tensor.data_type))


def test_every_model_has_its_configuration_and_its_version(packaged: Path) -> None:
    assert sorted(path.name for path in packaged.iterdir() if path.is_dir()) == sorted(MODELS)
    for model in MODELS:
        assert config_of(packaged, model).name == model
        assert [path.name for path in (packaged / model).iterdir() if path.name.isdigit()] == ["1"]


def test_dims_leave_the_batch_out_and_batches_stay_within_the_profile(packaged: Path) -> None:
    config = config_of(packaged, "swap")
    assert config.platform == "tensorrt_plan" and config.max_batch_size == 8
    assert dims(config.input) == {"image": (3, engines.SIDE, engines.SIDE), "identity": (128,)}
    assert dims(config.output) == {"picture": (3, engines.SIDE, engines.SIDE)}
    assert all(type_of(tensor) == "TYPE_FP32" for tensor in (*config.input, *config.output))
    assert config.HasField("dynamic_batching") and not config.dynamic_batching.preferred_batch_size
    assert not config.dynamic_batching.HasField("default_queue_policy")
    (group,) = config.instance_group
    assert group.kind == group.KIND_GPU and not group.profile


def test_every_gpu_has_its_file_and_another_one_has_none(packaged: Path) -> None:
    config = config_of(packaged, "swap")
    assert dict(config.cc_model_filenames) == {"8.6": "model_sm86.plan", "8.9": "model_sm89.plan"}
    assert config.default_model_filename == NO_ENGINE
    for name in config.cc_model_filenames.values():
        assert (packaged / "swap" / "1" / name).is_file()
        assert json.loads((packaged / "swap" / "1" / f"{Path(name).stem}.manifest.json").read_text())["target"]
    assert not (packaged / "swap" / "1" / NO_ENGINE).exists()


def test_the_configuration_for_ci_is_the_same_on_a_cpu(packaged: Path) -> None:
    real, ci = config_of(packaged, "swap"), config_of(packaged, "swap", CI_CONFIG)
    assert ci.platform == "onnxruntime_onnx" and (packaged / "swap" / "1" / ci.default_model_filename).is_file()
    assert [group.kind for group in ci.instance_group] == [ci.instance_group[0].KIND_CPU]
    assert (list(ci.input), list(ci.output), ci.max_batch_size) == (
        list(real.input),
        list(real.output),
        real.max_batch_size,
    )


def test_warm_up_has_a_face_for_every_input(packaged: Path) -> None:
    config = config_of(packaged, "swap")
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 8]
    for warmup in config.model_warmup:
        assert set(warmup.inputs) == {"image", "identity"}
        for sample in warmup.inputs.values():
            values = np.fromfile(packaged / "swap" / "warmup" / sample.input_data_file, np.float32)
            assert values.size == np.prod(list(sample.dims)) and np.isfinite(values).all() and values.std() > 0


def test_the_ensemble_wires_what_the_others_take_and_give(packaged: Path) -> None:
    configs = {model: config_of(packaged, model) for model in MODELS}
    ensemble = configs["swap_photo"]
    known = {tensor.name for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        config = configs[step.model_name]
        assert set(step.input_map) == set(dims(config.input)) and set(step.output_map) <= set(dims(config.output))
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert set(dims(ensemble.output)) <= known
    assert all(type_of(tensor) == "TYPE_STRING" for tensor in (*ensemble.input, *ensemble.output))
    assert dims(configs["swap_preprocess"].output)["image"] == (1, 3, engines.SIDE, engines.SIDE)


def test_the_steps_alone_give_the_generators_inputs_and_a_photo(packaged: Path, sample_faces: Path) -> None:
    steps = PhotoSteps.load(packaged / "swap_preprocess" / "1")
    source, target = (file.read_bytes() for file in sorted(sample_faces.glob("*.jpg"))[33:35])
    tensors = steps.prepare([source], target)
    declared = config_of(packaged, "swap_preprocess").output
    assert {name: values.shape for name, values in tensors.items()} == dims(declared)
    picture = {"picture": tensors["image"][:, ::-1]}
    photo = steps.finish(target, tensors["face_matrix"], tensors["face_crop"], picture)
    assert photo[:2] == b"\xff\xd8" and b"AI-generated" in photo and photo != target


def test_an_engine_of_onnxruntime_runs_on_the_cpu(onnx_engine: Path, tmp_path: Path) -> None:
    package_engines(PackageRequest((onnx_engine,), tmp_path / "r", "swap", ensemble=False))
    config = config_of(tmp_path / "r", "swap")
    assert config.platform == "onnxruntime_onnx" and config.default_model_filename == "model.onnx"
    assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU
    assert [path.name for path in (tmp_path / "r").iterdir() if path.is_dir()] == ["swap"]


def test_a_graph_of_one_face_is_not_batched(tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        engine = engines.build_engine(tmp_path, faces, fixed=True, batch=BatchRange())
    notes: list[str] = []
    package_engines(PackageRequest((engine,), tmp_path / "r", "swap"), notes.append)
    config = config_of(tmp_path / "r", "swap")
    assert config.max_batch_size == 0 and dims(config.input)["image"] == (1, 3, engines.SIDE, engines.SIDE)
    assert not config.HasField("dynamic_batching") and [w.batch_size for w in config.model_warmup] == [0]
    assert any("one face at a time" in note for note in notes)


def test_a_restorer_takes_no_source(
    tmp_path: Path, faces: Path, sample_faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        engine = engines.build_engine(tmp_path, faces, embedding=None)
    package_engines(PackageRequest((engine,), tmp_path / "r", "restore"))
    assert [tensor.name for tensor in config_of(tmp_path / "r", "restore_photo").input] == ["target_photo"]
    steps = PhotoSteps.load(tmp_path / "r" / "restore_preprocess" / "1")
    tensors = steps.prepare([], sorted(sample_faces.glob("*.jpg"))[33].read_bytes())
    assert {name: values.shape for name, values in tensors.items()} == dims(
        config_of(tmp_path / "r", "restore_preprocess").output
    )


def test_inputs_without_a_batch_axis_keep_their_whole_shape() -> None:
    face, value = TensorSpec("in_face:0", ("batch", 224, 224, 3), "float32"), TensorSpec("morph:0", (1,), "float32")
    border = GeneratorBorder((face, value), (face,), 0)
    assert (border.dims(face), border.dims_of_one(face)) == ((-1, 224, 224, 3), (1, 224, 224, 3))
    assert border.dims(value) == border.dims_of_one(value) == (1,)


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), st.lists(st.integers(-1, 4096), max_size=5))
def test_names_and_sizes_of_every_kind_survive_the_text(name: str, sizes: list[int]) -> None:
    tensor = {"name": name, "data_type": find_type("float16"), "dims": sizes}
    config = make_config(name="swap", input=[tensor], default_model_filename=name)
    assert read_config(write_config(config)) == config


def test_a_gpu_without_an_engine_is_refused(
    a10g_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "r"
    assert run(["package", "triton", str(a10g_engine), "-o", str(root), "--gpus", "a10g,l4"]) == 2
    error = capsys.readouterr().err
    assert "l4" in error and "8.9" in error and "--target sm89" in error
    assert not root.exists()


def test_engines_that_do_not_belong_together_are_refused(a10g_engine: Path, l4_engine: Path, tmp_path: Path) -> None:
    package = _packer(tmp_path)
    with pytest.raises(BadInputError, match=r"both for the compute capability 8\.6"):
        package((a10g_engine, a10g_engine))
    other = engines.pretend_tensorrt(a10g_engine, tmp_path / "other", "sm89", backend_version="10.9.0.34")
    with pytest.raises(BadInputError, match="the version of what builds them"):
        package((a10g_engine, other))


def test_an_engine_for_ampere_and_later_serves_them_all(a10g_engine: Path, tmp_path: Path) -> None:
    portable = engines.pretend_tensorrt(a10g_engine, tmp_path / "p", "sm86", hardware_compatibility="ampere_plus")
    package_engines(PackageRequest((portable,), tmp_path / "r", "swap", ("a100", "l4")))
    config = config_of(tmp_path / "r", "swap")
    assert config.default_model_filename == "model.plan" and not config.cc_model_filenames
    with pytest.raises(BadInputError, match="t4"):
        package_engines(PackageRequest((portable,), tmp_path / "r2", "swap", ("t4",)))


def test_versions_are_added_and_never_overwritten_unasked(onnx_engine: Path, tmp_path: Path) -> None:
    package = _packer(tmp_path)
    assert package((onnx_engine,)).version == 1
    compose = tmp_path / "r" / "docker-compose.yaml"
    compose.write_text("# mine\n")
    second = package((onnx_engine,), settings=ServingSettings(instances=3))
    assert second.version == 2 and second.kept == ("docker-compose.yaml",) and compose.read_text() == "# mine\n"
    assert config_of(tmp_path / "r", "swap").instance_group[0].count == 3
    with pytest.raises(BadInputError, match="there already") as caught:
        package((onnx_engine,), version=1)
    assert "--force" in caught.value.remedy
    assert package((onnx_engine,), version=1, force=True).version == 1 and compose.read_text() != "# mine\n"


def test_another_border_under_the_same_name_is_refused(
    onnx_engine: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _packer(tmp_path)
    package((onnx_engine,))
    config = tmp_path / "r" / "swap" / CONFIG
    config.write_text(config.read_text().replace("dims: 128", "dims: 512"))
    with pytest.raises(BadInputError, match="other tensors"):
        package((onnx_engine,))
    config.write_text("max_batch_size: many")
    with pytest.raises(StoreError, match="1:17"):
        package((onnx_engine,))


def test_what_breaks_off_leaves_nothing_behind(
    onnx_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _packer(tmp_path)
    put, written = repository._put, []

    def full(path: Path, content: Any) -> None:
        written.append(path)
        if len(written) > limit:
            raise OSError(28, "No space left on device")
        put(path, content)

    monkeypatch.setattr(repository, "_put", full)
    limit = 7
    with pytest.raises(StoreError, match="No space left"):
        package((onnx_engine,))
    assert not [path for path in tmp_path.rglob("*") if path.is_dir()]
    limit = 1000
    package((onnx_engine,))
    written.clear()
    limit = 8  # in the last of the four
    with pytest.raises(StoreError, match="No space left"):
        package((onnx_engine,))
    assert not [path for model in MODELS for path in (tmp_path / "r" / model).glob("*") if path.name not in _FOLDERS]


@pytest.mark.parametrize("name", ["", "Swap", "../x", "a-b", "x" * 41])
def test_names_that_files_and_kubernetes_do_not_take_are_refused(onnx_engine: Path, tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(BadInputError, match="cannot be a model's name"):
            _packer(tmp_path)((onnx_engine,), name=name)


def test_the_command_says_what_to_do_next(
    onnx_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["package", "triton", str(onnx_engine), "-o", str(tmp_path / "r"), "--name", "swap"]) == 0
    output = capsys.readouterr().out
    assert "next: tritonserver" in output and "--load-model=swap_photo" in output and "docker compose" in output
    assert run(["package", "triton", str(onnx_engine), "-o", str(tmp_path / "r"), "--name", "swap", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["version"] == 2 and described["models"] == list(MODELS)


def test_what_triton_cannot_load_is_said(onnx_engine: Path, tmp_path: Path) -> None:
    stored = Store(onnx_engine.parent.parent)
    manifest = stored.load(onnx_engine)
    files = {name: (onnx_engine / name).read_bytes() for name in manifest.files}
    rtx = Store(tmp_path / "e").save(dataclasses.replace(manifest, backend="tensorrt-rtx", target="sm86"), files)
    with pytest.raises(BadInputError, match="nothing that loads an engine of tensorrt-rtx") as caught:
        _packer(tmp_path)((rtx,))
    assert "--backend tensorrt" in caught.value.remedy


def test_what_a_release_may_not_load_is_said(onnx_engine: Path, a10g_engine: Path) -> None:
    onnx, tensorrt = (Store(engine.parent.parent).load(engine) for engine in (onnx_engine, a10g_engine))
    (unknown,) = releases.list_onnx_doubts(onnx, "27.01", 20)
    (late,) = releases.list_onnx_doubts(onnx, "24.10", 23)
    assert "not known" in unknown and late.startswith("warning: ")
    (exact,) = releases.list_tensorrt_doubts(tensorrt, "26.08")
    assert "TensorRT 10.13.3.9" in exact and "tritonserver:26.08-py3" in exact
    compatible = dataclasses.replace(tensorrt, pins=dataclasses.replace(tensorrt.pins, version_compatible=True))
    (later,) = releases.list_tensorrt_doubts(compatible, "26.08")
    assert "or a later 10.x" in later and "warning" not in later


def test_numpy_2_is_refused_where_triton_would_answer_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_models.np, "__version__", "2.4.6")
    with pytest.raises(Exception, match="empty tensors with NumPy 2"):
        python_models.Preprocess().initialize({"model_repository": "/", "model_version": "1"})


def _packer(folder: Path) -> Callable[..., repository.PackagedModel]:
    def package(engine_folders: tuple[Path, ...], **changes: Any) -> repository.PackagedModel:
        return package_engines(PackageRequest(engine_folders, folder / "r", **{"name": "swap", **changes}))

    return package
