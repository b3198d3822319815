"""What a run costs beside its work: `run` against the same code as a plain script, and the second call of a finished run. Prints one table.

    python benchmarks/runs.py            # about two minutes
    python benchmarks/runs.py --quick    # one round of 20 families: whether it runs, not how fast

What is measured:
  as a script     the code cells of the experiment `build` (simulated genomes of two species into a store), one after the other in a fresh process
  run             `run("build", …)` with the same parameters in another fresh process: papermill, a kernel, the notebook saved after each cell, the account of the run.
                  The overhead is the difference of a round's two times. Goal: 5 s. "of a core" are CPU seconds of all processes, which do not depend on what else computes.
  second call     `run` of that finished configuration in a fresh process, from the call (`isoclr.runs` is imported) to the run. Goal: 0.5 s. "with Python's start" is
                  the whole process, as after a command.
  sweep           `sweep` of the same finished configuration: the table, pandas imported.

Sides take turns, round by round; a number is the median of the rounds, with lowest and highest. Times are of the wall unless it says otherwise, so what else computes on the machine is in them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from report import machine, page, timed

from isoclr.parameters import experiment_notebook

HERE = Path(__file__).parent
CALL = "import time\nfrom isoclr.{module} import {module_call}\nstart = time.perf_counter()\n{call}\nprint(time.perf_counter() - start)"


def script(families: int, folder: Path) -> str:
    "The notebook's code as a script, with its parameters."
    cells = [cell for cell in json.loads(experiment_notebook("build").read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    parameters, *others = ["".join(cell["source"]) for cell in cells]
    return "\n".join([parameters, f"simulate_families, run_folder = {families}, {str(folder)!r}", *others])


def process(code: str) -> tuple[str, float, float]:  # what it printed, seconds, CPU seconds
    "Execute code in a fresh process."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done, seconds = timed(lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True))
    if done.returncode:
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def one_round(families: int) -> dict[str, float]:
    "Seconds of each side."
    with tempfile.TemporaryDirectory() as folder:
        run = f"run('build', runs_folder={folder!r}, progress=False, simulate_families={families})"
        sweep = f"sweep('build', [{{'simulate_families': {families}}}], runs_folder={folder!r}, progress=False)"
        call = CALL.format(module="runs", module_call="run", call=run)
        _, direct, direct_cpu = process(script(families, Path(folder) / "direct"))
        _, first, first_cpu = process(call)
        second, whole, _ = process(call)
        swept, *_ = process(CALL.format(module="sweep", module_call="sweep", call=sweep))
    found = {"as a script": direct, "run": first, "overhead": first - direct, "of a core": first_cpu - direct_cpu, "second call": float(second), "with Python's start": whole, "sweep": float(swept)}
    sys.stderr.write(f"{found}\n")
    return found


def shown(values: list[float]) -> str:
    return f"{median(values):.3g}" + (f" ({min(values):.3g}–{max(values):.3g})" if len(values) > 1 else "")


def rows_of(rounds: list[dict[str, float]]) -> list[dict]:
    def values(name: str) -> list[float]:
        return [one[name] for one in rounds]

    script_s, run_s = values("as a script"), values("run")
    table = [
        ("build as a script", shown(script_s), "", ""),
        ("run(\"build\")", shown(run_s), f"{median(b / a for a, b in zip(script_s, run_s)):.3g}× the script", ""),
        ("overhead of run", shown(values("overhead")), "", "≤ 5 s"),
        ("overhead of run, of a core", shown(values("of a core")), "", ""),
        ("second call of run", shown(values("second call")), f"{median(a / b for a, b in zip(values('second call'), run_s)):.2g}× the first", "≤ 0.5 s"),
        ("second call, with Python's start", shown(values("with Python's start")), "", ""),
        ("sweep over a finished run", shown(values("sweep")), "", ""),
    ]
    return [dict(zip(("measured", "s", "ratio", "goal"), line)) for line in table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 families, one round")
    parser.add_argument("--families", type=int, default=100, help="simulated gene families")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "runs.md", metavar="FILE", help="also to this file (results/runs.md)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.families, arguments.rounds = 20, 1
    load = os.getloadavg()[0]
    lines = rows_of([one_round(arguments.families) for _ in range(arguments.rounds)])
    facts = f"{machine('load average when it began ' + format(load, '.2f'), 'papermill', 'ipykernel')}\n{arguments.families} simulated gene families of two species; {arguments.rounds} round(s)."
    text = page("What a run costs beside its work", facts, __doc__, lines)
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
