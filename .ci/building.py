"""How the extension modules are compiled: by pip, in place by the scripts beside this one, and for wheels.

Small and soon: no debug information, no symbols, nothing exported but each module's initialization; what Cython puts
into every module (functions, coroutines, and the like) lies in one, `SHARED`, without what none of them uses; no code
to pickle what cannot be pickled; the compiler tries hardest with those modules only through which every message passes,
and least with those in which the system or Python does nearly all of the work; all CPUs are used.  Whoever sets CFLAGS
says himself how to compile and what to keep.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension
from setuptools.command.build_ext import build_ext

SHARED = "flexsc_loop.cython_shared"
# In the source distribution, besides what the package is made of: documents, tests, benchmarks, examples, and the
# scripts that build and run them.  What these leave behind lies in the folders after that.
ALSO = (
    "Makefile", ".gitignore", ".ci/*", "benchmarks/*.html", "benchmarks/*.svg", "benchmarks/**/*.c",
    "benchmarks/**/*.h", "benchmarks/**/*.md", "benchmarks/**/*.py", "examples/**/*.*", "findings/*.sh",
    "flexsc_loop/**/*.md", "tests/**/*.c", "tests/**/*.h", "tests/**/*.json", "tests/**/*.md", "tests/**/*.py",
    "tests/**/*.sh",
)
LEFT_BEHIND = {"__pycache__", "build", "results"}
COMPILE = ["-g0", "-fvisibility=hidden"]
LINK = ["-Wl,-s"]
# Where most of the instructions that a message costs are.
HOT = {
    f"flexsc_loop.{name}"
    for name in (
        "syscalls.page",
        "syscalls.kernel_page",
        "syscalls.user_page",
        "threads.descriptors",
        "threads.green",
        "threads.sockets",
        "transports.datagram",
        "transports.reading",
        "transports.writing",
        "turn.handles",
        "turn.timers",
        "turn.turn",
    )
}


# Typed views of memory, most of `SHARED`, are used nowhere; nor is a class pickled: Python refuses that by itself.
DIRECTIVES = {"auto_pickle": False, "emit_code_comments": False}
UNUSED = ["MemoryView"]


def optimization(extension):
    """The compiler's option for how hard to try with an extension."""
    return "-O3" if extension.name in HOT else "-O1"


def add_shared(extensions):
    """Put the module of what all have in common into the list of extensions, once; return the list."""
    if all(extension.name != SHARED for extension in extensions):
        extensions.append(Extension(SHARED, [SHARED.replace(".", "/") + ".c"]))
    return extensions


def translate(extensions, folder, jobs, **options):
    """Make C out of Cython in `folder`, by `jobs` processes; only what is out of date, unless force=True.

    The extensions' sources are those of C afterwards.
    """
    includes = sorted({name for extension in extensions for name in extension.include_dirs})
    made = cythonize(
        extensions,
        nthreads=jobs if jobs > 1 else 0,
        build_dir=folder,
        include_path=includes,
        shared_utility_qualified_name=SHARED,
        shared_utility_features_disabled=UNUSED,
        compiler_directives=DIRECTIVES,
        **options,
    )
    sources = {extension.name: extension.sources for extension in made}
    for extension in extensions:
        extension.sources = sources[extension.name]


class BuildExtensions(build_ext):
    """setuptools' `build_ext`."""

    def finalize_options(self):
        """Use all CPUs, unless told otherwise."""
        add_shared(self.distribution.ext_modules)
        super().finalize_options()
        if self.parallel is None:
            self.parallel = len(os.sched_getaffinity(0))

    def build_extensions(self):
        """Cython to C, then C to modules."""
        translate(self.extensions, self.build_temp, int(self.parallel), force=self.force, quiet=self.verbose == 0)
        if "CFLAGS" not in os.environ:
            for extension in self.extensions:
                extension.extra_compile_args += [optimization(extension), *COMPILE]
                extension.extra_link_args += LINK
        super().build_extensions()

    def get_source_files(self):
        """For the sdist: all of the project, and not the file that Cython writes."""
        generated = {name for extension in self.extensions if extension.name == SHARED for name in extension.sources}
        found = {str(path) for pattern in ALSO for path in Path().glob(pattern) if path.is_file()}
        found = {name for name in found if not LEFT_BEHIND.intersection(name.split("/"))}
        return sorted({*super().get_source_files(), *found} - generated)
