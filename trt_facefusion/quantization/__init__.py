"""TODO quantization."""
