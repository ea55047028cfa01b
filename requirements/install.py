"""Install AtomVision into the environment that runs this script; called by the Makefile.

``--torch cpu`` pins the CPU build of PyTorch: from a configured wheel folder if pip finds one there, otherwise from
PyTorch's own CPU index. ``--torch default`` takes the platform's own build.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pip(*arguments: str, capture: bool = False) -> str:
    """Run pip of this interpreter; its output is returned when captured."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""


def finds_cpu_build(constraints: Path) -> bool:
    """Whether pip, as it is configured, resolves the pinned torch to a CPU build."""
    report = pip(
        "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-",
        "-c", str(constraints), "torch",
        capture=True,
    )  # fmt: skip
    return json.loads(report)["install"][0]["metadata"]["version"].endswith("+cpu")


def main() -> None:
    """Parse the arguments and install."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", choices=("cpu", "default"), default="cpu")
    parser.add_argument("--extra", action="append", default=[])
    arguments = parser.parse_args()
    target = f"{HERE.parent}[{','.join(arguments.extra)}]" if arguments.extra else str(HERE.parent)
    # What is imported is compiled then; compiling every file of every package takes longer than all else.
    options = ["--progress-bar", "off", "--no-compile"]
    if arguments.torch == "cpu":
        constraints = HERE / "constraints-cpu.txt"
        options += ["-c", str(constraints)]
        if not finds_cpu_build(constraints):
            options += ["--extra-index-url", CPU_INDEX]
    else:
        options += ["-c", str(HERE / "constraints.txt")]
    pip("install", *options, "-e", target)


if __name__ == "__main__":
    main()
