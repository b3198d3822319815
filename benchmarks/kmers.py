"""Seconds and memory of k-mer features: isoclr beside scikit-learn's CountVectorizer, on the same transcripts, measured in one run. Prints one table.

    python benchmarks/kmers.py            # real regions at ../shared/data (or $ISOCLR_TEST_DATA); about five minutes
    python benchmarks/kmers.py --quick    # 500 transcripts: whether it runs, not how fast

What is measured:
  data            13,000 transcripts, drawn with replacement from those of the human and mouse regions, so that lengths are real
  3- to 7-mers    frequencies of all 21,824 words in every transcript, as a sparse matrix, in a fresh process each round; "peak memory" is the largest resident
                  set of that process from its start (VmHWM), the imports and the pages of the store that it read included. Goals: 60 s, 2 GB.
  scikit-learn    `CountVectorizer(analyzer="char", ngram_range=(3, 7))`, which is given the vocabulary, on some of these transcripts in a fresh process, with the
                  strings ready before the clock starts; its seconds are multiplied by the ratio of the nucleotides. Checked: its counts divided by their sums for
                  each length are ours to 1e-6.
  others          the other baselines for the same transcripts. The components are 128 of the square roots of 3- to 7-mers, and their peak memory is with these.

Sides take turns, round by round; a number is the median of the rounds, with lowest and highest. Imports and opening of the store are not counted. "ratio" is the other's seconds over ours.
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
from typing import Callable

import numpy as np
from report import machine, page, timed

from isoclr.data.features import codon_usage, engineered_features, kmer_frequencies, kmer_names
from isoclr.data.store import TranscriptStore
from isoclr.probe.baselines import kmer_pca, kmer_square_roots

HERE = Path(__file__).parent
SIZES = range(3, 8)


def drawn_store(folder: Path, data: Path, n: int) -> TranscriptStore:
    "Transcripts of the real regions, drawn with replacement."
    from pretrain import real_store

    real = real_store(folder, data)
    return real.subset(folder / "drawn", np.random.default_rng(0).integers(0, len(real), n))


def own_words(store: TranscriptStore, rows: int) -> dict:
    words, seconds = timed(lambda: kmer_frequencies(store, SIZES, sparse=True))
    return {"seconds": seconds, "values": words.nnz, "shape": words.shape}


def own_components(store: TranscriptStore, rows: int) -> dict:
    words, _ = timed(lambda: kmer_frequencies(store, SIZES, sparse=True))
    components, seconds = timed(lambda: kmer_pca(words))
    return {"seconds": seconds, "shape": components.shape}


def their_words(store: TranscriptStore, rows: int) -> dict:
    "scikit-learn's counts of the first transcripts, and how far their frequencies are from ours."
    from sklearn.feature_extraction.text import CountVectorizer

    texts = [store.sequence(row) for row in range(rows)]
    names = kmer_names(SIZES)
    vectorizer = CountVectorizer(analyzer="char", ngram_range=(SIZES[0], SIZES[-1]), lowercase=False, vocabulary=names)
    counts, seconds = timed(lambda: vectorizer.fit_transform(texts))
    peak = peak_mb()
    ours, begin, apart = kmer_frequencies(Rows(store, rows), SIZES, sparse=True), 0, 0.0
    for size in SIZES:
        columns = slice(begin, begin := begin + 4**size)
        part = counts[:, columns].toarray()
        apart = max(apart, np.abs(part / np.maximum(part.sum(1, keepdims=True), 1) - ours[:, columns].toarray()).max())
    if apart > 1e-6:
        raise AssertionError(f"frequencies are {apart} apart")
    return {"seconds": seconds, "apart": float(apart), "peak_mb": peak, "nt": sum(map(len, texts))}


class Rows:
    "The first rows of a store."

    def __init__(self, store: TranscriptStore, n: int):
        self.transcripts, self.tokens, self.n = store.transcripts.iloc[:n], store.tokens, n

    def __len__(self) -> int:
        return self.n


def baseline(work: Callable) -> Callable:
    def measured(store: TranscriptStore, rows: int) -> dict:
        _, seconds = timed(lambda: work(store))
        return {"seconds": seconds}

    return measured


MEASURES = {
    "words": own_words, "components": own_components, "scikit-learn": their_words, "5-mers, square roots": baseline(kmer_square_roots),
    "codon usage": baseline(codon_usage), "engineered features": baseline(engineered_features),
}


def peak_mb() -> float:
    "Largest resident set of this process so far."
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: what getrusage says there is at least the size of the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure_here(name: str, store: Path, rows: int) -> None:
    "In a process of its own: print what came out."
    before, opened = peak_mb(), TranscriptStore.open(store)
    found = MEASURES[name](opened, rows)
    sys.stdout.write(json.dumps({"peak_mb": peak_mb(), "before_mb": before} | found))


def measured(name: str, store: TranscriptStore, arguments: argparse.Namespace) -> dict:
    "What a fresh process measures."
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name, "--store", str(store.path), "--subset", str(arguments.subset)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads))
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if result.returncode:
        raise RuntimeError(f"{name}:\n{result.stderr}")
    found = json.loads(result.stdout)
    sys.stderr.write(f"{name}  {found}\n")
    return found


def shown(values: list[float], form: str = ".3g") -> str:
    return f"{median(values):{form}}" + (f" ({min(values):{form}}–{max(values):{form}})" if len(values) > 1 else "")


def rows_of(store: TranscriptStore, arguments: argparse.Namespace) -> list[dict]:
    rounds = [{name: measured(name, store, arguments) for name in MEASURES} for _ in range(arguments.rounds)]

    def values(name: str, what: str) -> list[float]:
        return [one[name][what] for one in rounds]

    nt, words = int(store.transcripts.length_nt.sum()), rounds[0]["words"]
    times = nt / rounds[0]["scikit-learn"]["nt"]
    ours, theirs = values("words", "seconds"), [seconds * times for seconds in values("scikit-learn", "seconds")]
    name = f"3- to 7-mers, sparse: {words['shape'][0]:,} × {words['shape'][1]:,}, {words['values'] / np.prod(words['shape']):.0%} not 0"
    against = f"{shown(theirs)} scikit-learn, of {arguments.subset:,} transcripts, times {times:.3g}; at most {rounds[0]['scikit-learn']['apart']:.0e} apart"
    memory = f"{shown(values('scikit-learn', 'peak_mb'), ',.0f')} scikit-learn, {arguments.subset:,} transcripts alone"
    table = [
        (name, "s", shown(ours), against, f"{median(theirs) / median(ours):.3g}×", "≤ 60 s"),
        (f"peak memory of that process ({shown(values('words', 'before_mb'), ',.0f')} after imports)", "MB", shown(values("words", "peak_mb"), ",.0f"), memory, "", "≤ 2,000 MB"),
        ("128 principal components of them", "s", shown(values("components", "seconds")), "", "", ""),
        ("peak memory of that process", "MB", shown(values("components", "peak_mb"), ",.0f"), "", "", ""),
    ]
    table += [(name, "s", shown(values(name, "seconds")), "", "", "") for name in list(MEASURES)[3:]]
    return [dict(zip(("measured", "unit", "ours", "against", "ratio", "goal"), line)) for line in table]


def markdown(lines: list[dict], arguments: argparse.Namespace, load: float, store: TranscriptStore) -> str:
    lengths = store.transcripts.length_nt
    facts = f"{machine(f'{arguments.threads} thread(s)', 'numpy', 'scipy', 'scikit-learn')} Load average when it began: {load:.2f}.\n"
    facts += f"{len(store):,} transcripts, {lengths.sum():,} nt (5, 50, 95 % quantiles {', '.join(f'{q:,.0f}' for q in lengths.quantile([0.05, 0.5, 0.95]))} nt); {arguments.rounds} round(s)."
    return page("Seconds and memory of k-mer features", facts, __doc__, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 transcripts, 50 of them for scikit-learn, one round")
    parser.add_argument("--n", type=int, default=13_000, help="transcripts")
    parser.add_argument("--subset", type=int, default=1_000, help="transcripts for scikit-learn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "kmers.md", metavar="FILE", help="also to this file (results/kmers.md)")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_here(arguments.measure, arguments.store, arguments.subset)
        return
    if arguments.quick:
        arguments.n, arguments.subset, arguments.rounds = 500, 50, 1
    data = Path(os.environ.get("ISOCLR_TEST_DATA", HERE.parents[1] / "shared" / "data"))
    if not data.is_dir():
        parser.error(f"no real regions at {data}: set ISOCLR_TEST_DATA to the folder that holds genome/, annotation/, homology/")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        store = drawn_store(Path(folder), data, arguments.n)
        text = markdown(rows_of(store, arguments), arguments, load, store)
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
