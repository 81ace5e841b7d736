"""The native part of the build: the C core as one static library, a Cython module for each group of its headers.

Environment: MQCORE_SANITIZE=1 builds with ASan and UBSan, MQCORE_DEBUG=1 without optimisation and with the core's own
checks, MQCORE_JOBS limits parallel compilers, MQCORE_CFLAGS / MQCORE_LDFLAGS are appended. MQCORE_BUILD_DIR keeps
objects between `pip install -e .` (which builds in a throw-away folder otherwise) and `setup.py build_ext --inplace`.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib as _build_clib
from setuptools.command.build_ext import build_ext as _build_ext

JOBS = int(os.environ.get("MQCORE_JOBS", os.cpu_count() or 1))
CORE = sorted(glob("mqcore/src/*.c"))
HEADERS = sorted(glob("mqcore/include/mqcore/*.h") + glob("mqcore/src/*.h"))
PXD = sorted(glob("bindings/**/*.pxd", recursive=True))

BUILD_DIR = os.environ.get("MQCORE_BUILD_DIR", "")

CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden"]
LDFLAGS = []
if os.environ.get("MQCORE_SANITIZE"):
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    CFLAGS += [*sanitizers, "-fno-omit-frame-pointer", "-g", "-O1", "-UNDEBUG"]
    LDFLAGS += sanitizers
elif os.environ.get("MQCORE_DEBUG"):
    CFLAGS += ["-g", "-O0", "-UNDEBUG"]
else:
    CFLAGS += ["-O3", "-DNDEBUG", "-g0"]  # Python's own flags ask for -g: a third of the compile time
CFLAGS += os.environ.get("MQCORE_CFLAGS", "").split()
LDFLAGS += os.environ.get("MQCORE_LDFLAGS", "").split()


class build_clib(_build_clib):
    """The core, compiled once and in parallel."""

    def finalize_options(self):
        super().finalize_options()
        if BUILD_DIR:
            self.build_clib = self.build_temp = os.path.join(BUILD_DIR, "temp")

    def build_libraries(self, libraries):
        one = self.compiler.compile

        def many(sources, **kwargs):
            with ThreadPoolExecutor(JOBS) as pool:
                return [o for result in pool.map(lambda s: one([s], **kwargs), sources) for o in result]

        self.compiler.compile = many
        super().build_libraries(libraries)


class build_ext(_build_ext):
    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or JOBS
        if BUILD_DIR:
            self.build_temp = os.path.join(BUILD_DIR, "temp")
            if self.inplace or self.editable_mode:  # a wheel's folder is the wheel's
                self.build_lib = os.path.join(BUILD_DIR, "lib")

    def run(self):
        if self.distribution.has_c_libraries():
            self.run_command("build_clib")  # a bare build_ext skips it, and the link fails
        super().run()


extensions = [
    Extension(
        f"mqcore._native.{os.path.basename(source)[:-4]}",
        [source],
        include_dirs=["mqcore/include"],
        depends=HEADERS + CORE + PXD,
        extra_compile_args=[*CFLAGS, "-Wno-unused-function"],
        extra_link_args=LDFLAGS,
    )
    for source in sorted(glob("bindings/*.pyx"))
]

setup(
    cmdclass={"build_clib": build_clib, "build_ext": build_ext},
    libraries=[
        ("mqcore", {"sources": CORE, "include_dirs": ["mqcore/include"], "obj_deps": {"": HEADERS}, "cflags": CFLAGS})
    ],
    ext_modules=cythonize(
        extensions,
        include_path=["bindings"],
        nthreads=JOBS if len(extensions) > 1 else 0,
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "freethreading_compatible": True},
    ),
)
