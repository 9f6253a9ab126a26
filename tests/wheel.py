"""What `tox -e wheel` runs where the wheel alone is installed: it does its work, with a plugin.

    python wheel.py FOLDER_OF_A_PLUGIN EMPTY_FOLDER

No test framework is there, as for a user. The first thing that goes wrong ends it.
"""

import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import files
from pathlib import Path

from tiny_suite import SUITE  # beside this file

KINDS = ("adapters", "backbones", "datasets", "detectors", "suites")
NEEDED = (
    *("um_bench/py.typed", "um_bench/suites/digits-far-ood.toml", "LICENSE"),
    *("um_bench/render/page/vendor/tabulator.min.js", "um_bench/render/page/app/main.js"),
    *("um_bench/render/page/vendor/LICENSE-d3", "um_bench_um/README.md"),
)
STRANGERS = ("tests/", "docs/", "benchmarks/", "leaderboards/")
ADAPTERS = "none,finetune,um,logitnorm"


def check_files() -> None:
    """Stop if the distribution lacks a file that it needs, or holds what is no part of it."""
    its = [str(path) for path in files("um-bench") or ()]
    missing = [name for name in NEEDED if not any(path.endswith(name) for path in its)]
    strangers = [path for path in its if path.startswith(STRANGERS)]
    if missing or strangers:
        sys.exit(f"the wheel lacks {missing} and holds {strangers}")


def call(folder: Path, *arguments: str) -> str:
    """Run a command in the folder and return what it printed; stop if it fails."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    print("$", *arguments, flush=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return done.stdout


def install(plugin: Path, folder: Path) -> None:
    """Build a wheel of a plugin, offline, and install it beside um-bench."""
    source = folder / "plugin"
    shutil.copytree(plugin, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    pip = (sys.executable, "-m", "pip")
    call(folder, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", str(source))
    wheels = [str(path) for path in (folder / "wheels").glob("*.whl")]
    call(folder, *pip, "install", "--no-deps", "--no-index", "--force-reinstall", *wheels)


def main() -> None:
    """Check the files, then work as a user does."""
    plugin, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve() / "smoke"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    check_files()
    install(plugin, folder)
    command = str(Path(sysconfig.get_path("scripts")) / "um-bench")
    call(folder, command, "--help")
    listed = {kind: call(folder, command, "list", kind) for kind in KINDS}
    for kind, name in (("adapters", "logitnorm"), ("adapters", "umap"), ("detectors", "knn")):
        if name not in listed[kind].split():
            sys.exit(f"{name} is not among the {kind}:\n{listed[kind]}")
    (folder / "tiny.toml").write_text(SUITE, encoding="utf-8")
    run = call(folder, command, "run", "--suite", "tiny.toml", "--adapters", ADAPTERS)
    if "8 done" not in run:
        sys.exit(f"not all of 8 cells are done:\n{run}")
    call(folder, command, "leaderboard", "--format", "html", "--out", "page.html")
    call(folder, command, "doctor")
    page = (folder / "page.html").stat().st_size
    print(f"8 cells done, one by a plugin; a page of {page / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
