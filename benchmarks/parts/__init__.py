"""The parts that the benchmarks are put together from."""
