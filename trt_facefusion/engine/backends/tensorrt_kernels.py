"""What TensorRT 10, TensorRT 11 and TensorRT-RTX call their kernels that multiply and add."""

from __future__ import annotations

# Everything else moves, scales or rounds: TensorRT-RTX pads the input of an INT8 convolution in a `kgen` kernel that
# also reads and writes INT8 and names the convolution, and that proves nothing. A `runtime_fusion` is a convolution
# with what follows it (`__myl_CorrMulMax`), made on the GPU.
_LOGGED = frozenset({"correlation", "deconv", "gemm", "runtime_fusion"})
# What the engine inspector of TensorRT 10 and 11 calls them, beside the names above.
_INSPECTED = frozenset(
    {
        "CaskConvolution",
        "CaskGemmConvolution",
        "CaskFlattenConvolution",
        "CaskDeconvolution",
        "CaskDeconvolutionV2",
        "CaskGemmMatrixMultiply",
        "CaskFullyConnected",
        "CublasConvolution",
        "CudaDepthwiseConvolution",
        "CudnnConvolution",
        "FusedConvActConvolution",
        "FusedConvActDirect",
        "FullyConnected",
        "Convolution",
        "Deconvolution",
        "MatrixMultiply",
    }
)
MATH_TYPES = _LOGGED | _INSPECTED
