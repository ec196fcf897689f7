"""The way of a model: from a network and a folder of faces to stored engines that are proven to be right.

Here meet all packages below; what can be computed, measured or compiled is theirs. Their order, what is tried, for how
long, and what happens where an engine is not right, is decided here. May import: everything but `report`, `doctor` and
`cli`.

Start reading at `run.build`, one screen, and follow its calls:

    open_job                the backend, and digests of all that goes in: nothing is loaded or decoded yet
    Delivery.engines        is there an engine with this key? Then that is it
    open_build              read_network -> read_face_sets -> measure_cost -> prove_network: `BuildInputs`
    Delivery.deliver        for each precision, and the next safer one where it fails:
      build_precision         make_plan -> lower -> verify, with repairs -> compile_plan
      describe_engine         everything that went in and came out, stored beside the engine
    record_build            what the report shows

Stages take values and return values. The only lazy place is `stages.Stages`: it runs a stage when its result is first
called for, and once.

Modules, from the ground up; each imports only those above it:

    reporter                progress, messages and warnings of one build
    effort                  levels of effort: what is tried, what it costs in inferences, which level the time allows
    forms                   forms of the typed graph that a person names
    options                 options that commands share, each with its part in an engine's key
    settings                all that a build is asked for, and the key of an engine
    objective               what the plan search makes least of
    rebuild_command         settings -> the command line that builds the same engine again
    job                     a build before anything is loaded: backend, digests, keys
    time_model              kernels -> predicted time, for the GPU of this build
    namesakes               models that share a name, and versions of one model: locks, and what is replaced
    network                 the generator, as it was handed in and prepared, with what feeds and runs it
    network_reader          file -> `Network`; refuses what can never be right
    face_sets               photos -> faces to calibrate on and faces to judge on; nobody is in both
    batch_independence      the same face gives the same picture, alone and among others
    looks                   do the network's own pictures show what its inputs' description promises?
    proof                   the prepared network is the one that was handed in, before anything is tuned
    cost                    one inference is timed, all others are counted
    inputs                  all of this as one value: `BuildInputs`, what every stage works from
    tuning/                 all that is chosen by measuring: ranges, corrections, the plan
    lowered_plan            a plan as a strongly typed ONNX
    weak_typing             the same for a backend that types weakly
    compilation             typed ONNX -> engine, and what its kernels prove
    engine_timer            typed ONNX -> engine -> its predicted time, for the plan search
    gallery                 the faces that the report shows
    simulation              a few faces in a simulator, and how near the stand-in of the others comes to them
    verification            is a lowered plan right? Judged on other faces than it was tuned on, and repaired
    stages                  what the stages gave, each run once
    engine                  one precision, from its plan to a proven engine
    manifest                what is said of an engine
    stored_engines          engines that need not be built, and what became of each request
    speed                   predicted times of the engines of a build, side by side
    report_facts            what `run.json` holds
    run_record              the record of a build, as its report reads it
    delivery                builds, stores, and falls back INT8 -> FP16 -> FP32
    report_data             what a build leaves for its report
    result                  what a build gives back, and prints with `--json`
    run                     `trt-ff build`
    calibrate_only          `trt-ff calibrate`: the first stages alone
    plan_only               `trt-ff plan`: no engine is compiled
    activations             how strongly each face drives a generator
    curate                  `trt-ff faces curate`: which photos to calibrate on
"""
