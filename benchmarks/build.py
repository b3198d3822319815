"""Transcripts a second, from files to a store: isoclr beside two ways to do it with pyfaidx, all measured in one run. Prints one table.

    python benchmarks/build.py                    # real regions at ../shared/data (or $ISOCLR_TEST_DATA), and a generated genome at 1/100 and 1/10
    python benchmarks/build.py --full FOLDER      # also the human-size genome, 3.1 Gb and 250,000 transcripts, generated into FOLDER where it is missing

Ways:
  build       `build_store`: annotation read and checked, transcripts chosen, spliced, marked, hashed, written, opened again; checksums of the sources too
  splice      only what (b) does, and the marks: transcripts whose exons are in memory already → tokens
  (a) tracks  pyfaidx, exon by exon: fetched, one-hot encoded, joined, reversed, padded to (12288, 6) float tracks, as the published code does
  (b) strings pyfaidx, exon by exon: fetched and joined as strings, reverse-complemented; no table, no checks, no tracks; exons in memory already

Each way is timed `--repeat` times in turn, and the fastest counts; (a) takes at most `--most` transcripts and is given as a rate. Nothing is timed before the files have been read once.
"""

import argparse
import datetime
import gc
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from pyfaidx import Fasta

from isoclr.data.annotation import read_annotation
from isoclr.data.build import SpeciesSource, StoreConfig, build_store
from isoclr.data.genome import Genome
from isoclr.data.table import Annotation
from isoclr.data.tracks import splice
from isoclr.files import open_text

HERE = Path(__file__).parent
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
ONE_HOT = {"A": [1, 0, 0, 0], "C": [0, 1, 0, 0], "G": [0, 0, 1, 0], "T": [0, 0, 0, 1], "N": [0.25] * 4}
EVERYTHING = StoreConfig(coding_only=False, max_length_nt=10**9)


def pyfaidx_strings(fasta: str, transcripts: list) -> int:
    "(b): spliced sequences as strings."
    chromosomes, total = Fasta(fasta, as_raw=True, sequence_always_upper=True), 0
    for chrom, strand, exons, _ in transcripts:
        chromosome = chromosomes[chrom]
        sequence = "".join([chromosome[start:end] for start, end in exons])
        total += len(sequence if strand == "+" else sequence[::-1].translate(COMPLEMENT))
    return total


def pyfaidx_tracks(fasta: str, transcripts: list, longest: int = 12288) -> float:
    "(a): padded float tracks, exon by exon."
    chromosomes, total = Fasta(fasta, sequence_always_upper=True), 0.0
    for chrom, strand, exons, (cds_start, cds_end) in transcripts:
        pieces, splices, codons, coding = [], [], [], 0
        for start, end in exons if strand == "+" else exons[::-1]:
            sequence = chromosomes[chrom][start:end]
            sequence = str(sequence) if strand == "+" else str(sequence.reverse.complement)
            pieces.append(np.array([ONE_HOT[letter] for letter in sequence], np.float32))
            splices.append(np.zeros(end - start, np.float32))
            splices[-1][-1] = 1
            marks = np.zeros(end - start, np.float32)
            for i, position in enumerate(range(start, end) if strand == "+" else range(end - 1, start - 1, -1)):
                if cds_start <= position < cds_end:
                    marks[i] = coding % 3 == 0
                    coding += 1
            codons.append(marks)
        tracks = np.concatenate([np.concatenate(pieces), np.concatenate(codons)[:, None], np.concatenate(splices)[:, None]], axis=1)[:longest]
        padded = np.zeros((longest, 6), np.float32)
        padded[: len(tracks)] = tracks
        total += float(padded[0, 0])
    return total


def isoclr_splice(fasta: str, annotation: Annotation) -> int:
    return sum(len(tokens) for _, tokens in splice(Genome(fasta), annotation, progress=False))


def isoclr_build(fasta: str, path: str, folder: Path) -> int:
    shutil.rmtree(folder / "store", ignore_errors=True)
    return len(build_store(folder / "store", [SpeciesSource("s", fasta, path)], config=EVERYTHING, progress=False))


def seconds(calls: dict, repeat: int) -> dict[str, float]:
    "The fastest of `repeat` rounds over all the calls."
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeat):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def usable(annotation: Annotation, fasta: str) -> Annotation:
    return annotation.take((annotation.rows.problem == "").to_numpy() & annotation.rows.chrom.isin(Genome(fasta).lengths).to_numpy())


def in_memory(annotation: Annotation) -> list:
    "What the ways with pyfaidx are given: chrom, strand, exons and CDS of each transcript."
    starts, ends, offsets = annotation.exon_starts.tolist(), annotation.exon_ends.tolist(), annotation.exon_offsets.tolist()
    bounds = [list(zip(starts[a:b], ends[a:b])) for a, b in zip(offsets, offsets[1:])]
    rows = annotation.rows
    return list(zip(rows.chrom, rows.strand, bounds, zip(rows.cds_start.tolist(), rows.cds_end.tolist())))


def row(name: str, fasta: str, path: str, n: int | None, repeat: int, most: int) -> dict:
    "One line of the table: the first `n` transcripts of an annotation."
    annotation = usable(read_annotation(path), fasta)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if n is not None:  # the first n transcripts, in a file of their own
            annotation = annotation.take(np.arange(min(n, len(annotation))))
            lines = set(annotation.rows.line.tolist())
            with open_text(path) as text:
                kept = [line for number, line in enumerate(text, 1) if number in lines or line.startswith("#")]
            path = str(folder / "annotation")
            Path(path).write_text("".join(kept))
        transcripts = in_memory(annotation)
        gc.freeze()  # a million tuples would slow down the garbage collection of all the ways
        few = transcripts[:most]
        times = seconds({
            "build": lambda: isoclr_build(fasta, path, folder), "splice": lambda: isoclr_splice(fasta, annotation),
            "(a)": lambda: pyfaidx_tracks(fasta, few), "(b)": lambda: pyfaidx_strings(fasta, transcripts),
        }, repeat)
    rates = {name: (len(few) if name == "(a)" else len(transcripts)) / time_s for name, time_s in times.items()}
    return {
        "input": name, "transcripts": len(transcripts), "exons": len(annotation.exon_starts), **{f"{way} /s": f"{rate:,.0f}" for way, rate in rates.items()},
        "build / (a)": f"{rates['build'] / rates['(a)']:,.0f}×", "build / (b)": f"{rates['build'] / rates['(b)']:.2f}×", "splice / (b)": f"{rates['splice'] / rates['(b)']:.1f}×",
    }


def human_size(fasta: str, path: str) -> str:
    "Seconds and peak memory of a build in a process of its own."
    with tempfile.TemporaryDirectory(dir=Path(fasta).parent) as folder:
        code = "import sys, benchmarks.build as b; from pathlib import Path; b.isoclr_build(sys.argv[1], sys.argv[2], Path(sys.argv[3]))"
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", code, fasta, path, folder], cwd=HERE.parent)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"the build of {fasta} failed")
        return f"{time.perf_counter() - began:.1f} s, {used.ru_maxrss / 1e6:.2f} GB"


def generate(folder: Path, scale: float) -> Path:
    if not (folder / "genePred.tsv").exists():
        subprocess.run([sys.executable, HERE / "make_genome.py", folder, "--scale", str(scale), "--bgzip"], check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", metavar="FOLDER", help="also the human-size genome, in this folder (5 GB)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--most", type=int, default=200, help="transcripts for (a)")
    parser.add_argument("--out", help="write the table to this file as well")
    arguments = parser.parse_args()
    data = Path(os.environ.get("ISOCLR_TEST_DATA", HERE.parents[1] / "shared" / "data"))
    lines, extra = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if data.is_dir():
            regions = str(data / "annotation/hg38.regions.refseq.genePred.tsv.gz")
            packed = str(data / "genome/hg38.regions.fa.gz")
            plain = folder / "hg38.regions.fa"
            with open(plain, "wb") as out:
                subprocess.run(["gzip", "-dc", packed], stdout=out, check=True)
            Genome(plain)
            for n in (10, 100, None):
                lines.append(row("hg38 regions, plain", str(plain), regions, n, arguments.repeat, arguments.most))
            lines.append(row("hg38 regions, bgzip", packed, regions, None, arguments.repeat, arguments.most))
        for scale in (0.01, 0.1):
            made = generate(folder / str(scale), scale)
            lines.append(row(f"generated × {scale}, plain", str(made / "genome.fa"), str(made / "genePred.tsv"), None, arguments.repeat, arguments.most))
        if arguments.full:
            made = generate(Path(arguments.full), 1)
            lines.append(row("generated × 1, plain", str(made / "genome.fa"), str(made / "genePred.tsv"), None, 1, arguments.most))
            for fasta, annotation in (("genome.fa", "genePred.tsv"), ("genome.fa.gz", "genePred.tsv"), ("genome.fa", "annotation.gtf"), ("genome.fa.gz", "annotation.gtf")):
                extra.append(f"{fasta} + {annotation}: {human_size(str(made / fasta), str(made / annotation))}")
    table = pd.DataFrame(lines)
    text = "| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns) + "\n"
    text += "".join("| " + " | ".join(map(str, values)) + " |\n" for values in table.itertuples(index=False))
    if extra:
        text += "\nHuman size (3.1 Gb, 250,000 transcripts, 1.4 million exons), the whole build in a process of its own, start of Python included:\n\n" + "".join(f"- {line}\n" for line in extra)
    ways = __doc__[__doc__.index("Ways:") :].strip()
    text = f"# From files to a store\n\n{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}\n\n```\n{ways}\n```\n\n{text}"
    sys.stdout.write(text)
    if arguments.out:
        Path(arguments.out).write_text(text)


if __name__ == "__main__":
    main()
