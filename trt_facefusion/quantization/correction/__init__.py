"""TODO quantization/correction."""
