"""Damaged files: every reader refuses them with an error of the package, or reads what a slow parse of the same text says."""

import gzip
import random
import re
import zlib
from urllib.parse import unquote

import numpy as np
import pytest
from Bio import bgzf

from isoclr.config import IsoclrError
from isoclr.data.annotation import read_annotation
from isoclr.data.genepred import GENEPRED_LAYOUTS
from test_annotation import BACTERIA_GFF3, BACTERIA_GTF, ENSEMBL_GTF, NCBI_GFF3, NCBI_GTF, bed12, gene_table, genepred, gff3, gtf
from test_table import frames_base_by_base, problem_of

# Oracles: a text → transcripts, as obvious as can be. They raise on what no reader may accept; readers may refuse more.


def numbered(text: str) -> list[tuple[int, str]]:
    return [(i, line) for i, line in enumerate(re.split("\r\n|\r|\n", text), start=1) if line.strip()]


def number(text: str, first: int = 0) -> int:
    assert re.fullmatch("[0-9]{1,12}", text) and int(text) >= first, text
    return int(text)


def numbers(text: str) -> list[int]:
    return [number(part) for part in re.sub(",$", "", text).split(",")]


def transcript(line, name, gene, gene_name, chrom, strand, exons, cds, incomplete="", problem="") -> dict:
    "One row; exons are (start, end, given frame)."
    assert name and chrom and all(start < end for start, end, _ in exons)
    exons, cds = sorted(exons), cds if cds[0] < cds[1] else (-1, -1)
    places = [exon[:2] for exon in exons]
    small = sum(end - start for start, end in places) < 10**5  # the base-by-base oracles are for transcripts, not for chromosomes
    problem = problem or (problem_of(strand, places, *cds) if small else None)
    frames = frames_base_by_base(places, [frame for *_, frame in exons], strand, *cds) if small and problem == "" else None
    return dict(line=line, transcript_id=name, gene_id=gene, gene_name=gene_name, chrom=chrom, strand=strand, exons=places, cds=cds,
                incomplete=incomplete if cds[0] >= 0 else "", problem=problem, frames=frames)  # fmt: skip


def ends_in_reading_direction(strand: str, left: bool, right: bool) -> str:
    five, three = (left, right) if strand == "+" else (right, left)
    return " ".join(["5'"] * five + ["3'"] * three)


def genepred_oracle(lines: list[tuple[int, str]], names: list[str]) -> list[dict]:
    found = []
    for line, text in lines:
        fields = text.split("\t")
        assert len(fields) == len(names)
        row = {name: field for name, field in reversed(list(zip(names, fields)))}
        starts, ends = numbers(row["exonStarts"]), numbers(row["exonEnds"])
        frames = [-1] * len(starts)
        if "exonFrames" in row:
            assert re.fullmatch("((-1|0|1|2),)*(-1|0|1|2),?", row["exonFrames"])
            frames = [int(part) for part in re.sub(",$", "", row["exonFrames"]).split(",")]
        number(row.get("bin", "0"))
        assert number(row["exonCount"]) == len(starts) == len(ends) == len(frames)
        assert (min(starts), max(ends)) == (number(row["txStart"]), number(row["txEnd"]))
        stats = [row.get("cdsStartStat", "none"), row.get("cdsEndStat", "none")]
        assert set(stats) <= {"none", "unk", "cmpl", "incmpl"}
        incomplete = ends_in_reading_direction(row["strand"], *(stat == "incmpl" for stat in stats))
        gene, cds = row.get("name2", ""), (number(row["cdsStart"]), number(row["cdsEnd"]))
        exons = list(zip(starts, ends, frames))
        found.append(transcript(line, row["name"], gene or row["name"], gene, row["chrom"], row["strand"], exons, cds, incomplete))
    return found


def bed12_oracle(lines: list[tuple[int, str]]) -> list[dict]:
    found = []
    for line, text in lines:
        chrom, start, end, name, _, strand, thick_start, thick_end, _, count, sizes, offsets = text.split("\t")
        exons = [(number(start) + offset, number(start) + offset + size, -1) for offset, size in zip(numbers(offsets), numbers(sizes))]
        assert len(numbers(offsets)) == len(numbers(sizes)) == number(count)
        assert (min(exons)[0], max(end for _, end, _ in exons)) == (number(start), number(end))
        found.append(transcript(line, name, name, "", chrom, strand, exons, (number(thick_start), number(thick_end))))
    return found


def gtf_attributes(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in "".join(part if i % 2 else part.replace(";", "\n") for i, part in enumerate(re.split('("[^"]*")', text))).split("\n"):
        key, _, value = item.strip().partition(" ")
        values[key] = values.get(key) or value.strip().strip('"').strip()
    return values


def from_rows(name, gene, gene_name, chrom, strands, line, rows, tags, left=False, right=False, repeated=False) -> dict:
    "A transcript from its GTF or GFF3 rows (feature, start, end, phase)."
    strand = strands.pop() if len(strands) == 1 else "."
    exons = sorted((start, end) for feature, start, end, _ in rows if feature == "exon")
    coding = [(start, end) for feature, start, end, _ in rows if feature in ("CDS", "stop_codon")]
    problem = "repeated_id" if repeated and strand != "." else ""
    cds_rows = [(start, end, phase) for feature, start, end, phase in rows if feature == "CDS"]
    if not exons and cds_rows:
        pieces = sorted((start, end) for feature, start, end, _ in rows if feature in ("CDS", "stop_codon", "UTR"))
        for start, end in pieces:
            if exons and start <= exons[-1][1] + 2:
                exons[-1] = (exons[-1][0], max(end, exons[-1][1]))
            else:
                exons.append((start, end))
        spans = sorted((start, end) for start, end, _ in cds_rows)
        reach = np.maximum.accumulate([end for _, end in spans])
        if any(start < end - 2 for (start, _), end in zip(spans[1:], reach)):
            problem = problem or "overlapping_exons"
    cds = (min(start for start, _ in coding), max(end for _, end in coding)) if coding else (-1, -1)
    given = []
    for start, end in exons:
        frame = -1
        for first, last, phase in cds_rows:
            begins = first == max(start, cds[0]) if strand == "+" else last == min(end, cds[1])
            within = start <= first < end if strand == "+" else start < last <= end
            if begins and within and phase != ".":
                frame = (3 - int(phase)) % 3
        given.append((start, end, frame))
    known = transcript(line, name, gene, gene_name, chrom, strand, given, cds, problem=problem)
    if known["problem"] == "" and coding and sum(end - start for start, end in exons) < 10**5:
        bases = {position for start, end in exons for position in range(start, end)}
        if any(end - start > 10**5 or not set(range(start, end)) <= bases for start, end in coding):
            known.update(problem="cds_outside_exons", frames=None)
    partial = ends_in_reading_direction(strand, left, right)
    five, three = "5'" in partial or "cds_start_NF" in tags, "3'" in partial or "cds_end_NF" in tags
    known["incomplete"] = " ".join(["5'"] * five + ["3'"] * three) if coding else ""
    return known


def gtf_oracle(lines: list[tuple[int, str]]) -> list[dict]:
    found: dict[tuple, list] = {}
    for line, text in lines:
        chrom, _, feature, start, end, _, strand, phase, attributes = text.split("\t")
        assert attributes.count('"') % 2 == 0
        feature = "UTR" if feature.lower() in ("utr", "five_prime_utr", "three_prime_utr") else feature
        if feature in ("exon", "CDS", "stop_codon", "UTR", "transcript"):
            values = gtf_attributes(attributes)
            assert feature != "CDS" or phase in ("0", "1", "2", ".")
            row = (feature, number(start, 1) - 1, number(end, 1), phase)
            assert row[1] < row[2] and values["transcript_id"] and values["gene_id"]
            found.setdefault((values["transcript_id"], values["gene_id"], chrom), []).append((line, strand, row, attributes))
    result = []
    for (name, gene, chrom), rows in found.items():
        line, _, _, attributes = rows[0]
        values = gtf_attributes(attributes)
        tags = [tag for tag in ("cds_start_NF", "cds_end_NF") if f'tag "{tag}"' in attributes]
        features = [row for *_, row, _ in rows]
        named = sum(row[0] == "transcript" for row in features)
        gene_name = values.get("gene_name") or values.get("gene", "")
        result.append(
            from_rows(name, gene, gene_name, chrom, {strand for _, strand, _, _ in rows}, line, features, tags, repeated=named > 1)
        )
    return result


def gff3_values(attributes: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in attributes.split(";"):
        key, _, value = pair.partition("=")
        values.setdefault(key.strip(), value.strip())
    return values


def gff3_oracle(lines: list[tuple[int, str]]) -> list[dict]:
    features: list[tuple] = []  # those that may be parents: id, chrom, line, feature, strand, values
    children: dict[tuple, list] = {}
    for line, text in lines:
        chrom, _, feature, start, end, _, strand, phase, attributes = text.split("\t")
        values, chrom = gff3_values(attributes), unquote(chrom)
        feature = "UTR" if feature.lower() in ("utr", "five_prime_utr", "three_prime_utr") else feature
        alone = feature == "CDS" and "Parent" not in values
        if feature in ("exon", "CDS", "stop_codon", "UTR"):
            assert feature != "CDS" or phase in ("0", "1", "2", ".")
            row = (feature, number(start, 1) - 1, number(end, 1), phase)
            assert row[1] < row[2]
            parents = [values["ID"]] if alone else values["Parent"].split(",")
            for parent in dict.fromkeys(unquote(parent) for parent in parents):
                assert parent
                children.setdefault((parent, chrom), []).append((line, strand, row, attributes))
        if alone or feature not in ("exon", "CDS", "stop_codon", "UTR", "region", "cDNA_match", "intron", "start_codon", "chromosome", "match"):
            if values.get("ID"):
                features.append((unquote(values["ID"]), chrom, line, feature, strand, values))
                assert len({other[3] for other in features if other[:2] == features[-1][:2]}) == 1
    parents = {parent for *_, values in features for parent in values.get("Parent", "").split(",")}
    for name, chrom, _, feature, _, values in features:
        if feature.endswith(("RNA", "transcript")) and values["ID"] not in parents:
            children.setdefault((name, chrom), [])
    result = []
    for (name, chrom), rows in children.items():
        ancestors, wanted = [], name
        while wanted and len(ancestors) < 8:
            feature = ([f for f in features if f[:2] == (wanted, chrom)] or [f for f in features if f[0] == wanted])[0]
            ancestors.append(feature)
            wanted = unquote(feature[5].get("Parent", "").split(",")[0])

        def said(key):
            return next((unquote(feature[5][key]) for feature in ancestors if feature[5].get(key)), "")

        here = [feature for feature in features if feature[:2] == (name, chrom)]
        numbers_ = [n for *_, values in ancestors for n in re.findall(r"(?:^|,)GeneID:([0-9]+)", values.get("Dbxref", ""))]
        own, top = ancestors[0][5], ancestors[-1]
        prefix = "^(transcript:|gene:|CDS:|rna-|gene-|cds-)(?=.)"
        gene = said("gene_id") or (numbers_ or [re.sub(prefix, "", unquote(top[5]["ID"]))])[0]
        gene_name = said("gene_name") or said("gene") or ("gene" in top[3] and unquote(top[5].get("Name", ""))) or ""
        strands = {strand for _, strand, _, _ in rows} or {here[0][4]}
        cds = [attributes for *_, row, attributes in rows if row[0] == "CDS"]
        left, right = any("start_range=." in text for text in cds), any(re.search("end_range=[^;]*,[.]", text) for text in cds)
        line = min([row[0] for row in rows] + [feature[2] for feature in here])
        result.append(
            from_rows(unquote(own.get("transcript_id", "")) or re.sub(prefix, "", name), gene, gene_name, chrom, strands, line,
                      [row for *_, row, _ in rows], own.get("tag", "").split(","), left, right, len(here) > 1 and here[0][3] != "CDS")
        )  # fmt: skip
    return sorted(result, key=lambda row: row["line"])


def annotation_oracle(text: str) -> list[dict]:
    "All formats; which one it is shows in the first row."
    lines, names = numbered(text), None
    header = next((i for i, (_, line) in enumerate(lines) if "exonStarts" in line and "txStart" in line), None)
    first = next(i for i, (_, line) in enumerate(lines) if not line.startswith(("#", "track ", "browser ")))
    if header is not None and header <= first:
        names = [name.split(".")[-1] for name in lines[header][1].lstrip("#").strip().split("\t")]
        names = ["name2" if name == "geneName" else name for name in names]
        if set(GENEPRED_LAYOUTS["bare"]) <= set(names):
            lines = lines[header + 1 :]
            first = next(i for i, (_, line) in enumerate(lines) if not line.startswith(("#", "track ", "browser ")))
        else:
            names = None
    width = lines[first][1].count("\t") + 1
    if names is None and width == 9:
        gff3_ = re.match(r"\s*[^\s=;\"]+=", lines[first][1].split("\t")[8]) or lines[first][1].endswith("\t.")
        if gff3_:
            fasta = next((i for i, (_, line) in enumerate(lines) if i > first and line.startswith(("##FASTA", ">"))), len(lines))
            lines = lines[:fasta]
        lines = [(i, line) for i, line in lines[first:] if not line.startswith("#")]
        return gff3_oracle(lines) if gff3_ else gtf_oracle(lines)
    lines = [(i, line) for i, line in lines if not line.startswith(("#", "track ", "browser "))]
    if names is None and width == 12:
        return bed12_oracle(lines)
    bin_first = lines[0][1].split("\t")[0].isdigit()
    layouts = {10: "bare", 11: "bare with bin" if bin_first else "refFlat", 15: "extended", 16: "extended with bin"}
    return genepred_oracle(lines, names or GENEPRED_LAYOUTS[layouts[width]])


def check_annotation(annotation, text: str) -> None:
    "What was read from a text is what the oracle reads from it."
    expected = annotation_oracle(text)
    table = annotation.to_frame()
    assert len(table) == len(expected)
    for ours, theirs in zip(table.itertuples(), expected):
        for name in ("transcript_id", "gene_id", "gene_name", "chrom", "strand", "line"):
            assert getattr(ours, name) == theirs[name], (name, ours, theirs)
        assert list(zip(ours.exon_starts, ours.exon_ends)) == theirs["exons"]
        assert (ours.cds_start, ours.cds_end) == theirs["cds"] and ours.cds_incomplete == theirs["incomplete"], (ours, theirs)
        assert theirs["problem"] is None or ours.problem == theirs["problem"], (ours, theirs)
        assert theirs["frames"] is None or ours.exon_frames.tolist() == theirs["frames"], (ours, theirs)
    check_invariants(annotation, text)


def check_invariants(annotation, text: str) -> None:
    "What holds of every annotation, whatever it was read from."
    owner = np.repeat(np.arange(len(annotation)), np.diff(annotation.exon_offsets))
    starts, ends, frames, rows = annotation.exon_starts, annotation.exon_ends, annotation.exon_frames, annotation.rows
    assert np.all((0 <= starts) & (starts < ends)) and np.all((-1 <= frames) & (frames <= 2))
    sound = (rows.problem == "").to_numpy()
    beside = owner[1:] == owner[:-1]
    assert np.all(starts[1:][beside] >= starts[:-1][beside]) and np.all(ends[:-1][beside & sound[owner[1:]]] <= starts[1:][beside & sound[owner[1:]]])
    assert np.all(np.diff(annotation.exon_offsets)[sound] > 0) and rows.strand[sound].isin(["+", "-"]).all()
    assert np.all((rows.cds_start >= 0) == (rows.cds_end > rows.cds_start)) and (rows.cds_end[rows.cds_start < 0] == -1).all()
    assert np.array_equal(np.bincount(owner[frames >= 0], minlength=len(rows))[sound] > 0, (rows.cds_start >= 0).to_numpy()[sound])


# Small files to begin from; two genes, both strands, an incomplete CDS, a split stop codon, one exon, no CDS

TRANSCRIPTS = [
    {"name": "T0", "gene": "G0", "chrom": "chr1", "strand": "+", "exons": [(10, 40), (60, 90), (100, 133)], "coding": (5, 60), "frame": 0},
    {"name": "T1", "gene": "G0", "chrom": "chr1", "strand": "+", "exons": [(10, 40), (100, 133)], "coding": (2, 30), "frame": 1},
    {"name": "T2", "gene": "G1", "chrom": "2", "strand": "-", "exons": [(200, 222), (300, 340)], "coding": (18, 24), "frame": 0},
    {"name": "T3", "gene": "G1", "chrom": "2", "strand": "-", "exons": [(250, 290)], "coding": (0, 0), "frame": 0},
]
TAGGED = gtf(TRANSCRIPTS).replace(" note", ' gene_type "x"; tag "basic"; tag "cds_start_NF"; note')
SEEDS = {
    **{f"genePred {layout}": genepred(TRANSCRIPTS, layout).replace("cmpl\tcmpl", "incmpl\tcmpl") for layout in GENEPRED_LAYOUTS},
    "genePred with header": genepred(TRANSCRIPTS, "extended with bin", header=True),
    "BED12": bed12(TRANSCRIPTS),
    "GTF": TAGGED,
    "GTF shuffled": gtf(TRANSCRIPTS, stop_inside=True, rng=random.Random(1)),
    "GTF of Ensembl": ENSEMBL_GTF,
    "GTF of NCBI": NCBI_GTF,
    "GTF of bacteria": BACTERIA_GTF,
    "GFF3 like Ensembl": gff3(TRANSCRIPTS),
    "GFF3 like GENCODE": gff3(TRANSCRIPTS, "gencode").replace("ID=T1;", "ID=T1;tag=basic,cds_start_NF;"),
    "GFF3 like NCBI": gff3(TRANSCRIPTS, "ncbi", random.Random(2)).replace("gbkey=mRNA", "gbkey=mRNA;partial=true;start_range=.,9"),
    "GFF3 of NCBI": NCBI_GFF3,
    "GFF3 of bacteria": BACTERIA_GFF3,
}
# Name, text to begin from, reader of a path, and check of what it gave against the text it was given: a reader of another format is one more row
READERS = [(name, seed, read_annotation, check_annotation) for name, seed in SEEDS.items()]
ODD = ["", "-1", "0", "1", "2", "3", ".", "+", "-", "1e3", "1_0", " 7", "٣", "9" * 12, "9" * 13, "9" * 40, "nan", "\0", "é", "%00", "%2C"]
ODD += ["#", ">", '"', ";", "=", ","]


def mutated(text: str, rng: random.Random) -> str:
    "A text with one kind of damage."
    lines = text.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    fields = lines[i].rstrip("\n").split("\t")
    k, m = rng.randrange(len(fields)), rng.randrange(len(fields))
    kind = rng.randrange(14)
    if kind == 0:
        fields[k] = rng.choice(ODD)
    elif kind == 1:
        del fields[k]
    elif kind == 2:
        fields.insert(k, rng.choice([*ODD, fields[m]]))
    elif kind == 3:
        fields[k], fields[m] = fields[m], fields[k]
    elif kind == 4:
        numbers_ = list(re.finditer("[0-9]+", lines[i]))
        if numbers_:
            at = rng.choice(numbers_)
            other = rng.choice([*ODD, str(int(at[0]) + rng.choice([-3, -1, 1, 3, 10**9]))])
            lines[i] = lines[i][: at.start()] + other + lines[i][at.end() :]
    elif kind == 5:
        del lines[i]
    elif kind == 6:
        lines.insert(j, lines[i])
    elif kind == 7:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 8:
        return text[: rng.randrange(len(text))]
    elif kind in (9, 10):
        at = rng.randrange(len(text))
        return text[:at] + rng.choice([chr(rng.randrange(1, 128)), *ODD, "\t", "\n", "\r", ""]) + text[at + rng.randrange(2) :]
    elif kind == 11:
        at, span = rng.randrange(len(text)), rng.randrange(1, 30)
        return text[:at] + text[at + span :]
    elif kind == 12:
        separators = [at for at, character in enumerate(text) if character in "\t,;= \n"]
        at = rng.choice(separators or [0])
        return text[:at] + rng.choice("\t,;= \n") + text[at + 1 :]
    elif kind == 13:
        fields[k] = fields[k].replace(rng.choice("+0T"), rng.choice(["-", "1", "S"]), 1)
    if kind <= 3 or kind == 13:
        lines[i] = "\t".join(fields) + "\n"
    return "".join(lines)


@pytest.mark.parametrize("name, seed, read, check", READERS, ids=[name for name, *_ in READERS])
def test_damaged_text(tmp_path, name, seed, read, check):
    rng, path, outcomes = random.Random(name), tmp_path / "file", {"read": 0, "refused": 0}
    path.write_text(seed, newline="")
    check(read(path), seed)
    for _ in range(300):
        text = mutated(seed, rng)
        if rng.random() < 0.3:
            text = mutated(text, rng) if text.strip() else text
        path.write_text(text, newline="")
        try:
            result = read(path)
        except IsoclrError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            try:
                check(result, text)
            except Exception:
                print(text)
                raise
    assert min(outcomes.values()) > 20, outcomes  # damage of both kinds


@pytest.mark.parametrize("name, seed, read, check", READERS, ids=[name for name, *_ in READERS])
def test_damaged_bytes(tmp_path, name, seed, read, check):
    "Bytes flipped, in the text or in the compressed file; a compressed file that is read at all is read as it was."
    rng, path = random.Random(name), tmp_path / "file"
    with bgzf.BgzfWriter(str(path)) as out:
        out.write(seed)
    packed = [seed.encode(), gzip.compress(seed.encode()), path.read_bytes()]
    for i in range(120):
        data = bytearray(packed[i % 3])
        for _ in range(rng.choice([1, 1, 3])):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        path.write_bytes(data)
        try:
            result = read(path)
        except IsoclrError:
            continue
        check(result, data.decode() if i % 3 == 0 else seed)


def test_damaged_tables_of_genes(tmp_path):
    rng, table, path = random.Random(5), tmp_path / "genes", tmp_path / "file"
    path.write_text(bed12(TRANSCRIPTS))
    seeds = [gene_table(TRANSCRIPTS), "Gene stable ID\tTranscript stable ID\tGene name\n" + "".join(f"G{i}\tT{i}.1\tN{i}\n" for i in range(4))]
    for i in range(300):
        text = mutated(seeds[i % 2], rng)
        table.write_text(text, newline="")
        try:
            rows = read_annotation(path, table).rows
        except IsoclrError:
            continue
        pairs = [set(line.split("\t")) for _, line in numbered(text)]
        for row in rows.itertuples():
            itself, words = row.gene_id == row.transcript_id, (row.transcript_id, f"{row.transcript_id}.1")
            assert itself or any(row.gene_id in pair and pair & set(words) for pair in pairs), row
