"""Compile the hot path where a C compiler is at hand; install it as plain Python, and say so, where there is none.

SIDEHOP_PURE=1 compiles nothing. SIDEHOP_REQUIRE_EXT=1 makes a failed compilation fatal: what is meant to be fast must
not become slow in silence. Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Ordinary Python files that Cython may compile as they are; both ways they mean the same.
COMPILED = (
    "proxy/amqp/content.py",
    "proxy/session/counters.py",
    "proxy/session/window.py",
    "proxy/session/ledger.py",
    "proxy/session/channel.py",
    "proxy/session/relay.py",
    "proxy/session/intake.py",
    "proxy/session/stamp.py",
)

DIRECTIVES = {
    "language_level": 3,
    # Annotations are for mypy. Read as C types they would clash with a .pxd and quietly leave nothing compiled.
    "annotation_typing": False,
    # A peer controls the offsets; the check costs 0.6 us per 64 KiB.
    "boundscheck": True,
}


def _wanted() -> list[Extension]:
    if os.environ.get("SIDEHOP_PURE") == "1":
        _say("SIDEHOP_PURE=1: nothing is compiled")
        return []
    return [
        # Python's own flags ask for debug symbols, which take longer to write than the code.
        Extension(path[:-3].replace("/", "."), [path], extra_compile_args=["-g0"])
        for path in COMPILED
        if Path(path).exists()
    ]


def _say(text: str) -> None:
    print(f"sidehop: {text}", file=sys.stderr, flush=True)


class BuildOrFallBack(build_ext):
    """`optional=True` of setuptools does not catch a missing compiler, so every failure is caught here instead."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        try:
            self._compile()
        except (Exception, SystemExit) as error:
            if os.environ.get("SIDEHOP_REQUIRE_EXT") == "1":
                raise
            _say(f"NOT COMPILED, the relay runs as plain Python and is several times slower: {error!r}")
            _say("install a C compiler and the Python headers (apt-get install gcc python3-dev) and build again")
            for extension in self.extensions:  # some may have been done before another failed
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = self.distribution.ext_modules = []
            wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
            if wheel is not None:
                wheel.root_is_pure = True  # else it would be tagged as one for this machine only

    def _compile(self) -> None:
        from Cython.Build import cythonize

        # Cython's own objects lack what setuptools noted on ours, so only the translated sources are taken over.
        translated = cythonize(self.extensions, compiler_directives=DIRECTIVES, build_dir="build/cython", quiet=True)
        for extension, c_code in zip(self.extensions, translated, strict=True):
            extension.sources = c_code.sources
        super().run()
        for extension in self.extensions:
            product = Path(self.get_ext_fullpath(extension.name))
            if not product.exists():
                raise RuntimeError(f"{product} was not produced")
            _say(f"compiled {extension.name}")


setup(ext_modules=_wanted(), cmdclass={"build_ext": BuildOrFallBack})
