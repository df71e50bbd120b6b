"""Reading a node's configuration: the text (`config_shape`), then what must hold of it (`config_checks`)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from node.config import checks as config_checks
from node.config import shape as config_shape
from node.config.settings import RENAMED, NodeConfig


def load(path: Path, *, dates: bool = True) -> NodeConfig:
    """Read a node's configuration and check all of it, the files of `[tls]` included; unless `dates`, not whether the
    certificates are valid now.

    Raises:
        ConfigError: something is not right; the text names the file, the key and what was expected.
    """
    table = config_shape.read_toml(path)
    config = config_shape.shaped(str(path), table, NodeConfig, not_in_file=frozenset({"directory"}), renamed=RENAMED)
    config = msgspec.structs.replace(config, directory=str(path.resolve().parent))
    config_checks.check(config, str(path), dates=dates)
    return config
