"""Builds the compiled core, where Cython and a C compiler are; everything else about the package stands in
pyproject.toml.

The modules named by `statemachine/core.py` are compiled with the types of their `.pxd` files into
`statemachine/_compiled/<digest of the sources>/`. Without a C compiler the package is installed without them, and the
plain core runs.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CORE = runpy.run_path(str(ROOT / "statemachine" / "core.py"))
DIGEST = CORE["source_digest"]()
FLAGS = ["-O2", "-g0", "-w", "-fno-semantic-interposition"]
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # the .pxd files say the types; `int` in a source is any whole number
    "binding": True,
    "embedsignature": False,
}


def extensions() -> list[Extension]:
    """The modules of the core; none where there is no Cython or nobody wants them."""
    if os.environ.get("QUORUMBOOK_CORE") == "plain":
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("quorumbook: no Cython, so the plain core is installed", file=sys.stderr)
        return []
    sources = []
    for name in CORE["MODULES"]:
        twin = ROOT / "statemachine" / f"{name}.pyx"
        source = f"statemachine/{name}.pyx" if twin.exists() else f"statemachine/{name}.py"
        sources.append(
            Extension(f"statemachine.{name}", [source], extra_compile_args=FLAGS, extra_link_args=["-s"], optional=True)
        )
    return list(
        cythonize(sources, build_dir="build/cython", compiler_directives=DIRECTIVES, nthreads=os.cpu_count() or 1, quiet=True)
    )


class BuildCore(build_ext):
    """Puts the modules where `statemachine/core.py` looks for them."""

    def finalize_options(self) -> None:
        """As many compilers as processors. For an installation that uses this directory, only what changed is compiled
        again.
        """
        self.place = "latest" if self.inplace else DIGEST
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count() or 1

    def get_ext_filename(self, fullname: str) -> str:
        """The place of a module, under the directory of what is built."""
        return f"_compiled/{self.place}/{Path(super().get_ext_filename(fullname)).name}"

    def copy_extensions_to_source(self) -> None:
        """For an installation that uses this directory: the modules of these sources take the place of older ones."""
        old = ROOT / "statemachine" / "_compiled"
        for directory in old.glob("*"):
            if directory.name != DIGEST:
                shutil.rmtree(directory, ignore_errors=True)
        for extension in self.extensions:
            filename = self.get_ext_filename(extension.name.split(".")[-1])
            built, target = Path(self.build_lib, "statemachine", filename), old / DIGEST / Path(filename).name
            if built.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                draft = target.with_name(f".{target.name}.{os.getpid()}")
                shutil.copyfile(built, draft)
                draft.replace(target)


arguments: dict[str, Any] = {"ext_modules": extensions(), "cmdclass": {"build_ext": BuildCore}}
setup(**arguments)
