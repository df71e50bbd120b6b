"""Order flows, the load test with Locust, the demo and the benchmarks. All of them reach a cluster over the network only."""
