"""Pictures -> figures -> verdict: how far an engine's pictures are from those of FP32, and whether that is too far.

A metric gives one number for each face; its figures pool those numbers over faces, and say how they are called, written
and limited. Everything that measures, stores, shows or limits pictures goes through the list in `registry`, so a new
metric is its class and one line there. The same limits are the gate of an engine and the budget of a plan search.

May import: the ground, `faces` (identities, crop templates), `engine.runtime` (for its runner's protocol) and
`inference.renderer`.

Modules, from the ground up; each imports only those above it in this list:

    metric         what a metric, a figure and a limit are
    metrics        SSIM and PSNR; what is finite; how far pictures spread
    identity       the cosine of identities, by an embedder
    perceptual     the bundled distance: features of a trained network, not fitted to people
    torch_weights  weights in torch's older file format, read without torch
    learned        distances that were fitted to people, as ONNX graphs
    lpips          ST-LPIPS and the classic LPIPS
    registry       the list of all metrics, and the figures and limits that follow from it
    agreement      two ways of running one network in full precision: rounding apart, or another network
    plausible      whether pictures look as if the network was fed rightly at all
    judge          two sets of pictures -> the figures of all metrics
    evaluator      one reference, many candidates: runs them and judges their pictures
    gate           limits on figures, what is allowed by default, and the verdict

Start reading at `metric.Metric` and `metrics.Ssim`, then `judge.judge` and `gate.Limits`.
"""
