"""What one engine cannot do, the next does; those that fail are out, said to be, and come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tricks import CROP, Saboteur, make_faces, wait_until

from trt_facefusion.errors import BadInputError, GateError, NoEngineError, StoreError, TrtFaceFusionError
from trt_facefusion.serving.engines.engine_thread import EngineHungError, EngineLeftError, EngineThread
from trt_facefusion.serving.engines.events import EventKind, ServingEvent
from trt_facefusion.serving.engines.pool import EnginePool
from trt_facefusion.serving.seam import ServedFace
from trt_facefusion.swap.engines import EngineChain, LoadedEngine
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.types import Precision

OpenPool = Callable[..., EnginePool]
Events = list[ServingEvent]


def serve(pool: Any, count: int = 3) -> list[tuple[str, str]]:
    """Precision and role, or kind of error, of each answer."""
    answers = pool.serve(make_faces(count), [f"r{number}" for number in range(count)])
    return [(a.precision, a.role) if isinstance(a, ServedFace) else (a.kind, "error") for a in answers]


def states(pool: EnginePool) -> dict[str, str]:
    return {state.precision: state.state for state in pool.describe()}


def reason(pool: EnginePool, precision: str) -> str:
    return next(state.reason or "" for state in pool.describe() if state.precision == precision)


def read(pool: Any, name: str, **labels: str) -> float:
    """The sum over the readings with these labels; that of an engine by its precision."""
    engine = labels.pop("of", "")
    return sum(
        reading.value
        for reading in pool.read_metrics()
        if reading.name == name
        and engine in reading.labels.get("engine", "")
        and labels.items() <= dict(reading.labels).items()
    )


def list_files(store: Path, precision: str) -> tuple[Path, Path]:
    (folder,) = store.glob(f"{precision}-*")
    return folder, next(folder.glob("engine.*"))


def test_the_cheapest_engine_answers_what_it_would_alone(built: Path, open_pool: OpenPool) -> None:
    pool = open_pool(built)
    answers = pool.serve(make_faces(9), [str(n) for n in range(9)])
    chain = EngineChain(built, Precision.INT8)
    for answer, alone in zip(answers, chain.render(make_faces(9)), strict=True):
        assert isinstance(answer, ServedFace) and (answer.precision, answer.role) == ("int8", "baseline")
        assert np.array_equal(answer.rendered.picture, alone.picture)
    chain.close()
    assert [state.role for state in pool.describe()] == ["baseline", "fallback", "fallback"]
    assert read(pool, "engine_faces_total", precision="int8", role="baseline") == 9
    assert read(pool, "engine_up") == 3 and pool.batch >= 1 and pool.serve([], []) == []


def test_a_runner_that_raises_is_out_and_comes_back(built: Path, open_pool: OpenPool, saboteur: Saboteur) -> None:
    events: Events = []
    pool = open_pool(built, on_event=events.append)
    saboteur.tricks["int8"] = saboteur.fail
    assert serve(pool) == [("fp16", "fallback")] * 3
    assert states(pool)["int8"] == "out" and "CUDNN_STATUS" in reason(pool, "int8")
    wait_until(lambda: any(event.kind is EventKind.PROBE_FAILED for event in events))
    assert serve(pool) == [("fp16", "fallback")] * 3
    saboteur.tricks.clear()
    wait_until(lambda: states(pool)["int8"] == "serving")
    assert serve(pool) == [("int8", "baseline")] * 3
    kinds = [event.kind for event in events]
    assert kinds[0] is EventKind.ENGINE_OUT and kinds[-1] is EventKind.ENGINE_BACK
    assert read(pool, "engine_faults_total", of="int8", kind="raised") == 1
    assert read(pool, "engine_probes_total", outcome="passed") == 1


def test_a_runner_that_hangs_is_left_behind(built: Path, open_pool: OpenPool, saboteur: Saboteur) -> None:
    pool = open_pool(built, infer_limit_s=0.5)
    saboteur.tricks["int8"] = saboteur.hang
    started = time.monotonic()
    assert serve(pool) == [("fp16", "fallback")] * 3
    assert time.monotonic() - started < 10
    assert "more than 0.5 s" in reason(pool, "int8")
    del saboteur.tricks["int8"]
    saboteur.released.set()
    wait_until(lambda: states(pool)["int8"] == "serving")
    assert serve(pool) == [("int8", "baseline")] * 3
    assert read(pool, "engine_faults_total", of="int8", kind="hung") == 1


def test_an_engine_that_hangs_again_and_again_is_not_loaded_without_end(
    built: Path, open_pool: OpenPool, saboteur: Saboteur
) -> None:
    pool = open_pool(built, infer_limit_s=0.3)
    limits = pool._around.settings
    usual = limits.open_limit_s
    saboteur.tricks["int8"] = saboteur.hang
    object.__setattr__(limits, "open_limit_s", 0.3)
    serve(pool, 1)
    wait_until(lambda: "2 earlier inferences" in reason(pool, "int8"))
    object.__setattr__(limits, "open_limit_s", usual)
    saboteur.tricks.clear()
    saboteur.released.set()
    wait_until(lambda: states(pool)["int8"] == "serving")


@pytest.mark.parametrize("trick", ["give_nan", "give_flat"])
def test_single_broken_faces_go_to_the_next_and_many_take_it_out(
    built: Path, open_pool: OpenPool, saboteur: Saboteur, trick: str
) -> None:
    pool = open_pool(built)
    assert serve(pool, 4) == [("int8", "baseline")] * 4
    saboteur.tricks["int8"] = getattr(saboteur, trick)
    assert serve(pool, 1) == [("fp16", "fallback")] and states(pool)["int8"] == "serving"
    assert serve(pool, 4) == [("fp16", "fallback")] * 4
    assert states(pool)["int8"] == "out" and "5 of its last 9" in reason(pool, "int8")
    assert read(pool, "engine_faults_total", of="int8", kind="broken") == 5


def test_a_face_that_every_engine_breaks_gets_an_error_and_takes_none_out(
    built: Path, open_pool: OpenPool, saboteur: Saboteur
) -> None:
    pool = open_pool(built)
    serve(pool, 4)
    saboteur.tricks |= dict.fromkeys(("int8", "fp16", "fp32"), saboteur.give_nan)
    (answer,) = pool.serve(make_faces(1), ["r"])
    assert isinstance(answer, GateError) and "whichever engine" in answer.message
    assert set(states(pool).values()) == {"serving"}


def test_nobody_drives_engines_out_with_faces_that_none_can_do(
    built: Path, open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = open_pool(built)
    monkeypatch.setattr(LoadedEngine, "find_faults", lambda engine, faces, rendered: ["NaN"] * len(faces))
    assert {kind for _ in range(8) for kind, _ in serve(pool, 5)} == {"accuracy_gate"}
    assert set(states(pool).values()) == {"serving"}


def test_engines_that_can_do_nothing_any_more_are_out(built: Path, open_pool: OpenPool, saboteur: Saboteur) -> None:
    pool = open_pool(built)
    saboteur.tricks |= dict.fromkeys(("int8", "fp16", "fp32"), saboteur.give_nan)
    serve(pool, 5)
    assert set(states(pool).values()) == {"out"} and "tried with" in reason(pool, "fp32")


def test_a_face_that_cannot_be_fed_is_refused_alone(built: Path, open_pool: OpenPool) -> None:
    pool = open_pool(built)
    wrong = FaceInput({CROP: np.zeros((8, 8, 3), np.uint8)}, None)
    empty = FaceInput({}, None)
    answers = pool.serve([make_faces(1)[0], wrong, empty, make_faces(1)[0]], list("abcd"))
    assert [isinstance(answer, ServedFace) for answer in answers] == [True, False, False, True]
    assert all(isinstance(answer, BadInputError) for answer in answers[1:3])
    assert set(states(pool).values()) == {"serving"}


def test_the_networks_own_tensors_are_served_by_whoever_gives_finite_ones(
    built: Path, open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = open_pool(built)
    feeds = pool.engines[0]._engine.prepare(make_faces(2))
    interface = pool.tensors
    assert (interface.precision, interface.platform) == ("int8", "onnxruntime")
    outputs = pool.infer(feeds)
    assert set(outputs) == {spec.name for spec in interface.outputs} and len(outputs["picture"]) == 2
    with pytest.raises(BadInputError):
        pool.infer({"image": np.zeros((1, 3, 5, 5), np.float32)})
    int8 = pool.engines[0]._engine.runner
    monkeypatch.setattr(int8, "infer", lambda feeds: {"picture": np.full((2, 3, 32, 32), np.nan, np.float32)})
    assert np.isfinite(pool.infer(feeds)["picture"]).all()
    assert read(pool, "engine_faults_total", of="int8", kind="broken") == 1

    def fail(feeds: object) -> None:
        raise RuntimeError("no")

    for engine in pool.engines:
        monkeypatch.setattr(engine._engine.runner, "infer", fail)
    with pytest.raises(NoEngineError):
        pool.infer(feeds)
    with pytest.raises(NoEngineError):
        _ = pool.tensors


def test_where_no_engine_works_each_face_is_told_so(built: Path, open_pool: OpenPool, saboteur: Saboteur) -> None:
    pool = open_pool(built)
    saboteur.tricks |= dict.fromkeys(("int8", "fp16", "fp32"), saboteur.fail)
    answers = pool.serve(make_faces(2), ["a", "b"])
    assert all(isinstance(answer, NoEngineError) and "try again" in answer.remedy for answer in answers)
    assert read(pool, "face_errors_total", kind="no_engine") == 2 and read(pool, "engine_up") == 0
    saboteur.tricks.clear()
    wait_until(lambda: states(pool)["fp32"] == "serving")


def damage(engine: Path, how: str) -> None:
    content = engine.read_bytes()
    if how == "deleted":
        engine.unlink()
    elif how == "truncated":
        engine.write_bytes(content[: len(content) // 2])
    else:
        engine.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("how", ["deleted", "truncated", "replaced"])
def test_an_engine_file_that_is_no_longer_right_is_noticed_and_told(
    store: Path, open_pool: OpenPool, saboteur: Saboteur, how: str
) -> None:
    events: Events = []
    pool = open_pool(store, on_event=events.append)
    folder, engine = list_files(store, "int8")
    content = engine.read_bytes()
    damage(engine, how)
    wait_until(lambda: any(event.kind is EventKind.FILE_CHANGED for event in events))
    assert serve(pool) == [("int8", "baseline")] * 3, "what is loaded serves on"
    saboteur.tricks["int8"] = saboteur.fail
    assert serve(pool) == [("fp16", "fallback")] * 3
    saboteur.tricks.clear()
    wait_until(lambda: any(event.kind is EventKind.PROBE_FAILED for event in events))
    assert states(pool)["int8"] == "out" and str(folder) not in reason(pool, "int8")
    engine.write_bytes(content)
    wait_until(lambda: states(pool)["int8"] == "serving")


def test_another_build_in_its_place_is_not_taken_without_a_word(
    store: Path, open_pool: OpenPool, saboteur: Saboteur
) -> None:
    pool = open_pool(store)
    folder, engine = list_files(store, "int8")
    other = list_files(store, "fp32")[1].read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    import hashlib

    engine.write_bytes(other)
    manifest["files"][engine.name] = {"sha256": hashlib.sha256(other).hexdigest(), "size_bytes": len(other)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    saboteur.tricks["int8"] = saboteur.fail
    serve(pool)
    saboteur.tricks.clear()
    wait_until(lambda: "restart the service" in reason(pool, "int8") or "no longer the engine" in reason(pool, "int8"))


def test_an_engine_that_is_damaged_from_the_start_is_out_and_the_others_serve(
    store: Path, open_pool: OpenPool, saboteur: Saboteur
) -> None:
    saboteur.tricks["int8"] = saboteur.give_flat
    pool = open_pool(store)
    assert states(pool) == {"int8": "out", "fp16": "serving", "fp32": "serving"}
    assert "tried with" in reason(pool, "int8") and serve(pool, 1) == [("fp16", "fallback")]


def test_nothing_opens_where_no_engine_can(store: Path, open_pool: OpenPool, saboteur: Saboteur) -> None:
    saboteur.tricks |= dict.fromkeys(("int8", "fp16", "fp32"), saboteur.give_nan)
    with pytest.raises(TrtFaceFusionError, match="NaN"):
        open_pool(store)


def test_engines_of_two_models_stand_behind_no_one_name(store: Path, open_pool: OpenPool) -> None:
    folder, _ = list_files(store, "int8")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inputs"]["model_sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInputError, match="two models"):
        open_pool(folder, list_files(store, "fp32")[0])


def test_engines_that_are_fed_in_two_ways_stand_behind_no_one_name(store: Path, open_pool: OpenPool) -> None:
    import hashlib

    folder, _ = list_files(store, "int8")
    preset = (folder / "preset.json").read_text().replace('"arcface_128"', '"ffhq_512"')
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "preset.json").write_text(preset)
    manifest["files"]["preset.json"] = {
        "sha256": hashlib.sha256(preset.encode()).hexdigest(),
        "size_bytes": len(preset.encode()),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInputError, match="fed in two ways"):
        open_pool(folder, list_files(store, "fp32")[0])


def test_what_cannot_be_opened_is_said_as_everywhere(tmp_path: Path, open_pool: OpenPool, model: Path) -> None:
    for paths in ([], [tmp_path / "nothing"], [model]):
        with pytest.raises(BadInputError):
            open_pool(*paths)
    (tmp_path / "m" / "int8-x").mkdir(parents=True)
    (tmp_path / "m" / "int8-x" / "manifest.json").write_text("{}")
    with pytest.raises(StoreError):
        open_pool(tmp_path / "m")


def test_those_who_wait_behind_a_call_that_hangs_are_let_go() -> None:
    release, ended = threading.Event(), threading.Event()
    thread = EngineThread("test", ended.set)
    outcomes: list[object] = []

    def wait_behind() -> None:
        try:
            thread.call(lambda: None, 60)
        except EngineLeftError as error:
            outcomes.append(error)

    def hang() -> None:
        threading.Thread(target=wait_behind).start()
        release.wait(60)

    with pytest.raises(EngineHungError):
        thread.call(hang, 0.3)
    wait_until(lambda: len(outcomes) == 1)
    assert thread.is_alive and not ended.is_set()
    release.set()
    wait_until(ended.is_set)


def test_the_patient_let_others_go_first() -> None:
    thread, order, go = EngineThread("test", lambda: None), [], threading.Event()
    first = threading.Thread(target=lambda: thread.call(lambda: go.wait(60), 60))
    first.start()
    wait_until(thread._jobs.empty)
    waiting = []
    for name, patient in (("shadow", True), ("request", False)):
        waiting.append(
            threading.Thread(target=lambda n=name, p=patient: thread.call(lambda: order.append(n), 60, patient=p))
        )
        waiting[-1].start()
        wait_until(lambda: thread._jobs.qsize() == len(waiting))
    go.set()
    for caller in (first, *waiting):
        caller.join()
    thread.end(1)
    assert order == ["request", "shadow"] and not thread.is_alive


def test_a_pool_of_an_identity_generator_is_tried_with_the_mean_face(tmp_path: Path) -> None:
    from trt_facefusion.model.presets import Preset, parse_input
    from trt_facefusion.model.presets.contract import Contract

    net = tiny.save(tiny.generator(embedding=128), tmp_path / "swap.onnx")
    preset = Preset.from_inputs([parse_input(f"image=image:{tiny.SIZE}:0:1"), parse_input("identity=embedding")])
    pool = EnginePool([net], Contract(preset))
    (state,) = pool.describe()
    assert (state.precision, state.state) == ("onnx", "serving")
    net.unlink()
    pool.close()
