"""Seconds of a map: isoclr beside umap-learn called directly, on the same array with the same settings, measured in one run. Prints one table.

    python benchmarks/project.py            # 20,000 × 512
    python benchmarks/project.py --full     # 100,000 × 512; with --turns 2 about half as long
    python benchmarks/project.py --quick    # small: whether it runs, not how fast

What is measured:
  data          generated: unit-free vectors of genes in 300 clusters, 1 to 8 isoforms a gene, close to each other; float32.
  UMAP          `project(adata, "umap", seed=0, cache=<an empty folder>)` beside `umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(X)`: the other settings
                are umap-learn's own. The first call is never found in the cache. Checked: the coordinates are equal, bit by bit.
  all cores     the same with `seed=None` beside `random_state=None, n_jobs=-1`; neither is reproducible, so nothing is compared but time.
  processor     seconds of the processor of the same calls: what other work on the machine disturbs less than the clock.
  again         the second call: of another AnnData of the same vectors in this process, and of a fresh process that has the vectors in memory and has imported isoclr and
                anndata. The shortest and the longest of five. Checked: the same coordinates, and umap-learn is not imported.
  hash          SHA-256 of the vectors, which is nearly all of what `project` adds to the first call.

umap-learn compiles when it is first called; both sides are called once before, on 5,000 vectors (above 4,096 it takes other code). Sides take turns in this process, and who begins alternates.
A number is the sum of seconds over turns, with the shortest and the longest single turn. "ratio" is ours over the other's, by the shortest turn of each, which other work on the machine
has disturbed least.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from anndata import AnnData
from report import machine, page, seconds, timed

from isoclr.latent.project import project

HERE = Path(__file__).parent

AGAIN = """
import sys, time
import numpy as np
from anndata import AnnData
from isoclr.latent.project import project
adata, spent = AnnData(np.load(sys.argv[1])), []
start = time.perf_counter()
project(adata, "umap", seed=0, cache=sys.argv[2])
seconds = time.perf_counter() - start
assert "umap" not in sys.modules, "it was computed, not found"
np.save(sys.argv[3], adata.obsm["X_umap"])
print(seconds)
"""


def made(n: int, d: int) -> np.ndarray:
    "Vectors (n, d) of isoforms, genes and clusters."
    rng = np.random.default_rng(0)
    gene = np.repeat(np.arange(n), rng.integers(1, 9, n))[:n]
    centers = rng.normal(size=(300, d))[rng.integers(300, size=gene[-1] + 1)]
    genes = centers + 0.6 * rng.normal(size=centers.shape)
    return (genes[gene] + 0.2 * rng.normal(size=(n, d))).astype(np.float32)


def direct(X: np.ndarray, seed: int | None) -> np.ndarray:
    import umap

    return umap.UMAP(metric="cosine", random_state=seed, n_jobs=1 if seed is not None else -1).fit_transform(X)


def ours(X: np.ndarray, seed: int | None, cache: str | bool) -> np.ndarray:
    return project(AnnData(X), "umap", seed=seed, cache=cache).obsm["X_umap"]


def first_calls(X: np.ndarray, seed: int | None, turns: int) -> tuple[list[dict], np.ndarray]:
    "A row of the table for the clock, one for the processor where there is one thread, and our map."
    spent: dict[str, list[float]] = {"ours": [], "direct": []}
    busy: dict[str, list[float]] = {"ours": [], "direct": []}
    maps = {}
    for turn in range(turns):
        for side in ("ours", "direct") if turn % 2 == 0 else ("direct", "ours"):
            with tempfile.TemporaryDirectory() as cache:
                before = time.process_time()
                maps[side], once = timed(lambda: ours(X, seed, cache) if side == "ours" else direct(X, seed))
                busy[side].append(time.process_time() - before)
            spent[side].append(once)
    if seed is not None and not np.array_equal(maps["ours"], maps["direct"]):
        raise AssertionError("the same array and settings gave another map")
    name = f"UMAP of {len(X):,} × {X.shape[1]}, " + ("seed 0, one thread" if seed is not None else "no seed, all cores") + f", {turns} turn(s)"
    rows = [(name, spent)] + ([(f"{name}: processor time", busy)] if seed is not None else [])
    return [compared(of, both["ours"], both["direct"]) for of, both in rows], maps["ours"]


def compared(measured: str, ours: list[float], direct: list[float]) -> dict:
    ratio = f"{min(ours) / min(direct):.3f}×"
    return {"measured": measured, "unit": "s", "ours": seconds(ours), "against": f"{seconds(direct)} umap-learn", "ratio": ratio, "goal": "≤ 1.05×"}


def second_calls(X: np.ndarray, xy: np.ndarray, folder: Path) -> list[dict]:
    "Rows of the table: found in the cache, here and in another process."
    cache, here, there = folder / "cache", [], []
    np.save(folder / "X.npy", X)
    keep_as_computed(X, xy, cache)
    for _ in range(5):
        found, once = timed(lambda: ours(X, 0, cache))
        here.append(once)
        done = subprocess.run([sys.executable, "-c", AGAIN, folder / "X.npy", cache, folder / "xy.npy"], check=True, capture_output=True, text=True)
        there.append(float(done.stdout))
        if not (np.array_equal(found, xy) and np.array_equal(np.load(folder / "xy.npy"), xy)):
            raise AssertionError("the cache gave another map")
    rows = [("again, in the same process", here), ("again, in another process", there)]
    return [{"measured": name, "unit": "s", "ours": f"{min(s):.3g}–{max(s):.3g}", "against": "", "ratio": "", "goal": "≤ 1 s"} for name, s in rows]


def keep_as_computed(X: np.ndarray, xy: np.ndarray, cache: Path) -> None:
    "Fill a cache with a map that was already computed, instead of computing it once more."
    from isoclr.latent import project as room

    compute, *rest = room.METHODS["umap"]
    room.METHODS["umap"] = (lambda *given, **settings: (xy, {}), *rest)
    try:
        ours(X, 0, cache)
    finally:
        room.METHODS["umap"] = (compute, *rest)


def markdown(lines: list[dict], arguments: argparse.Namespace, load: float) -> str:
    facts = f"{machine('no GPU', 'numpy', 'umap-learn', 'pynndescent', 'numba')} Load average when it began: {load:.2f}, when it ended: {os.getloadavg()[0]:.2f}."
    return page("Seconds of a map", facts, __doc__, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,200 × 32, 1 turn")
    parser.add_argument("--full", action="store_true", help="100,000 × 512")
    parser.add_argument("--n", type=int, default=20_000, help="vectors")
    parser.add_argument("--d", type=int, default=512, help="dimensions")
    parser.add_argument("--turns", type=int, default=4, help="of each side")
    parser.add_argument("--no-free", action="store_true", help="leave out the map without a seed")
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "project.md", metavar="FILE", help="also to this file (results/project.md)")
    arguments = parser.parse_args()
    if arguments.full:
        arguments.n, arguments.d = 100_000, 512
    if arguments.quick:
        arguments.n, arguments.d, arguments.turns = 4_200, 32, 1
    load, lines, seeds = os.getloadavg()[0], [], [0] if arguments.no_free else [0, None]

    def tell(line: dict) -> None:
        lines.append(line)
        sys.stderr.write("  ".join(line.values()) + "\n")

    warm = made(5_000, arguments.d)
    for seed in seeds:
        direct(warm, seed)
        ours(warm, seed, False)
    X = made(arguments.n, arguments.d)
    for seed in seeds:
        rows, xy = first_calls(X, seed, arguments.turns)
        for line in rows:
            tell(line)
        if seed is not None:
            with tempfile.TemporaryDirectory() as folder:
                for again in second_calls(X, xy, Path(folder)):
                    tell(again)
    hashing = [timed(lambda: hashlib.sha256(X).hexdigest())[1] for _ in range(5)]
    tell({"measured": f"hash of {X.nbytes / 1e6:,.0f} MB", "unit": "s", "ours": f"{min(hashing):.3g}–{max(hashing):.3g}", "against": "", "ratio": "", "goal": ""})
    text = markdown(lines, arguments, load)
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
