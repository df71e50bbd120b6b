"""Answers an operator's questions: is the machine fit (`doctor`), is the cluster healthy, and may this node stop
(`health`)? Collects a support bundle (`bundle`) and measures a cluster (`bench`, `rates`).
"""
