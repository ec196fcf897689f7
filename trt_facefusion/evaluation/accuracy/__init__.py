"""How far an engine's pictures are from FP32's, and whether that is near enough."""
