"""All of a build that is chosen by measuring: ranges, thresholds, corrections, the plan, how integers are stored.

The arithmetic is in `quantization`, which knows no picture. Here it meets the network and faces: some calibration faces
are painted in INT8 and held against the prepared FP32 graph's pictures. Verification faces choose nothing: they only
judge, above.

What takes minutes is a function or a method with a verb; what was measured is kept (in memory, or beside the
calibration), so that a second call measures nothing. May import: what `build` may, and of `build` what stands above
`tuning/` in its list.

The stages, in the order in which a build runs them (`build.stages`):

    calibrate, choose_ranges            histograms -> a threshold for every tensor, scale and shift of channels
    LayerCorrector.correct              corrections of the layers of a plan, where the pictures gain
    open_search, PlanSearch.make_plan   which layers are INT8
    ZeroPoints.apply                    for a backend that pads with zero points: those in place of shifted channels
    IntegerStorage.lower                for a backend of integer operators: which results need nine bits
    NpuStorage.lower                    for a processor that stores all in integers: what eight bits are enough for

Modules, from the ground up; each imports only those above it:

    calibration_evaluator   judges what is tried by pictures of calibration faces
    calibration_files       where a calibration is written
    histograms              which tensors are counted, on how many faces, with what done to their channels
    calibration_pass        the calibration in the cache, or a pass over the faces that can be continued
    channels                the graph that is lowered: scales of channels in its constants, or in front of quantisers
    named_table             the table that a user named, in place of a calibration
    observations            what calibration saw, before anything is chosen from it
    threshold_descent       the search for thresholds of single tensors, without a network
    scale_session           pictures under any thresholds, from one session
    thresholds              which rule, for the table and for single tensors
    ranges                  table, scale and shift: what INT8 scales are made of
    npu_storage             integers everywhere: on which grids, and what is stored in 8 bits in place of 16
    layer_inputs            what layers read on calibration faces
    layer_corrections       corrections of single layers
    corrections             which corrections are kept
    search_space            what the plan search decides on: groups of layers, and their noise
    switched_session        pictures under any plan, from one session
    plan_evaluator          measures many plans
    search_cache            what was measured before
    plan_timer              what is asked of whoever times engines
    time_cache              which engines were timed before
    timed_plans             how long engines take: some are compiled, others estimated
    time_objective          least time, for the search
    plan_search             searches, picks a plan, and finds a stricter one where it fails
    open_search             puts the last five together for one network
    zero_points             one zero point in place of shifted channels, for a backend that pads with it
    integer_storage         integer operators for a CPU, and which results are stored finer

Start reading at `ranges` for the thresholds, at `plan_search.PlanSearch` for the plan.
"""
