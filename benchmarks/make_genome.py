"""Write a genome of human size with an annotation, both made up, for benchmarks of reading and splicing.

    python benchmarks/make_genome.py OUT --bgzip          # 3.1 Gb, 60,000 genes, 250,000 transcripts, 1.4 million exons
    python benchmarks/make_genome.py OUT --scale 0.01     # a hundredth of everything

In OUT: genome.fa, genome.fa.fai (with --bgzip also genome.fa.gz, .fai, .gzi), genePred.tsv (UCSC, extended, with `bin`), annotation.gtf
(as GENCODE writes it: the stop codon lies outside the CDS). Sequences are random, so a CDS is one by its coordinates only. Needs numpy.
"""
import argparse
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

import numpy as np

HUMAN_MB = (248.96, 242.19, 198.30, 190.21, 181.54, 170.81, 159.35, 145.14, 138.39, 133.80, 135.09, 133.28)  # chr1 to chr12
HUMAN_MB += (114.36, 107.04, 101.99, 90.34, 83.26, 80.37, 58.62, 64.44, 46.71, 50.82, 156.04, 57.23)  # chr13 to Y
CHROMOSOMES = [f"chr{name}" for name in (*range(1, 23), "X", "Y")]
GENES, TRANSCRIPTS, EXONS = 60_000, 250_000, 1_400_000
LINE = 60  # letters
BLOCK = 65280  # bytes of text in a BGZF block
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

# ---- sequence


def sequence(length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    "Letters of a chromosome in pieces of whole lines: random ACGT, half of it in runs of lower case; N at both ends and in a gap."
    four = np.frombuffer(b"ACGT", np.uint8)[np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3].copy().view(np.uint32).ravel()
    edge, gap = min(10_000, length // 100), (int(0.4 * length), int(0.41 * length))
    for begin in range(0, length, LINE * 2**18):
        size = min(LINE * 2**18, length - begin)
        letters = four[rng.integers(0, 256, -(-size // 4), np.uint8)].view(np.uint8)[:size]
        runs = 1 + rng.geometric(1 / 300, 2 * (size // 500) + 2)
        case = np.repeat(np.resize(np.array([0, 32], np.uint8), len(runs)), runs)[:size]
        letters[: len(case)] |= case
        for low, high in ((0, edge), gap, (length - edge, length)):
            letters[max(low - begin, 0) : max(high - begin, 0)] = ord("N")
        yield letters


def with_line_ends(letters: np.ndarray) -> bytes:
    "Lines of 60 letters; the last may be shorter."
    whole = len(letters) // LINE
    lines = np.full((whole, LINE + 1), ord("\n"), np.uint8)
    lines[:, :LINE] = letters[: whole * LINE].reshape(whole, LINE)
    rest = letters[whole * LINE :].tobytes()
    return lines.tobytes() + (rest + b"\n" if rest else b"")


def bgzf_blocks(text: bytes) -> list[bytes]:
    "BGZF blocks of some text."
    blocks = []
    for begin in range(0, len(text), BLOCK):
        piece = text[begin : begin + BLOCK]
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = packer.compress(piece) + packer.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(packed) + 25)
        blocks.append(head + packed + struct.pack("<II", zlib.crc32(piece), len(piece)))
    return blocks


class BgzipWriter:
    "A bgzip file and its index, packed by threads; few pieces are in flight at a time."

    def __init__(self, path: Path, threads: int):
        self.path, self.out, self.pool, self.threads = path, open(path, "wb"), ThreadPoolExecutor(threads), threads
        self.rest, self.waiting, self.index, self.packed, self.unpacked = b"", [], [], 0, 0

    def write(self, text: bytes) -> None:
        text = self.rest + text
        whole = len(text) // BLOCK * BLOCK
        self.rest = text[whole:]
        for begin in range(0, whole, 64 * BLOCK):
            self._pack(text[begin : min(begin + 64 * BLOCK, whole)])

    def _pack(self, text: bytes) -> None:
        self.waiting.append((len(text), self.pool.submit(bgzf_blocks, text)))
        while len(self.waiting) > 4 * self.threads:
            self._collect()

    def _collect(self) -> None:
        size, blocks = self.waiting.pop(0)
        for number, block in enumerate(blocks.result()):
            self.index.append((self.packed, self.unpacked + number * BLOCK))
            self.packed += self.out.write(block)
        self.unpacked += size

    def close(self) -> None:
        if self.rest:
            self._pack(self.rest)
        while self.waiting:
            self._collect()
        self.out.write(BGZF_END)
        self.out.close()
        self.pool.shutdown()
        offsets = np.array(self.index[1:], "<u8")  # the first block needs no entry
        Path(f"{self.path}.gzi").write_bytes(struct.pack("<Q", len(offsets)) + offsets.tobytes())


def write_genome(folder: Path, lengths: list[int], seed: int, bgzip: bool, threads: int) -> None:
    "FASTA, index, and on request the same as bgzip."
    index, offset = [], 0
    packed = BgzipWriter(folder / "genome.fa.gz", threads) if bgzip else None
    with open(folder / "genome.fa", "wb") as plain:
        for number, (name, length) in enumerate(zip(CHROMOSOMES, lengths)):
            head = f">{name}\n".encode()
            index.append(f"{name}\t{length}\t{offset + len(head)}\t{LINE}\t{LINE + 1}\n")
            offset += len(head) + length + -(-length // LINE)
            pieces = sequence(length, np.random.default_rng([seed, number]))
            for text in _texts(head, pieces):
                plain.write(text)
                if packed:
                    packed.write(text)
    (folder / "genome.fa.fai").write_text("".join(index))
    if packed:
        packed.close()
        (folder / "genome.fa.gz.fai").write_text("".join(index))


def _texts(head: bytes, pieces: Iterator[np.ndarray]) -> Iterator[bytes]:
    yield head
    for letters in pieces:
        yield with_line_ends(letters)


# ---- annotation


def ranges(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "For lists laid end to end: the list of each item, and its place in the list."
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def shares(total: int, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    "Whole numbers that add up to `total`, at least 1 each, else in proportion to the weights."
    return 1 + rng.multinomial(total - len(weights), weights / weights.sum())


def lognormal(median: float, sigma: float, size: int, low: int, rng: np.random.Generator) -> np.ndarray:
    return np.maximum(rng.lognormal(np.log(median), sigma, size), low).astype(np.int64)


def make_transcripts(lengths: list[int], scale: float, coding: float, rng: np.random.Generator) -> tuple[dict, dict, dict]:
    "Columns of genes, transcripts and exons; exons in the order in which they are transcribed."
    n_genes, n_transcripts, n_exons = (round(scale * n) for n in (GENES, TRANSCRIPTS, EXONS))
    per_gene = shares(n_transcripts, rng.gamma(0.7, size=n_genes), rng)
    gene_of = np.repeat(np.arange(n_genes), per_gene)
    size = rng.gamma(1.0, size=n_genes)[gene_of] * rng.gamma(6.0, size=n_transcripts)
    exon_count = shares(n_exons, size, rng)
    # a gene has slots for exons; a transcript takes the last, mostly the first, and others at random
    slots = np.maximum.reduceat(exon_count, np.cumsum(per_gene) - per_gene)
    slots += (slots > 1) * rng.integers(0, 3, n_genes)
    slot_gene, slot_rank = ranges(slots)
    last, first = slot_rank == slots[slot_gene] - 1, slot_rank == 0
    exonic = lognormal(150, 0.6, len(slot_gene), 30, rng)
    exonic = np.where(first, lognormal(300, 0.7, len(exonic), 50, rng), exonic)
    exonic = np.where(last, lognormal(1600, 0.8, len(exonic), 200, rng), exonic)
    intronic = np.where(last, 0, lognormal(1300, 1.3, len(exonic), 60, rng))
    # place the genes; introns shrink where a gene would take more than half of its chromosome
    chrom = np.sort(rng.choice(len(lengths), n_genes, p=np.array(lengths) / sum(lengths)))
    length = np.array(lengths)[chrom]
    begin = np.cumsum(slots) - slots
    exon_nt, intron_nt = np.add.reduceat(exonic, begin), np.add.reduceat(intronic, begin)
    shrink = np.minimum(1, np.maximum(length // 2 - exon_nt, 0) / np.maximum(intron_nt, 1))
    intronic = np.where(last, 0, np.maximum(60, (intronic * shrink[slot_gene]).astype(np.int64)))
    steps = exonic + intronic
    span = np.add.reduceat(steps, begin)
    edge = np.minimum(10_000, length // 100)
    if np.any(span + 2 * edge >= length):
        raise SystemExit(f"--scale {scale} makes chromosomes that are too short for a gene of {span.max():,} nt. Give a greater one.")
    gene_start = edge + (rng.random(n_genes) * (length - span - 2 * edge)).astype(np.int64)
    forward = rng.random(n_genes) < 0.5
    slot_start = np.cumsum(steps) - steps
    slot_start -= slot_start[begin][slot_gene]  # from the gene's 5' end
    # choose slots
    candidate, at = ranges(slots[gene_of])
    slot = begin[gene_of][candidate] + at
    key = rng.random(len(slot))
    key[first[slot] & (rng.random(len(slot)) < 0.7)] = -0.5
    key[last[slot]] = -1
    by_key = np.lexsort((key, candidate))
    chosen = _smallest(by_key, candidate, exon_count)
    exon_transcript, exon_slot = candidate[chosen], slot[chosen]
    five, three = slot_start[exon_slot], slot_start[exon_slot] + exonic[exon_slot]
    # transcripts begin and end where they like within their outer exons
    outer = np.cumsum(exon_count)
    five[outer - exon_count] += rng.integers(0, 25, n_transcripts)
    three[outer - 1] -= rng.integers(0, 25, n_transcripts)
    gene = gene_of[exon_transcript]
    plus = forward[gene]
    start = gene_start[gene] + np.where(plus, five, span[gene] - three)
    end = gene_start[gene] + np.where(plus, three, span[gene] - five)
    # coding sequences, in transcript coordinates
    nt = end - start
    spliced = np.add.reduceat(nt, outer - exon_count)
    utr = np.minimum(lognormal(200, 0.8, n_transcripts, 1, rng), spliced // 5)
    codons = np.minimum(lognormal(1100, 0.7, n_transcripts, 60, rng), (0.7 * spliced).astype(np.int64)) // 3
    is_coding = (rng.random(n_genes) < coding)[gene_of] & (codons > 1)
    cds_start, cds_end = np.where(is_coding, utr, -1), np.where(is_coding, utr + 3 * codons, -1)
    genes = {"chrom": chrom, "forward": forward, "order": np.lexsort((gene_start, chrom))}
    transcripts = {"gene": gene_of, "exons": exon_count, "first": outer - exon_count, "nt": spliced}
    transcripts |= {"cds_start": cds_start, "cds_end": cds_end}
    within = np.cumsum(nt) - nt
    within -= within[outer - exon_count][exon_transcript]
    return genes, transcripts, {"transcript": exon_transcript, "start": start, "end": end, "within": within, "forward": plus}


def _smallest(by_key: np.ndarray, owner: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    "Of items sorted by owner and key, the first `wanted` of each owner, back in their own order."
    _, rank = ranges(np.bincount(owner, minlength=len(wanted)))
    return np.sort(by_key[rank < wanted[owner[by_key]]])


def part(exons: dict, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Where `begin` to `end` of each exon's transcript lies in the exon: genomic start and end (-1: not at all), and the frame there."
    low = np.maximum(exons["within"], begin)
    high = np.minimum(exons["within"] + exons["end"] - exons["start"], end)
    left, right = low - exons["within"], high - exons["within"]
    start = np.where(exons["forward"], exons["start"] + left, exons["end"] - right)
    stop = np.where(exons["forward"], exons["start"] + right, exons["end"] - left)
    there = (low < high) & (begin >= 0)
    return np.where(there, start, -1), np.where(there, stop, -1), np.where(there, (low - begin) % 3, -1)


def ucsc_bin(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    "UCSC's bin of intervals: the smallest of 128 kb, 1 Mb, 8 Mb, 64 Mb, 512 Mb that holds all of it."
    bins = np.zeros(len(start), np.int64)
    for shift, offset in ((29, 0), (26, 1), (23, 9), (20, 73), (17, 585)):
        bins = np.where(start >> shift == (end - 1) >> shift, offset + (start >> shift), bins)
    return bins


def names(transcripts: dict, genes: dict) -> tuple[list[str], list[str], list[str]]:
    "Gene ids, symbols and transcript ids."
    n = len(genes["chrom"])
    return (
        [f"ENSG{i:011d}.1" for i in range(n)],
        [f"GENE{i}" for i in range(n)],
        [f"ENST{i:011d}.1" for i in range(len(transcripts["gene"]))],
    )


def write_genepred(path: Path, genes: dict, transcripts: dict, exons: dict) -> None:
    "UCSC's extended genePred with `bin`, by chromosome and start."
    gene_ids, symbols, ids = names(transcripts, genes)
    first, count = transcripts["first"], transcripts["exons"]
    owner = exons["transcript"]
    low, high, frame = part(exons, transcripts["cds_start"][owner], transcripts["cds_end"][owner])
    start, end = np.minimum.reduceat(exons["start"], first), np.maximum.reduceat(exons["end"], first)
    coding = transcripts["cds_start"] >= 0
    cds_start = np.where(coding, np.minimum.reduceat(np.where(low < 0, 2**60, low), first), end)
    cds_end = np.where(coding, np.maximum.reduceat(high, first), end)
    chrom, forward = genes["chrom"][transcripts["gene"]], genes["forward"][transcripts["gene"]]
    columns = [values.tolist() for values in (ucsc_bin(start, end), chrom, forward, start, end, cds_start, cds_end, count, first, coding)]
    gene = transcripts["gene"].tolist()
    with open(path, "w") as out:
        for i in np.lexsort((start, chrom)).tolist():
            number, chromosome, plus, tx_start, tx_end, low, high, size, at, codes = (column[i] for column in columns)
            here = slice(at, at + size)
            lists = [values[here][:: 1 if plus else -1].tolist() for values in (exons["start"], exons["end"], frame)]
            starts, ends, frames = (",".join(map(str, values)) for values in lists)
            state = "cmpl\tcmpl" if codes else "none\tnone"
            out.write(
                f"{number}\t{ids[i]}\t{CHROMOSOMES[chromosome]}\t{'+' if plus else '-'}\t{tx_start}\t{tx_end}\t{low}\t{high}\t{size}\t"
                f"{starts},\t{ends},\t0\t{symbols[gene[i]]}\t{state}\t{frames},\n"
            )


def write_gtf(path: Path, genes: dict, transcripts: dict, exons: dict) -> None:
    "GTF as GENCODE writes it: genes by chromosome and start, with their transcripts, and the parts of those in the order of transcription."
    gene_ids, symbols, ids = names(transcripts, genes)
    owner, first, count = exons["transcript"], transcripts["first"], transcripts["exons"]
    cds_start, cds_end = transcripts["cds_start"][owner], transcripts["cds_end"][owner]
    none = cds_start < 0
    spans = {
        "CDS": (cds_start, cds_end - 3),
        "start_codon": (cds_start, cds_start + 3),
        "stop_codon": (np.where(none, -1, cds_end - 3), cds_end),
    }
    parts = {kind: [values.tolist() for values in part(exons, *span)] for kind, span in spans.items()}
    exon_start, exon_end = exons["start"].tolist(), exons["end"].tolist()
    start, end = np.minimum.reduceat(exons["start"], first), np.maximum.reduceat(exons["end"], first)
    per_gene = np.bincount(transcripts["gene"])
    first_of = np.cumsum(per_gene) - per_gene
    gene_start, gene_end = np.minimum.reduceat(start, first_of).tolist(), np.maximum.reduceat(end, first_of).tolist()
    codes = (transcripts["cds_start"] >= 0).tolist()
    start, end, first, count, first_of, per_gene = (x.tolist() for x in (start, end, first, count, first_of, per_gene))
    chrom, forward = genes["chrom"].tolist(), genes["forward"].tolist()
    with open(path, "w") as out:
        out.write("##description: made up by benchmarks/make_genome.py\n##format: gtf\n")
        for g in genes["order"].tolist():
            head, strand = f"{CHROMOSOMES[chrom[g]]}\tHAVANA\t", "+" if forward[g] else "-"
            biotype = "protein_coding" if any(codes[first_of[g] : first_of[g] + per_gene[g]]) else "lncRNA"
            of_gene = f'gene_type "{biotype}"; gene_name "{symbols[g]}";'
            lines = [f'{head}gene\t{gene_start[g] + 1}\t{gene_end[g]}\t.\t{strand}\t.\tgene_id "{gene_ids[g]}"; {of_gene} level 2;\n']
            for t in range(first_of[g], first_of[g] + per_gene[g]):
                kind = "protein_coding" if codes[t] else "lncRNA"
                bears = f'gene_id "{gene_ids[g]}"; transcript_id "{ids[t]}"; {of_gene} '
                bears += f'transcript_type "{kind}"; transcript_name "{symbols[g]}-{t}";'
                lines.append(f"{head}transcript\t{start[t] + 1}\t{end[t]}\t.\t{strand}\t.\t{bears} level 2; tag \"basic\";\n")
                for number, e in enumerate(range(first[t], first[t] + count[t]), 1):
                    tail = f"{bears} exon_number {number}; exon_id \"ENSE{e:011d}.1\"; level 2; tag \"basic\";\n"
                    lines.append(f"{head}exon\t{exon_start[e] + 1}\t{exon_end[e]}\t.\t{strand}\t.\t{tail}")
                    if codes[t]:
                        for name, (low, high, frame) in parts.items():
                            if low[e] >= 0:
                                lines.append(f"{head}{name}\t{low[e] + 1}\t{high[e]}\t.\t{strand}\t{(3 - frame[e]) % 3}\t{tail}")
            out.write("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for chromosomes and numbers of genes, transcripts, exons")
    parser.add_argument("--coding", type=float, default=0.6, help="fraction of genes with a CDS")
    parser.add_argument("--bgzip", action="store_true", help="write genome.fa.gz as well")
    parser.add_argument("--threads", type=int, default=2, help="for packing")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lengths = [round(given.scale * 1e6 * size) for size in HUMAN_MB]
    began = time.time()
    genes, transcripts, exons = make_transcripts(lengths, given.scale, given.coding, np.random.default_rng([given.seed, 99]))
    write_genepred(given.out / "genePred.tsv", genes, transcripts, exons)
    write_gtf(given.out / "annotation.gtf", genes, transcripts, exons)
    print(
        f"{len(genes['chrom']):,} genes, {len(transcripts['gene']):,} transcripts ({np.mean(transcripts['cds_start'] >= 0):.0%} coding, "
        f"median {np.median(transcripts['nt']):,.0f} nt), {len(exons['start']):,} exons: {time.time() - began:.0f} s"
    )
    began = time.time()
    write_genome(given.out, lengths, given.seed, given.bgzip, given.threads)
    print(f"{sum(lengths):,} nt in {len(lengths)} chromosomes: {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
