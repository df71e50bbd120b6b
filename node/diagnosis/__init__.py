"""Answers an operator's questions: is the machine fit (`doctor`), is the cluster healthy (`health`), may this node stop
(`stopping`). Collects a support bundle (`bundle`) and measures a cluster (`bench`, `rates`).
"""
