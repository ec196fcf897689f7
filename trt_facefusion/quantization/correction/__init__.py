"""Corrections of INT8 layers: what brings a layer's output nearer to FP32's at no cost at run time.

All of them change only weights, biases and elementwise constants, so every backend profits. They need no training: the
ranges and moments of a layer's inputs on calibration faces are enough. Each layer is corrected for itself, so that a
correction stays right whichever other layers a plan raises. Which kinds are worth it is measured on pictures, above, in
`build.tuning.corrections`.

Corrections of channels stand in front of the quantiser ("equalise" is a scale, "shift" adds an offset); corrections of
layers change what is behind it ("scales", "rounding", "bias").

May import: the ground, `model`, and of `quantization` only `calibration`.

Modules, from the ground up:

    kinds               the names of all corrections, and how a user names some
    grid                the grids that INT8 values stand on, with scales as they are stored
    channel_affine      scale and shift of channels: nodes in front of the quantiser, weights and bias that undo them
    clipping            which of many scales quantises each row of a matrix with the smallest error
    weight_correction   a layer that can be corrected: moments of its inputs, weight scales, bias
    rounding            weights rounded one after another, each passing its error on (GPTQ)

Start reading at `weight_correction`: its docstring says what is computed and from which papers.
"""
