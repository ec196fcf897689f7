#!/usr/bin/env bash
# From photos to a model repository, for CI: curate -> calibrate -> plan -> build -> gate -> report -> package.
#
#   scripts/pipeline.sh --faces photos/ -o pipeline_out/ --target sm86 --backend tensorrt --gpus a10g \
#       --max-ssim-drop 0.01 -- --onnx swap.onnx --preset inswapper_128 --embedder w600k_r50.onnx
#
#   --faces DIR       photos; those that cover most are chosen (--count, 300)
#   -o, --output DIR  everything that is made, and everything that a later run is spared by (keep it as a cache)
#   --precision P     int8 (default), fp16 or fp32          --batch MIN:OPT:MAX   1:4:8
#   --target, --backend                                      cpu, and onnxruntime for it
#   --max-ssim-drop X, --min-identity X, --max-lpips X, --max-st-lpips X, --max-squeezenet X    the budget
#   --effort E, --time MINUTES                               how much is tried (build --help)
#   --name N, --gpus LIST, --triton-version V                the repository; --no-package leaves it out
#   --                what follows says what the generator is and how it is fed (build --help, "Model")
#
# A step that is up to date is passed over. The first that fails ends the run: its name is said, its exit code is the
# run's (3: the budget was broken; what the engine fell back to is stored, and not packaged).
set -euo pipefail

trt_ff=${TRT_FF:-trt-ff}
if ! command -v "$trt_ff" >/dev/null; then
    trt_ff=$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/trt-ff
fi
faces="" out="" count=300 precision=int8 package=yes
target=cpu backend="" batch=1:4:8
budget=() effort=() serving=() model=()
refuse() {
    echo "pipeline: $1; see the head of $0" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    option=$1
    case $option in
    --no-package) package=no && shift && continue ;;
    --) shift && model=("$@") && break ;;
    esac
    [ $# -ge 2 ] || refuse "$option needs a value"
    case $option in
    --faces) faces=$2 ;;
    -o | --output) out=$2 ;;
    --count) count=$2 ;;
    --precision) precision=$2 ;;
    --target) target=$2 ;;
    --backend) backend=$2 ;;
    --batch) batch=$2 ;;
    --max-ssim-drop | --min-identity | --max-lpips | --max-st-lpips | --max-squeezenet) budget+=("$1" "$2") ;;
    --effort | --time) effort+=("$1" "$2") ;;
    --name | --gpus | --triton-version) serving+=("$1" "$2") ;;
    *) refuse "there is no option $option" ;;
    esac
    shift 2
done
[ -n "$faces" ] && [ -n "$out" ] || refuse "--faces and --output are needed"
[ -d "$faces" ] || refuse "there is no folder $faces"
case $precision in int8 | fp16 | fp32) ;; *) refuse "there is no precision $precision" ;; esac
if [ -z "$backend" ]; then
    [ "$target" = cpu ] && backend=onnxruntime || backend=auto
fi

mkdir -p "$out"
exec 9>"$out/.lock"
if command -v flock >/dev/null && ! flock -n 9; then
    echo "pipeline: another run is writing to $out: wait for it, or name another folder" >&2
    exit 6
fi

# run STEP COMMAND...: runs it, and ends the pipeline with its exit code where it fails.
run() {
    local step=$1 code=0
    shift
    echo "== $step" >&2
    "$@" || code=$?
    if [ "$code" -ne 0 ]; then
        if [ "$step" = build ] && [ "$code" -eq 3 ]; then
            step=gate
        fi
        echo "pipeline: the step $step failed (exit code $code)" >&2
        exit "$code"
    fi
}

# is_done STEP KEY: whether the step was done with that key. mark_done remembers it.
is_done() {
    [ -e "$out/.done-$1" ] && [ "$(cat "$out/.done-$1")" = "$2" ]
}
mark_done() {
    echo "$2" >"$out/.done-$1.new"
    mv "$out/.done-$1.new" "$out/.done-$1"
}

# digest WORDS...: of the words, and of what is in the files that they name.
digest() {
    local word
    for word in "$@"; do
        if [ -f "$word" ]; then sha256sum <"$word"; else echo "$word"; fi
    done | sha256sum | cut -d' ' -f1
}

version=$("$trt_ff" --version)
photos=$(cd "$faces" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum | cut -d' ' -f1)
key="$version $photos $count"
if is_done curate "$key"; then
    echo "== curate: up to date" >&2
else
    run curate "$trt_ff" faces curate "$faces" -o "$out/faces" -n "$count" --force
    mark_done curate "$key"
fi

common=(--calib "$out/faces" --cache "$out/calib_cache" ${effort[@]+"${effort[@]}"} ${model[@]+"${model[@]}"})
choice=(--target "$target" --backend "$backend")
planned=()
if [ "$precision" = int8 ]; then
    key="$version $(digest "$photos" "$count" "${common[@]}" "${choice[@]}" ${budget[@]+"${budget[@]}"})"
    if is_done plan "$key" && [ -e "$out/plan.yaml" ]; then
        echo "== calibrate, plan: up to date" >&2
    else
        run calibrate "$trt_ff" calibrate "${common[@]}"
        run plan "$trt_ff" plan "${common[@]}" "${choice[@]}" ${budget[@]+"${budget[@]}"} -o "$out/plan.yaml" --force
        mark_done plan "$key"
    fi
    planned=(--plan "$out/plan.yaml")
fi
run build "$trt_ff" build "--$precision" "${common[@]}" "${choice[@]}" ${planned[@]+"${planned[@]}"} \
    ${budget[@]+"${budget[@]}"} --batch "$batch" --output "$out/engines" --reports "$out/reports" --json >"$out/build.json"

# The folder of the engine that was asked for, and not what it fell back to.
engine=$(python3 - "$out/build.json" <<'PYTHON'
import json, sys
engines = json.load(open(sys.argv[1]))["engines"]
print(engines[0]["path"])
PYTHON
)
cp "$engine/manifest.json" "$out/manifest.json"
cp "$engine/typed.onnx" "$out/typed.onnx"
run report "$trt_ff" report "$out/reports" -o "$out/report.html"

if [ "$package" = yes ]; then
    key="$version $(sha256sum <"$engine/manifest.json") ${serving[*]-}"
    if is_done package "$key"; then
        echo "== package: up to date" >&2
    else
        run package "$trt_ff" package triton "$engine" -o "$out/model_repository" ${serving[@]+"${serving[@]}"}
        mark_done package "$key"
    fi
fi
echo "pipeline: done, everything is in $out" >&2
