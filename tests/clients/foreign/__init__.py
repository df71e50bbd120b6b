"""What runs inside a foreign client's own environment: one script a client, with one JSON argument.

Each prints a JSON object a line (see `steps`). Nothing here imports anything of ours but `steps`.
"""
