"""What the benchmarks share: the peers' environment, processes that are asked questions, the platform's parts."""
