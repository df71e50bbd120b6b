"""Order flows, Locust users, the demo and the benchmarks. Speaks to a cluster over the network only, through
`node.native.client`.
"""
