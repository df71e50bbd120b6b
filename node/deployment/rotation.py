"""Another cluster key for the nodes of a directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from node.cluster_directory import ClusterDirectory
from node.errors import ClusterKeyError
from node.keys.sealing import read_keys, with_another, write_keys


class Rotation(msgspec.Struct, frozen=True):
    """What a rotation did. `number` is the newest cluster key, `made`: it is a fresh one; `paths` are the files that
    were written.
    """

    number: int
    made: bool
    paths: list[Path]


def rotate(layout: ClusterDirectory) -> Rotation:
    """Give every node of the directory one more cluster key; or, where some lack one that others have, just that.

    An interrupted command can be repeated. Running nodes load the file automatically.

    Raises:
        ClusterKeyError: a file cannot be read, or two nodes have different keys under one number.
        OSError: a file cannot be written.
    """
    held = {node_id: _keys(layout.configs[node_id].cluster_key_path) for node_id in layout.node_ids}
    union: dict[int, bytes] = {}
    for node_id, keys in held.items():
        for number, key in keys.items():
            if union.setdefault(number, key) != key:
                raise ClusterKeyError(f"{node_id} has another cluster key {number} than the nodes before it; nothing was changed")
    uneven = any(keys != union for keys in held.values())
    keys = union if uneven else with_another(union)
    paths = [layout.configs[node_id].cluster_key_path for node_id in held if held[node_id] != keys]
    for path in paths:
        write_keys(path, keys)
    return Rotation(max(keys), not uneven, paths)


def _keys(path: Path) -> dict[int, bytes]:
    return read_keys(path) if path.exists() else {}
