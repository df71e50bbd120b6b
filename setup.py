"""Builds the compiled modules, where Cython and a C compiler are; everything else about the package stands in
pyproject.toml.

There are two sets of compiled modules: the core (`statemachine/core.py`) and the gateway's (`node/compiled.py`). Each
is compiled with the types of its `.pxd` files into `<package>/_compiled/<digest of the sources>/`. Without a C compiler
the package is installed without them, and the plain modules run.
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

HERE = Path(__file__).parent
CORE = runpy.run_path(str(HERE / "statemachine" / "core.py"))
SETS = {
    "statemachine": CORE["MODULES"],
    "node": runpy.run_path(str(HERE / "node" / "compiled.py"))["MODULES"],
}
"""The names of the compiled modules of each package, named from the package on."""
DIGESTS = {package: CORE["source_digest"](HERE / package, modules) for package, modules in SETS.items()}
FLAGS = ["-O2", "-g0", "-w", "-fno-semantic-interposition"]
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # the .pxd files say the types; `int` in a source is any whole number
    "binding": True,
    "embedsignature": False,
}


def extensions() -> list[Extension]:
    """Return the compiled modules. The list is empty without Cython, and with `QUORUMBOOK_CORE=plain`."""
    if os.environ.get("QUORUMBOOK_CORE") == "plain":
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("quorumbook: no Cython, so the plain core is installed", file=sys.stderr)
        return []
    keep_directives()
    sources = []
    for package, modules in SETS.items():
        for name in modules:
            path = f"{package}/{name.replace('.', '/')}"
            source = f"{path}.pyx" if (HERE / f"{path}.pyx").exists() else f"{path}.py"
            sources.append(
                Extension(f"{package}.{name}", [source], extra_compile_args=FLAGS, extra_link_args=["-s"], optional=True)
            )
    return list(
        cythonize(sources, build_dir="build/cython", compiler_directives=DIRECTIVES, nthreads=os.cpu_count() or 1, quiet=True)
    )


def keep_directives() -> None:
    """Make directives of a class in a .pxd count. Cython 3 forgets them when it reads the class in its .py file.

    `no_gc` is the important one: the garbage collector would otherwise visit ten thousand young orders at a time, which
    takes up to 20 ms. `State.clear` breaks the reference cycles of orders.
    """
    from Cython.Compiler.Nodes import CClassDefNode

    analyse = CClassDefNode.analyse_declarations

    def analyse_declarations(self: Any, env: Any) -> None:
        known = env.lookup_here(self.class_name)
        scope = known.type.scope if known is not None and known.type.is_extension_type else None
        declared = dict(scope.directives or {}) if scope is not None else {}
        analyse(self, env)
        kept = {name: declared[name] for name in ("no_gc", "freelist") if name in declared}
        if kept:
            self.scope.directives = {**self.scope.directives, **kept}

    CClassDefNode.analyse_declarations = analyse_declarations


class BuildModules(build_ext):
    """Puts the modules where `statemachine/core.py` and `node/compiled.py` look for them."""

    def finalize_options(self) -> None:
        """As many compilers as processors. For an installation that uses this directory, only what changed is compiled
        again.
        """
        self.latest = bool(self.inplace)
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count() or 1

    def get_ext_fullpath(self, ext_name: str) -> str:
        """Return the path of a module in the directory of compiled modules."""
        package, *parents, _ = ext_name.split(".")
        place = "latest" if self.latest else DIGESTS[package]
        filename = Path(self.get_ext_filename(ext_name)).name
        return str(Path(self.build_lib, package, "_compiled", place, *parents, filename))

    def copy_extensions_to_source(self) -> None:
        """Replace older modules, for an installation that uses this directory."""
        for package, digest in DIGESTS.items():
            old = HERE / package / "_compiled"
            for directory in old.glob("*"):
                if directory.name != digest:
                    shutil.rmtree(directory, ignore_errors=True)
        for extension in self.extensions:
            package, *parents, _ = extension.name.split(".")
            built = Path(self.get_ext_fullpath(extension.name))
            target = Path(HERE, package, "_compiled", DIGESTS[package], *parents, built.name)
            if built.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                draft = target.with_name(f".{target.name}.{os.getpid()}")
                shutil.copyfile(built, draft)
                draft.replace(target)


arguments: dict[str, Any] = {"ext_modules": extensions(), "cmdclass": {"build_ext": BuildModules}}
setup(**arguments)
