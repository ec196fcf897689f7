"""How fast an engine is, and where its time goes: percentiles, throughput, memory, layers."""
