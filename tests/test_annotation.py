"""Annotation: genePred and GTF against oracles that go base by base, both formats against each other, and files that are refused."""

import gzip
import random

import numpy as np
import pandas as pd
import pytest
from Bio import bgzf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.data.annotation import GENEPRED_LAYOUTS, PROBLEMS, read_annotation

SAME = [
    "transcript_id",
    "gene_id",
    "gene_name",
    "chrom",
    "strand",
    "exon_starts",
    "exon_ends",
    "cds_start",
    "cds_end",
    "cds_frame",
    "problem",
]


# writers that go base by base; a transcript is a dict with exons [(start, end)] and `coding`: bases read before the CDS, and its length


def reading_order(transcript) -> list[int]:
    "Positions on the chromosome of the bases of a transcript, 5'→3'."
    forward = [position for start, end in transcript["exons"] for position in range(start, end)]
    return forward if transcript["strand"] == "+" else forward[::-1]


def coding_positions(transcript) -> list[int]:
    before, length = transcript["coding"]
    return reading_order(transcript)[before : before + length]


def genepred(transcripts, layout: str, header: bool = False) -> str:
    lines = ["#" + "\t".join(GENEPRED_LAYOUTS[layout])] if header else []
    for t in transcripts:
        coding = coding_positions(t)
        frames = []
        for start, end in t["exons"]:
            ranks = [rank for rank, position in enumerate(coding) if start <= position < end]
            frames.append((min(ranks) + t["frame"]) % 3 if ranks else -1)
        cds_start, cds_end = (min(coding), max(coding) + 1) if coding else (t["exons"][-1][1],) * 2
        row = {
            "bin": 585,
            "name": t["name"],
            "chrom": t["chrom"],
            "strand": t["strand"],
            "txStart": t["exons"][0][0],
            "txEnd": t["exons"][-1][1],
            "cdsStart": cds_start,
            "cdsEnd": cds_end,
            "exonCount": len(t["exons"]),
            "exonStarts": "".join(f"{start}," for start, _ in t["exons"]),
            "exonEnds": "".join(f"{end}," for _, end in t["exons"]),
            "score": 0,
            "name2": t["gene"],
            "cdsStartStat": "cmpl",
            "cdsEndStat": "cmpl",
            "exonFrames": "".join(f"{frame}," for frame in frames),
        }
        lines.append("\t".join(str(row[name]) for name in GENEPRED_LAYOUTS[layout]))
    return "".join(line + "\n" for line in lines)


def gtf(transcripts, stop_inside: bool = False, rng: random.Random | None = None) -> str:
    "GTF with the last three coding bases as stop codon, outside the CDS unless `stop_inside`; rows of a transcript shuffled by `rng`."
    lines = ["##provider: test"]
    for t in transcripts:
        coding = coding_positions(t)
        stop = coding[-3:] if len(coding) >= 3 else []
        cds = coding if stop_inside or not stop else coding[:-3]
        rows = [("transcript", t["exons"][0][0], t["exons"][-1][1], ".")]
        for start, end in t["exons"]:
            rows.append(("exon", start, end, "."))
            for feature, positions in (("CDS", cds), ("stop_codon", stop)):
                here = [position for position in positions if start <= position < end]
                if here:
                    rank = min(coding.index(position) for position in here) + t["frame"]
                    rows.append((feature, min(here), max(here) + 1, (3 - rank) % 3))
        if rng:
            rng.shuffle(rows)
        attributes = f'gene_id "{t["gene"]}"; transcript_id "{t["name"]}"; gene_name "{t["gene"]}"; note "a; b";'
        lines += [
            "\t".join(map(str, (t["chrom"], "test", feature, start + 1, end, ".", t["strand"], phase, attributes)))
            for feature, start, end, phase in rows
        ]
    return "".join(line + "\n" for line in lines)


@st.composite
def transcript_lists(draw):
    transcripts = []
    for i in range(draw(st.integers(1, 5))):
        position, exons = draw(st.integers(0, 50)), []
        for _ in range(draw(st.integers(1, 5))):
            end = position + draw(st.integers(1, 20))
            exons.append((position, end))
            position = end + draw(st.integers(0, 30))
        length = sum(end - start for start, end in exons)
        before = draw(st.integers(0, length))
        coding = draw(st.integers(0, length - before))
        frame = draw(st.integers(0, 2)) if coding > 5 else 0  # the CDS rows of a GTF then hold at least one base
        strand, chrom = draw(st.sampled_from("+-")), draw(st.sampled_from(["chr1", "2"]))
        transcripts.append(
            {
                "name": f"T{i}",
                "gene": f"G{i // 2}",
                "chrom": chrom,
                "strand": strand,
                "exons": exons,
                "coding": (before, coding),
                "frame": frame,
            }
        )
    return transcripts


def written(folder, content: str, packed: str = "plain"):
    path = folder / f"annotation.{packed}"
    if packed == "plain":
        path.write_text(content)
    else:
        with gzip.open(path, "wt") if packed == "gzip" else bgzf.BgzfWriter(str(path)) as out:
            out.write(content)
    return path


def assert_is(table: pd.DataFrame, transcripts, columns=SAME):
    assert len(table) == len(transcripts)
    for row, t in zip(table.itertuples(), transcripts):
        coding = coding_positions(t)
        expected = {
            "transcript_id": t["name"],
            "gene_id": t["gene"],
            "gene_name": t["gene"],
            "chrom": t["chrom"],
            "strand": t["strand"],
            "exon_starts": [start for start, _ in t["exons"]],
            "exon_ends": [end for _, end in t["exons"]],
            "cds_start": min(coding, default=-1),
            "cds_end": max(coding, default=-2) + 1,
            "cds_frame": t["frame"],
            "problem": "",
        }
        for name in columns:
            assert np.array_equal(getattr(row, name), expected[name]), (name, row)


anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)


@anywhere
@given(transcript_lists(), st.sampled_from(list(GENEPRED_LAYOUTS)), st.booleans(), st.sampled_from(["plain", "gzip", "bgzip"]))
def test_genepred_in_all_layouts(tmp_path_factory, transcripts, layout, header, packed):
    table = read_annotation(written(tmp_path_factory.mktemp("a"), genepred(transcripts, layout, header), packed))
    if layout.startswith("bare"):  # knows neither genes nor frames
        transcripts = [{**t, "gene": t["name"], "frame": 0} for t in transcripts]
        assert set(table.gene_name) == {""}
        assert_is(table, transcripts, [name for name in SAME if name != "gene_name"])
    else:
        assert_is(table, transcripts if layout != "refFlat" else [{**t, "frame": 0} for t in transcripts])
    assert table.line.tolist() == list(range(1 + header, 1 + header + len(transcripts)))


@anywhere
@given(transcript_lists(), st.booleans(), st.integers(0, 3), st.sampled_from(["plain", "gzip", "bgzip"]))
def test_gtf_with_the_stop_codon_outside_or_inside_the_cds(tmp_path_factory, transcripts, stop_inside, seed, packed):
    content = gtf(transcripts, stop_inside, random.Random(seed) if seed else None)
    table = read_annotation(written(tmp_path_factory.mktemp("a"), content, packed))
    # three coding bases are all stop codon: no CDS row is left outside it, and the frame is that of the stop codon, 0
    assert_is(table, [t if t["coding"][1] != 3 or stop_inside else {**t, "frame": 0} for t in transcripts])


@pytest.mark.parametrize("strand", "+-")
@pytest.mark.parametrize("bases_before_the_intron", [1, 2])
def test_a_stop_codon_split_by_an_intron_is_in_the_cds(tmp_path, strand, bases_before_the_intron):
    exons = [(100, 120), (200, 220)]
    t = {
        "name": "T",
        "gene": "G",
        "chrom": "c",
        "strand": strand,
        "exons": exons,
        "coding": (20 + bases_before_the_intron - 12, 12),
        "frame": 0,
    }
    content = gtf([t])
    assert content.count("\tstop_codon\t") == 2
    table = read_annotation(written(tmp_path, content))
    assert_is(table, [t])
    inside = sum(max(0, min(end, table.cds_end[0]) - max(start, table.cds_start[0])) for start, end in exons)
    assert inside == 12


def test_what_else_the_rows_may_look_like(tmp_path):
    rows = [
        'c\tx\tgene\t1\t50\t.\t+\t.\tgene_id "G";',  # a gene row needs no transcript
        # NCBI's key, no quotes, no last semicolon
        'c\tx\texon\t1\t50\t.\t+\t.\tgene_id G; transcript_id T1; gene "Symbol"; orig_transcript_id "no"',
        'c\tx\texon\t1\t50\t.\t+\t.\t note "x; y"; transcript_id "T2";  gene_id "G2"; product "of the gene "; level 2',
        'd\tx\texon\t5\t9\t.\t-\t.\tgene_id "G"; transcript_id "T1";',  # the same id on another chromosome
        'c\tx\tCDS\t10\t50\t.\t+\t.\tgene_id "G"; transcript_id "T1";',  # no phase
    ]
    table = read_annotation(written(tmp_path, "\n".join(rows)))  # no line end at the end
    assert table[["transcript_id", "gene_id", "gene_name", "chrom", "line"]].values.tolist() == [
        ["T1", "G", "Symbol", "c", 2],
        ["T2", "G2", "", "c", 3],
        ["T1", "G", "", "d", 4],
    ]
    assert table.cds_start.tolist() == [9, -1, -1] and table.cds_frame.tolist() == [0, 0, 0]
    names = "#hg38.refGene.name\thg38.refGene.chrom\tstrand\ttxStart\ttxEnd\tcdsStart\tcdsEnd\texonCount\texonStarts\texonEnds\tproteinID"
    browser = f"browser position chr1\ntrack name=x\n{names}\n"
    table = read_annotation(written(tmp_path, browser + "T1\tchr1\t+\t1\t9\t9\t9\t1\t1,\t9,\tP\n"))
    assert (table.transcript_id[0], table.gene_id[0], table.cds_start[0]) == ("T1", "T1", -1)


# transcripts that are well written and cannot be used


def test_unusable_transcripts_are_kept_with_their_problem(tmp_path):
    def row(name, feature, start, end, strand="+"):
        return f'c\tx\t{feature}\t{start}\t{end}\t.\t{strand}\t{0 if feature == "CDS" else "."}\tgene_id "G"; transcript_id "{name}";\n'

    content = (
        row("no_exons", "CDS", 1, 9) + row("no_strand", "exon", 1, 9, ".") + row("both", "exon", 1, 9) + row("both", "exon", 20, 29, "-")
    )
    content += row("overlapping_exons", "exon", 1, 9) + row("overlapping_exons", "exon", 9, 20)
    content += row("cds_outside_exons", "exon", 1, 9) + row("cds_outside_exons", "CDS", 5, 12)
    content += (row("repeated_id", "transcript", 1, 9) + row("repeated_id", "exon", 1, 9)) * 2
    content += row("fine", "exon", 1, 9) + row("fine", "exon", 10, 20) + row("fine", "CDS", 5, 12)
    table = read_annotation(written(tmp_path, content)).set_index("transcript_id")
    assert table.loc["both", "problem"] == "no_strand" and table.loc["fine", "problem"] == ""
    assert all(table.loc[name, "problem"] == name for name in PROBLEMS)


# real files against oracles


@pytest.mark.parametrize("name, rows", [("hg38.regions.refseq.genePred.tsv.gz", 1176), ("mm10.regions.gencodeVM18.genePred.tsv.gz", 902)])
def test_real_genepred(shared_data, name, rows):
    path = shared_data / "annotation" / name
    table, raw = read_annotation(path), pd.read_csv(path, sep="\t")
    assert len(table) == len(raw) == rows and (table.problem == "").all()
    for ours, theirs in zip(table.itertuples(), raw.itertuples()):
        assert [ours.transcript_id, ours.gene_id, ours.chrom, ours.strand] == [theirs.name, theirs.name2, theirs.chrom, theirs.strand]
        assert (
            "".join(f"{start}," for start in ours.exon_starts) == theirs.exonStarts
            and "".join(f"{end}," for end in ours.exon_ends) == theirs.exonEnds
        )
        assert (ours.cds_start, ours.cds_end) == ((theirs.cdsStart, theirs.cdsEnd) if theirs.cdsStart < theirs.cdsEnd else (-1, -1))


@pytest.mark.parametrize(
    "name, rows, coding", [("GRCm39.gencode.vM31.chr19.filtered.gtf.gz", 2428, 1568), ("sacCer3.ensGene.gtf.gz", 7127, 6600)]
)
def test_real_gtf(shared_data, name, rows, coding):
    path = shared_data / "annotation" / name
    table = read_annotation(path).set_index("transcript_id")
    raw = pd.read_csv(
        path,
        sep="\t",
        comment="#",
        header=None,
        names=["chrom", "source", "feature", "start", "end", "score", "strand", "phase", "attributes"],
    )
    for key in ("transcript_id", "gene_id", "gene_name"):
        raw[key] = raw.attributes.str.extract(f'{key} "([^"]*)"', expand=False)
    assert len(table) == rows and (table.cds_start >= 0).sum() == coding and (table.problem == "").all()
    features: dict[str, list] = {}
    for row in raw[raw.transcript_id.notna()].itertuples():
        features.setdefault(row.transcript_id, []).append(row)
    for ours in table.itertuples():
        rows = features.pop(ours.Index)
        exons = sorted((row.start - 1, row.end) for row in rows if row.feature == "exon")
        assert list(zip(ours.exon_starts, ours.exon_ends)) == exons
        assert {(row.gene_id, row.gene_name, row.strand) for row in rows} == {(ours.gene_id, ours.gene_name, ours.strand)}
        span = [row for row in rows if row.feature in ("CDS", "stop_codon")]
        assert (ours.cds_start, ours.cds_end) == ((min(row.start for row in span) - 1, max(row.end for row in span)) if span else (-1, -1))
        cds = sorted((row.start, row.end, row.phase) for row in rows if row.feature == "CDS")
        if cds:
            assert ours.cds_frame == {"0": 0, "1": 2, "2": 1}[cds[0 if ours.strand == "+" else -1][2]]
    assert not features


# files that are refused, with line and remedy

ROW = "T1\tchr1\t+\t10\t60\t15\t55\t2\t10,30,\t20,60,\t0\tG1\tcmpl\tcmpl\t0,2,"
HEADER = "#" + "\t".join(GENEPRED_LAYOUTS["extended"])
EXON = 'chr1\tx\texon\t11\t20\t.\t+\t.\tgene_id "G1"; transcript_id "T1";'
CDS = EXON.replace("exon", "CDS")
REFUSED = {
    "nothing": ("", "holds no transcript"),
    "comments only": ("#a\n\n##b\n", "holds no transcript"),
    "short genePred row": (ROW + "\n" + ROW[:40], r":2: 12 columns, where this genePred file has 15.*cut off"),
    "row cut inside a number of exonEnds": (
        ROW.split("\t0\tG1")[0] + "\n" + ROW.split("0,\t0\tG1")[0],
        r":2: the exons of T1 reach from 10 to 6, but|:2: an exon of T1",
    ),
    "row cut inside exonFrames": (HEADER + "\n" + ROW + "\n" + ROW[:-3], ":3: exonCount is 2, but exonFrames has 1 values"),
    "row cut before exonFrames": (ROW + "\n" + ROW[:-4], ":2: exonFrames is '', not a whole number"),
    "fewer exons than said": (ROW.replace("10,30,", "10,"), ":1: exonCount is 2, but exonStarts has 1"),
    "txEnd is not the last exon's end": (ROW.replace("\t60\t15", "\t61\t15"), ":1: the exons of T1 reach from 10 to 60"),
    "exon of no length": (ROW.replace("30,", "60,"), ":1: an exon of T1 ends before it begins"),
    "a word for a number": (ROW.replace("\t15\t", "\tx15\t"), ":1: cdsStart is 'x15', not a whole number"),
    "underscores and blanks in a number": (ROW.replace("\t15\t", "\t1_5\t"), ":1: cdsStart is '1_5', not a whole number"),
    "frame 3": (ROW.replace("0,2,", "3,2,"), ":1: exonFrames of T1 has 3"),
    "blanks for tabs": (ROW.replace("\t", "  "), ":1: not a row of a known.*separated by tabs"),
    "error page": ("<html><body>404 Not Found</body></html>", ":1: not a row of a known annotation format"),
    "BED12": ("chr1\t10\t60\tT1\t0\t+\t15\t55\t0\t2\t10,30,\t0,20,", ":1: this looks like BED12.*bedToGenePred"),
    "GFF3": ("##gff-version 3\nchr1\tx\texon\t11\t20\t.\t+\t.\tID=e1;Parent=T1;gene_id=G1", ":2: this looks like GFF3.*gffread"),
    "short GTF row": (EXON + "\n" + "\t".join(EXON.split("\t")[:5]), ":2: 5 columns, where a GTF row has 9"),
    "row cut inside a quoted value": (EXON + "\n" + EXON[:-3], ":2: a quotation mark is not closed"),
    "row cut before transcript_id": (EXON + "\n" + EXON.split(" transcript_id")[0], ":2: this exon row has no transcript_id"),
    "no gene_id": (EXON + "\n" + EXON.split("gene_id")[0] + 'transcript_id "T9";', ":2: this exon row has no gene_id"),
    "start of 0": (EXON + "\n" + EXON.replace("\t11\t", "\t0\t"), ":2: exon from 0 to 20: GTF counts from 1"),
    "end before start": (EXON + "\n" + EXON.replace("\t20\t", "\t7\t"), ":2: exon from 11 to 7"),
    "start is no number": (EXON + "\n" + EXON.replace("\t11\t", "\t1e1\t"), ":2: start is '1e1'"),
    "phase 3": (EXON + "\n" + CDS.replace("+\t.", "+\t3"), ":2: the phase of a CDS row is '3'"),
}


@pytest.mark.parametrize("content, message", REFUSED.values(), ids=REFUSED)
def test_refusals_name_file_line_and_remedy(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        read_annotation(path)
    assert str(error.value).startswith(str(path)) and str(error.value).endswith(".")


def test_a_missing_file_and_one_that_is_not_text(tmp_path):
    with pytest.raises(InputError, match="none.gtf does not exist"):
        read_annotation(tmp_path / "none.gtf")
    (tmp_path / "x").write_bytes(b"\x93NUMPY\x01\x00\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_annotation(tmp_path / "x")


@pytest.mark.parametrize("packed", ["gzip", "bgzip"])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.7, 0.999, -29, -9, -1])
def test_a_compressed_file_that_was_cut_off(tmp_path, shared_data, packed, keep):
    with gzip.open(shared_data / "annotation" / "mm10.regions.gencodeVM18.genePred.tsv.gz", "rt") as text:
        path = written(tmp_path, text.read(), packed)
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep < 0 else data[: int(keep * len(data))])
    with pytest.raises(InputError, match=rf"annotation\.{packed}.*(breaks off|cut off).*[Gg]et it again"):
        read_annotation(path)


def test_a_damaged_compressed_file(tmp_path):
    path = written(tmp_path, (ROW + "\n") * 2000, "gzip")
    data = bytearray(path.read_bytes())
    data[-20] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"annotation.gzip:\d+: "):
        read_annotation(path)


@anywhere
@given(transcript_lists(), st.sampled_from(list(GENEPRED_LAYOUTS)), st.data())
def test_a_genepred_cut_anywhere_gives_an_error_or_whole_transcripts(tmp_path_factory, transcripts, layout, data):
    folder = tmp_path_factory.mktemp("a")
    content = genepred(transcripts, layout)
    whole = read_annotation(written(folder, content))
    cut = content[: data.draw(st.integers(content.index("\n"), len(content)))]  # the first row says what the layout is
    try:
        table = read_annotation(written(folder, cut))
    except InputError as error:
        assert "annotation.plain" in str(error)
        return
    pd.testing.assert_frame_equal(table, whole[: len(table)])
    assert len(table) >= cut.count("\n")
