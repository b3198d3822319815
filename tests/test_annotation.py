"""Annotation: all formats against oracles that go base by base, against each other and on real files, and files that are refused."""

import gzip
import random

import numpy as np
import pandas as pd
import pytest
from Bio import bgzf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.data.annotation import read_annotation
from isoclr.data.genepred import GENEPRED_LAYOUTS
from isoclr.data.table import PROBLEMS, Annotation

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
    "exon_frames",
    "cds_incomplete",
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


def frames_of(transcript) -> list[int]:
    "The frame of each exon, in the order of the chromosome."
    coding, frames = coding_positions(transcript), []
    for start, end in transcript["exons"]:
        ranks = [rank for rank, position in enumerate(coding) if start <= position < end]
        frames.append((min(ranks) + transcript["frame"]) % 3 if ranks else -1)
    return frames


def genepred(transcripts, layout: str, header: bool = False) -> str:
    lines = ["#" + "\t".join(GENEPRED_LAYOUTS[layout])] if header else []
    for t in transcripts:
        coding, frames = coding_positions(t), frames_of(t)
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


def bed12(transcripts) -> str:
    lines = ["browser position chr1", 'track name="test"']
    for t in transcripts:
        coding, (start, end) = coding_positions(t), (t["exons"][0][0], t["exons"][-1][1])
        thick = (min(coding), max(coding) + 1) if coding else (end, end)
        sizes, starts = ("".join(f"{number}," for number in numbers) for numbers in zip(*((b - a, a - start) for a, b in t["exons"])))
        lines.append("\t".join(map(str, (t["chrom"], start, end, t["name"], 0, t["strand"], *thick, "0,0,0", len(t["exons"]), sizes, starts))))
    return "".join(line + "\n" for line in lines)


def gene_table(transcripts) -> str:
    return "".join(f"{t['name']}\t{t['gene']}\t{t['gene']}\n" for t in transcripts)


def gff3(transcripts, flavour: str = "ensembl", rng: random.Random | None = None) -> str:
    """GFF3 as "ensembl", "gencode" or "ncbi" would write it, stop codon inside the CDS, an exon shared by transcripts of a gene written once
    in Ensembl's; rows of the whole file shuffled by `rng`, parents behind children."""
    rows, shared = {}, {}
    for i, t in enumerate(transcripts):
        place, name, gene = (t["chrom"], t["strand"]), t["name"], t["gene"]
        coding = coding_positions(t)
        whose = {
            "ensembl": f"Parent=transcript:{name}",
            "gencode": f"Parent={name};gene_id={gene};transcript_id={name};gene_name={gene}",
            "ncbi": f"Parent=rna-{name};Dbxref=GeneID:{gene.strip('G')};gbkey=mRNA;gene={gene};note=a%3B b;transcript_id={name}",
        }[flavour]
        parent, itself = {
            "ensembl": (f"ID=gene:{gene};Name={gene};gene_id={gene}", f"ID=transcript:{name};Parent=gene:{gene};transcript_id={name}"),
            "gencode": (f"ID={gene};gene_id={gene};gene_name={gene}", f"ID={name};Parent={gene};gene_id={gene};transcript_id={name}"),
            "ncbi": (
                f"ID=gene-{gene};Dbxref=GeneID:{gene.strip('G')};Name={gene};gene={gene}",
                f"ID=rna-{name};Parent=gene-{gene};Dbxref=GeneID:{gene.strip('G')},Genbank:{name};gene={gene};transcript_id={name}",
            ),
        }[flavour]
        rows[place, "gene", gene] = ("gene", 0, 10**6, ".", parent)
        rows[place, "mRNA", i] = ("mRNA", t["exons"][0][0], t["exons"][-1][1], ".", itself)
        for start, end in t["exons"]:
            key = (place, "exon", gene, start, end) if flavour == "ensembl" else (place, "exon", i, start, end)
            shared[key] = f"{shared[key]},{whose.partition('Parent=')[2]}" if key in shared else whose
            rows[key] = ("exon", start, end, ".", "ID=exon:1;" * (flavour != "ensembl") + shared[key])
            here = [position for position in coding if start <= position < end]
            if here:
                rank = min(coding.index(position) for position in here) + t["frame"]
                rows[place, "CDS", i, start] = ("CDS", min(here), max(here) + 1, (3 - rank) % 3, f"ID=CDS:{name};{whose}")
    lines = [
        "\t".join(map(str, (chrom, "test", feature, start + 1, end, ".", strand, phase, attributes)))
        for ((chrom, strand), *_), (feature, start, end, phase, attributes) in rows.items()
    ]
    if rng:
        rng.shuffle(lines)
    return "\n".join(["##gff-version 3", *lines, "###", "##FASTA", ">chr1", "ACGT", ""])


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


def assert_is(annotation: Annotation, transcripts, columns=SAME):
    table = annotation.to_frame()
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
            "exon_frames": frames_of(t),
            "cds_incomplete": "",
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
        assert set(table.rows.gene_name) == {""}
        assert_is(table, transcripts, [name for name in SAME if name != "gene_name"])
    else:
        assert_is(table, transcripts if layout != "refFlat" else [{**t, "frame": 0} for t in transcripts])
    assert table.rows.line.tolist() == list(range(1 + header, 1 + header + len(transcripts)))


@anywhere
@given(transcript_lists(), st.booleans(), st.integers(0, 3), st.sampled_from(["plain", "gzip", "bgzip"]))
def test_gtf_with_the_stop_codon_outside_or_inside_the_cds(tmp_path_factory, transcripts, stop_inside, seed, packed):
    content = gtf(transcripts, stop_inside, random.Random(seed) if seed else None)
    table = read_annotation(written(tmp_path_factory.mktemp("a"), content, packed))
    # three coding bases are all stop codon: no CDS row is left outside it, and the frame is that of the stop codon, 0
    assert_is(table, [t if t["coding"][1] != 3 or stop_inside else {**t, "frame": 0} for t in transcripts])


@anywhere
@given(transcript_lists(), st.sampled_from(["ensembl", "gencode", "ncbi"]), st.integers(0, 3), st.sampled_from(["plain", "gzip", "bgzip"]))
def test_gff3_as_three_houses_write_it(tmp_path_factory, transcripts, flavour, seed, packed):
    content = gff3(transcripts, flavour, random.Random(seed) if seed else None)
    annotation = read_annotation(written(tmp_path_factory.mktemp("a"), content, packed))
    order = annotation.rows.transcript_id.str.removeprefix("T").astype(int).argsort().to_numpy()
    if flavour == "ncbi":  # its genes are numbers
        assert annotation.rows.gene_id.tolist() == [str(int(name.strip("T")) // 2) for name in annotation.rows.transcript_id]
        assert_is(annotation.take(order), transcripts, [name for name in SAME if name != "gene_id"])
    else:
        assert_is(annotation.take(order), transcripts)
    assert set(annotation.rows.biotype) == {"protein_coding"}  # the type of the rows is mRNA
    assert annotation.rows.line.is_monotonic_increasing


@anywhere
@given(transcript_lists())
def test_all_formats_say_the_same(tmp_path_factory, transcripts):
    folder = tmp_path_factory.mktemp("a")
    table = folder / "genes.tsv"
    table.write_text(gene_table(transcripts))
    formats = {
        "genePred": (genepred(transcripts, "extended"), None),
        "GTF": (gtf(transcripts, stop_inside=True), None),  # a CDS of nothing but a stop codon has no frame in it otherwise
        "GFF3": (gff3(transcripts), None),
        "BED12": (bed12(transcripts), table),
    }
    expected = None
    for name, (content, genes) in formats.items():
        got = read_annotation(written(folder, content), genes).to_frame().drop(columns=["line", "biotype"])
        if name == "BED12":  # frames go on from the first base of the CDS
            transcripts = [{**t, "frame": 0} for t in transcripts]
            expected = expected.assign(exon_frames=[np.array(frames_of(t), np.int8) for t in transcripts])
        if expected is not None:
            pd.testing.assert_frame_equal(got, expected, obj=name)
        expected = got


@pytest.mark.parametrize("strand", "+-")
@pytest.mark.parametrize("left, right", [("incmpl", "cmpl"), ("cmpl", "incmpl"), ("incmpl", "incmpl"), ("unk", "none")])
def test_an_incomplete_cds_in_all_formats_that_can_say_it(tmp_path, strand, left, right):
    t = {"name": "T", "gene": "G", "chrom": "c", "strand": strand, "exons": [(100, 120), (200, 220)], "coding": (3, 30), "frame": 0}
    five, three = (left, right) if strand == "+" else (right, left)
    expected = " ".join(["5'"] * (five == "incmpl") + ["3'"] * (three == "incmpl"))
    tags = [f"cds_{end}_NF" for end, said in (("start", five), ("end", three)) if said == "incmpl"] + ["mRNA_start_NF"]
    ranges = ";partial=true" + ";start_range=.,9" * (left == "incmpl") + ";end_range=9,." * (right == "incmpl")
    for content in (
        genepred([t], "extended").replace("cmpl\tcmpl", f"{left}\t{right}"),
        gtf([t]).replace(" note", "".join(f' tag "{tag}";' for tag in ["basic", *tags]) + " note"),
        gff3([t], "gencode").replace("ID=T;", f"ID=T;tag=basic,{','.join(tags)};"),
        gff3([t], "ncbi").replace("gbkey=mRNA", f"gbkey=mRNA{ranges}"),
    ):
        for coding, said in ((True, expected), (False, "")):
            lines = content.splitlines()
            if not coding:
                lines = [line for line in lines if "\tCDS\t" not in line and "\tstop_codon\t" not in line]
                lines = [line.replace("\t103\t213\t", "\t9\t9\t").replace("\t107\t217\t", "\t9\t9\t") for line in lines]
            rows = read_annotation(written(tmp_path, "\n".join(lines))).rows
            assert (rows.cds_start[0] >= 0) == coding and rows.cds_incomplete.tolist() == [said], content


# transcript, gene, name, biotype and chromosome as the houses write them; the ids are theirs, the coordinates are not
ENSEMBL_GTF = """#!genome-build GRCh38
X\thavana\tgene\t11\t50\t.\t+\t.\tgene_id "ENSG01"; gene_version "9"; gene_name "P2RY8"; gene_biotype "protein_coding";
X\thavana\ttranscript\t11\t50\t.\t+\t.\tgene_id "ENSG01"; transcript_id "ENST01"; gene_name "P2RY8"; gene_biotype "protein_coding"; transcript_biotype "retained_intron";
X\thavana\texon\t11\t50\t.\t+\t.\tgene_id "ENSG01"; transcript_id "ENST01"; exon_number "1"; gene_name "P2RY8"; transcript_biotype "retained_intron";
Y\thavana\ttranscript\t11\t50\t.\t+\t.\tgene_id "ENSG01"; transcript_id "ENST01"; gene_name "P2RY8"; gene_biotype "protein_coding";
Y\thavana\texon\t11\t50\t.\t+\t.\tgene_id "ENSG01"; transcript_id "ENST01"; exon_number "1"; gene_name "P2RY8";
"""
NCBI_GTF = """#gtf-version 2.2
NC_1\tBestRefSeq\tgene\t11\t50\t.\t+\t.\tgene_id "SHOX"; transcript_id ""; db_xref "GeneID:6473"; gene "SHOX"; gene_biotype "protein_coding";
NC_1\tBestRefSeq\ttranscript\t11\t50\t.\t+\t.\tgene_id "SHOX"; transcript_id "NM_01.4"; gene "SHOX"; product "a; b"; transcript_biotype "mRNA";
NC_1\tBestRefSeq\texon\t11\t50\t.\t+\t.\tgene_id "SHOX"; transcript_id "NM_01.4"; gene "SHOX"; transcript_biotype "mRNA";
NC_2\tBestRefSeq\ttranscript\t11\t50\t.\t+\t.\tgene_id "SHOX_1"; transcript_id "NM_01.4_1"; gene "SHOX"; transcript_biotype "lnc_RNA";
NC_2\tBestRefSeq\texon\t11\t50\t.\t+\t.\tgene_id "SHOX_1"; transcript_id "NM_01.4_1"; gene "SHOX"; transcript_biotype "lnc_RNA";
"""
UCSC_GTF = """chr1\thg38_refGene\texon\t11\t50\t0.000000\t+\t.\tgene_id "NM_2"; transcript_id "NM_2";
chr1\thg38_refGene\tCDS\t11\t20\t0.000000\t+\t0\tgene_id "NM_2"; transcript_id "NM_2";
"""
NCBI_GFF3 = """##sequence-region NC_1 1 900
NC_1\tRefSeq\tregion\t1\t900\t.\t+\t.\tID=NC_1:1..900;Dbxref=taxon:9606;Is_circular=true
NC_1\tRefSeq\tgene\t11\t50\t.\t+\t.\tID=gene-MIR1;Dbxref=GeneID:7,HGNC:HGNC:3;Name=MIR1;gbkey=Gene;gene=MIR1;gene_biotype=miRNA
NC_1\tRefSeq\tprimary_transcript\t11\t50\t.\t+\t.\tID=rna-NR_1.1;Parent=gene-MIR1;Dbxref=GeneID:7,Genbank:NR_1.1;gene=MIR1;transcript_id=NR_1.1
NC_1\tRefSeq\texon\t11\t50\t.\t+\t.\tID=exon-NR_1.1-1;Parent=rna-NR_1.1;transcript_id=NR_1.1
NC_1\tRefSeq\tmiRNA\t11\t30\t.\t+\t.\tID=rna-MIR1;Parent=rna-NR_1.1;Dbxref=miRBase:MI1,GeneID:7;gbkey=ncRNA;gene=MIR1
NC_1\tRefSeq\texon\t11\t30\t.\t+\t.\tID=exon-MIR1-1;Parent=rna-MIR1;gbkey=ncRNA
NC_1\tRefSeq\tpseudogene\t60\t90\t.\t-\t.\tID=gene-P1;Dbxref=GeneID:8;Name=P1;gbkey=Gene;gene=P1;gene_biotype=pseudogene
NC_1\tRefSeq\texon\t60\t90\t.\t-\t.\tID=id-P1;Parent=gene-P1;gbkey=exon
NC_1\tRefSeq\ttranscript\t60\t90\t.\t-\t.\tID=rna-NR_3.1;Parent=gene-P1;gbkey=misc_RNA;transcript_id=NR_3.1
NC_1\tRefSeq\texon\t60\t90\t.\t-\t.\tID=id-3;Parent=rna-NR_3.1
NC_1\tRefSeq\tcDNA_match\t60\t90\t.\t-\t.\tID=0;Target=x 1 2 +
"""
BACTERIA_GFF3 = """##gff-version 3
1\tRefSeq\tgene\t11\t50\t.\t+\t.\tID=gene-b0001;Dbxref=GeneID:9;Name=thrL;gbkey=Gene;gene=thrL;gene_biotype=protein_coding;locus_tag=b0001
1\tRefSeq\tCDS\t11\t50\t.\t+\t0\tID=cds-NP_1.1;Parent=gene-b0001;Name=NP_1.1;gbkey=CDS;gene=thrL;product=a%2Cb
1\tProkka\tCDS\t60\t90\t.\t-\t0\tID=PROKKA_1;locus_tag=PROKKA_1
1\tSGD\tgene\t100\t200\t.\t+\t.\tID=YAL3W;Name=YAL3W;gene=EFB1
1\tSGD\tmRNA\t90\t210\t.\t+\t.\tID=YAL3W_mRNA;Parent=YAL3W
1\tSGD\tfive_prime_UTR\t90\t99\t.\t+\t.\tParent=YAL3W_mRNA
1\tSGD\tCDS\t100\t120\t.\t+\t0\tID=c1;Parent=YAL3W_mRNA
1\tSGD\tCDS\t120\t140\t.\t+\t0\tID=c1;Parent=YAL3W_mRNA
1\tSGD\tintron\t141\t150\t.\t+\t.\tParent=YAL3W_mRNA
1\tSGD\tCDS\t151\t200\t.\t+\t2\tID=c1;Parent=YAL3W_mRNA
"""
BACTERIA_GTF = """#gtf-version 2.2
1\tRefSeq\tgene\t1\t60\t.\t+\t.\tgene_id "Rv0001"; transcript_id ""; gbkey "Gene"; gene "dnaA"; gene_biotype "protein_coding";
1\tRefSeq\tCDS\t1\t57\t.\t+\t0\tgene_id "Rv0001"; transcript_id "unassigned_transcript_1"; db_xref "a"; db_xref "b"; gene "dnaA";
1\tRefSeq\tstop_codon\t58\t60\t.\t+\t0\tgene_id "Rv0001"; transcript_id "unassigned_transcript_1"; gene "dnaA";
1\tRefSeq\tCDS\t71\t97\t.\t-\t0\tgene_id "Rv0002"; transcript_id "unassigned_transcript_1"; gene "dnaN"; exon_number "1";
"""
HOUSES = {
    "Ensembl GTF": (ENSEMBL_GTF, [["ENST01", "ENSG01", "P2RY8", "retained_intron", "X"], ["ENST01", "ENSG01", "P2RY8", "protein_coding", "Y"]]),
    "NCBI GTF": (NCBI_GTF, [["NM_01.4", "SHOX", "SHOX", "protein_coding", "NC_1"], ["NM_01.4_1", "SHOX_1", "SHOX", "lncRNA", "NC_2"]]),
    "bacteria, GTF": (
        BACTERIA_GTF,
        [["unassigned_transcript_1", "Rv0001", "dnaA", "", "1"], ["unassigned_transcript_1", "Rv0002", "dnaN", "", "1"]],
    ),
    "UCSC GTF": (UCSC_GTF, [["NM_2", "NM_2", "", "", "chr1"]]),
    "NCBI GFF3": (
        NCBI_GFF3,
        [
            ["NR_1.1", "7", "MIR1", "primary_transcript", "NC_1"],
            ["MIR1", "7", "MIR1", "miRNA", "NC_1"],
            ["P1", "8", "P1", "pseudogene", "NC_1"],
            ["NR_3.1", "8", "P1", "misc_RNA", "NC_1"],
        ],
    ),
    "bacteria and yeast": (
        BACTERIA_GFF3,
        [
            ["b0001", "9", "thrL", "protein_coding", "1"],
            ["PROKKA_1", "PROKKA_1", "", "protein_coding", "1"],
            ["YAL3W_mRNA", "YAL3W", "EFB1", "protein_coding", "1"],
        ],
    ),
}


@pytest.mark.parametrize("content, expected", HOUSES.values(), ids=HOUSES)
def test_identifiers_and_biotypes_of_the_houses(tmp_path, content, expected):
    rows = read_annotation(written(tmp_path, content)).rows
    assert rows[["transcript_id", "gene_id", "gene_name", "biotype", "chrom"]].values.tolist() == expected
    assert (rows.problem == "").all()


def test_cds_rows_are_the_exons_where_a_file_has_no_others(tmp_path):
    table = read_annotation(written(tmp_path, BACTERIA_GFF3)).to_frame()
    assert [list(zip(row.exon_starts, row.exon_ends)) for row in table.itertuples()] == [[(10, 50)], [(59, 90)], [(89, 140), (150, 200)]]
    assert table.cds_start.tolist() == [10, 59, 99] and table.cds_end.tolist() == [50, 90, 200]
    assert [frames.tolist() for frames in table.exon_frames] == [[0], [0], [0, 1]]  # phase 2: after the slip of the ribosome
    table = read_annotation(written(tmp_path, BACTERIA_GTF)).to_frame()
    assert [list(zip(row.exon_starts, row.exon_ends)) for row in table.itertuples()] == [[(0, 60)], [(70, 97)]]
    assert table[["cds_start", "cds_end"]].values.tolist() == [[0, 60], [70, 97]]
    two = BACTERIA_GFF3 + "1\tRefSeq\tCDS\t31\t70\t.\t+\t0\tID=cds-NP_2.1;Parent=gene-b0001\n"
    assert read_annotation(written(tmp_path, two)).rows.problem.tolist() == ["overlapping_exons", "", ""]


def test_oddities_of_gff3_are_problems_and_no_errors(tmp_path):
    def row(feature, start, end, strand, attributes):
        return f"c\tx\t{feature}\t{start}\t{end}\t.\t{strand}\t{0 if feature == 'CDS' else '.'}\t{attributes}\n"

    content = "##gff-version 3\n" + row("mRNA", 1, 9, "+", "ID=trans;part=1") + row("mRNA", 1, 9, "-", "ID=trans;part=2")
    content += row("exon", 1, 9, "+", "Parent=trans") + row("exon", 20, 29, "-", "Parent=trans")
    content += row("mRNA", 1, 9, "+", "ID=twice") + row("mRNA", 40, 49, "+", "ID=twice") + row("exon", 1, 9, "+", "Parent=twice")
    content += row("mRNA", 1, 9, "+", "ID=itself;Parent=itself") + row("exon", 1, 9, "+", "Parent=itself")
    content += row("mRNA", 1, 9, "?", "ID=unstranded") + row("exon", 1, 9, "?", "Parent=unstranded")
    content += row("mRNA", 1, 9, "+", "ID=across") + row("exon", 1, 9, "+", "Parent=across") + row("exon", 20, 29, "+", "Parent=across")
    content += row("CDS", 4, 25, "+", "Parent=across")  # over an intron
    content += row("mRNA", 1, 9, "+", "ID=a%2Cb") + row("exon", 1, 9, "+", "Parent=a%2Cb")  # a comma that separates nothing
    content += row("lncRNA", 1, 9, "+", "ID=nothing")
    rows = read_annotation(written(tmp_path, content)).rows
    assert dict(zip(rows.transcript_id, rows.problem)) == {
        "trans": "no_strand",
        "twice": "repeated_id",
        "itself": "",
        "unstranded": "no_strand",
        "across": "cds_outside_exons",
        "a,b": "",
        "nothing": "no_exons",
    }


# genes from a table


@pytest.mark.parametrize(
    "table, genes, names",
    [
        ("G1\tT1.3\nG2\tT2.1\nG9\tT9\n", ["G1", "G2", "T3.1"], ["", "", ""]),
        ("tx\tgene\nT1\tG1\nT3\tG3\n", ["G1", "T2.1", "G3"], ["", "", ""]),
        ("Gene stable ID\tTranscript stable ID\tGene name\tGene type\nG1\tT1.9\tN1\tlncRNA\nG2\tT2\t\tx\n", ["G1", "G2", "T3.1"], ["N1", "", ""]),
        ("T1\tG1\tN1\nT2.1\tG2\tN2\nT2.2\tG7\tN7\n", ["G1", "G2", "T3.1"], ["N1", "N2", ""]),  # the very version goes first
    ],
)
def test_genes_from_a_table(tmp_path, table, genes, names):
    (tmp_path / "genes.tsv").write_text(table)
    content = "".join(f"chr1\t10\t20\tT{i}\t0\t+\t20\t20\t0\t1\t10\t0\n" for i in ("1.3", "2.1", "3.1"))
    rows = read_annotation(written(tmp_path, content), tmp_path / "genes.tsv").rows
    assert rows.gene_id.tolist() == genes and rows.gene_name.tolist() == names
    rows = read_annotation(written(tmp_path, content)).rows
    assert rows.gene_id.tolist() == rows.transcript_id.tolist() and set(rows.gene_name) == {""}


@pytest.mark.parametrize(
    "table, message",
    [
        ("G1\tX1\nG2\tX2\n", "knows none of the 1 transcripts"),
        ("T1\nT2\n", "has no two columns"),
        ("", "has no two columns"),
        ("G1\tT1\nG2\n", "genes.tsv:2: 1 columns, where this table has 2"),
        ("G1\tT1\nG2\tT1\n", "genes.tsv:[12]: the transcript 'T1' has several genes"),
    ],
)
def test_tables_of_genes_that_cannot_be_used(tmp_path, table, message):
    (tmp_path / "genes.tsv").write_text(table)
    with pytest.raises(InputError, match=message):
        read_annotation(written(tmp_path, BED), tmp_path / "genes.tsv")


def test_a_real_table_of_genes(shared_data):
    path = shared_data / "annotation" / "GRCm39.gencode.vM31.chr19.filtered.gtf.gz"
    theirs = read_annotation(path).rows
    ours = read_annotation(path, shared_data / "misc" / "ensembl_gene_transcript.mouse.gencodeVM25.tsv.gz").rows  # another release, no versions
    known = ours.gene_id != ours.transcript_id
    assert known.sum() == 1550 and (ours.gene_id == theirs.gene_id.str.partition(".")[0])[known].mean() > 0.99
    assert (ours.gene_name == theirs.gene_name)[known].all() and set(ours.gene_name[~known]) == {""}


@pytest.mark.parametrize("name, rows, coding", [("hg38_RefSeq.bed.gz", 67706, 51408), ("mm10_Gencode_VM18.bed.gz", 65341, 44890)])
def test_real_bed12(shared_data, name, rows, coding):
    path = shared_data / "annotation" / name
    annotation, raw = read_annotation(path), pd.read_csv(path, sep="\t", header=None, dtype=str)
    assert len(annotation) == rows and (annotation.rows.cds_start >= 0).sum() == coding and (annotation.rows.problem == "").all()
    assert annotation.rows.transcript_id.tolist() == annotation.rows.gene_id.tolist() == raw[3].tolist()
    assert annotation.rows.chrom.tolist() == raw[0].tolist() and annotation.rows.strand.tolist() == raw[5].tolist()
    for i in range(0, rows, 7):
        start, here = int(raw[1][i]), slice(*annotation.exon_offsets[i : i + 2])
        offsets, sizes = ([int(text) for text in raw[column][i].split(",") if text] for column in (11, 10))
        assert annotation.exon_starts[here].tolist() == [start + offset for offset in offsets]
        assert annotation.exon_ends[here].tolist() == [start + offset + size for offset, size in zip(offsets, sizes)]
        thick = (int(raw[6][i]), int(raw[7][i]))
        assert (annotation.rows.cds_start[i], annotation.rows.cds_end[i]) == (thick if thick[0] < thick[1] else (-1, -1))


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
    annotation = read_annotation(written(tmp_path, content))
    assert_is(annotation, [t])
    table = annotation.rows
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
    table = read_annotation(written(tmp_path, "\n".join(rows))).rows  # no line end at the end
    assert table[["transcript_id", "gene_id", "gene_name", "chrom", "line"]].values.tolist() == [
        ["T1", "G", "Symbol", "c", 2],
        ["T2", "G2", "", "c", 3],
        ["T1", "G", "", "d", 4],
    ]
    assert table.cds_start.tolist() == [9, -1, -1]
    names = "#hg38.refGene.name\thg38.refGene.chrom\tstrand\ttxStart\ttxEnd\tcdsStart\tcdsEnd\texonCount\texonStarts\texonEnds\tproteinID"
    browser = f"browser position chr1\ntrack name=x\n{names}\n"
    table = read_annotation(written(tmp_path, browser + "T1\tchr1\t+\t1\t9\t9\t9\t1\t1,\t9,\tP\n")).rows
    assert (table.transcript_id[0], table.gene_id[0], table.cds_start[0]) == ("T1", "T1", -1)


# transcripts that are well written and cannot be used


def test_unusable_transcripts_are_kept_with_their_problem(tmp_path):
    def row(name, feature, start, end, strand="+"):
        return f'c\tx\t{feature}\t{start}\t{end}\t.\t{strand}\t{0 if feature == "CDS" else "."}\tgene_id "G"; transcript_id "{name}";\n'

    content = (
        row("no_exons", "transcript", 1, 9) + row("no_strand", "exon", 1, 9, ".") + row("both", "exon", 1, 9) + row("both", "exon", 20, 29, "-")
    )
    content += row("overlapping_exons", "exon", 1, 9) + row("overlapping_exons", "exon", 9, 20)
    content += row("cds_outside_exons", "exon", 1, 9) + row("cds_outside_exons", "CDS", 5, 12)
    content += (row("repeated_id", "transcript", 1, 9) + row("repeated_id", "exon", 1, 9)) * 2
    content += row("fine", "exon", 1, 9) + row("fine", "exon", 10, 20) + row("fine", "CDS", 5, 12)
    table = read_annotation(written(tmp_path, content)).rows.set_index("transcript_id")
    assert table.loc["both", "problem"] == "no_strand" and table.loc["fine", "problem"] == ""
    assert all(table.loc[name, "problem"] == name for name in set(PROBLEMS) - {"unclear_case"})  # that one is of mature transcripts


# real files against oracles


@pytest.mark.parametrize("name, rows", [("hg38.regions.refseq.genePred.tsv.gz", 1176), ("mm10.regions.gencodeVM18.genePred.tsv.gz", 902)])
def test_real_genepred(shared_data, name, rows):
    path = shared_data / "annotation" / name
    table, raw = read_annotation(path).to_frame(), pd.read_csv(path, sep="\t")
    assert len(table) == len(raw) == rows and (table.problem == "").all()
    for ours, theirs in zip(table.itertuples(), raw.itertuples()):
        assert [ours.transcript_id, ours.gene_id, ours.chrom, ours.strand] == [theirs.name, theirs.name2, theirs.chrom, theirs.strand]
        assert (
            "".join(f"{start}," for start in ours.exon_starts) == theirs.exonStarts
            and "".join(f"{end}," for end in ours.exon_ends) == theirs.exonEnds
        )
        assert (ours.cds_start, ours.cds_end) == ((theirs.cdsStart, theirs.cdsEnd) if theirs.cdsStart < theirs.cdsEnd else (-1, -1))
        assert "".join(f"{frame}," for frame in ours.exon_frames) == theirs.exonFrames
        left, right = theirs.cdsStartStat == "incmpl", theirs.cdsEndStat == "incmpl"
        five, three = (left, right) if ours.strand == "+" else (right, left)
        assert ours.cds_incomplete == " ".join(["5'"] * five + ["3'"] * three)


@pytest.mark.parametrize(
    "name, rows, coding", [("GRCm39.gencode.vM31.chr19.filtered.gtf.gz", 2428, 1568), ("sacCer3.ensGene.gtf.gz", 7127, 6600)]
)
def test_real_gtf(shared_data, name, rows, coding):
    path = shared_data / "annotation" / name
    table = read_annotation(path).to_frame().set_index("transcript_id")
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
            frames = [frame for frame in ours.exon_frames if frame >= 0]
            for (start, end, phase), frame in zip(cds, frames):  # where the last exon holds only the stop codon, it has no CDS row
                if ours.strand == "+" or len(cds) == len(frames):
                    assert frame == {"0": 0, "1": 2, "2": 1}[phase]
    assert not features


# files that are refused, with line and remedy

ROW = "T1\tchr1\t+\t10\t60\t15\t55\t2\t10,30,\t20,60,\t0\tG1\tcmpl\tcmpl\t0,2,"
HEADER = "#" + "\t".join(GENEPRED_LAYOUTS["extended"])
EXON = 'chr1\tx\texon\t11\t20\t.\t+\t.\tgene_id "G1"; transcript_id "T1";'
CDS = EXON.replace("exon", "CDS")
BARE = ROW.split("\t0\tG1")[0]
BED = "chr1\t10\t60\tT1\t0\t+\t15\t55\t0\t2\t10,30,\t0,20,"
GFF3 = "##gff-version 3\nchr1\tx\tmRNA\t11\t20\t.\t+\t.\tID=T1\nchr1\tx\texon\t11\t20\t.\t+\t.\tID=e1;Parent=T1\n"
REFUSED = {
    "nothing": ("", "holds no transcript"),
    "comments only": ("#a\n\n##b\n", "holds no transcript"),
    "short genePred row": (ROW + "\n" + ROW[:40], r":2: 12 columns, where this file has 15.*cut off"),
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
    "mature transcripts": ("transcript_id\tgene_id\tsequence\nT1\tG1\tACGT", ":1: this file holds sequences of mature.*leave out the genome"),
    "FASTA": (">T1\nACGT\n", ":1: this file holds sequences of mature.*leave out the genome"),
    "a negative number": (ROW.replace("\t15\t", "\t-15\t"), ":1: cdsStart is '-15'"),
    "frame with two digits": (ROW.replace("0,2,", "01,2,"), ":1: exonFrames of T1 has 01"),
    "13 digits": (ROW.replace("\t15\t", f"\t{10**12}\t"), ":1: cdsStart is '1000000000000', not a whole number of at most 12"),
    "a completeness that is none": (ROW.replace("cmpl\tcmpl", "cmpl\tcmlp"), ":1: cdsEndStat is 'cmlp', not one of"),
    "no name": (ROW[2:], ":1: the row names no transcript"),
    "the first of two errors": (ROW + "\n" + ROW.replace("\t15\t", "\tx\t") + "\n" + ROW[:40], ":2: cdsStart is 'x'"),
    "refFlat behind bare with bin": ("585\t" + BARE + "\nG1\t" + BARE, ":2: bin is 'G1', not a whole number"),
    "GTF behind genePred": (BARE + "\n" + EXON, ":2: 9 columns, where this file has 10"),
    "BED12 with a block too few": (BED + "\n" + BED.replace("10,30,", "10,"), ":2: blockCount is 2, but blockSizes has 1 values"),
    "BED12 whose blocks end early": (BED + "\n" + BED.replace("10,30,", "10,29,"), ":2: the exons of T1 reach from 10 to 59, but chromStart"),
    "BED12 whose blocks begin late": (BED.replace("\t0,20,", "\t1,20,"), ":1: the exons of T1 reach from 11"),
    "BED12 with an empty block": (BED.replace("10,30,", "0,30,"), ":1: an exon of T1 ends before it begins"),
    "genePred behind BED12": (BED + "\n" + BARE, ":2: 10 columns, where this file has 12"),
    "GFF3 behind GTF": (EXON + "\n" + GFF3.splitlines()[2], ":2: this exon row has no transcript_id.*GFF3 is another format"),
    "GTF behind GFF3": (GFF3 + EXON, ":4: the attribute 'gene_id .*is not key=value"),
    "GFF3 row cut inside Parent": (GFF3[:-2], ":3: the parent 'T' of this row is the ID of no row.*cut off or was filtered"),
    "GFF3 row cut before Parent": (GFF3.split(";Parent=T1")[0], ":3: this exon row has no Parent"),
    "GFF3 row cut inside a key": (GFF3[:-5], ":3: the attribute 'Paren' is not key=value"),
    "GFF3 with one ID for gene and transcript": (
        GFF3 + "chr1\tx\tgene\t11\t20\t.\t+\t.\tID=T1\n",
        ":4: the ID 'T1' is that of a mRNA on line 2 and of this gene",
    ),
    "GTF with a broken attribute": (EXON + "\n" + EXON.replace('"G1"; trans', '"G1"x trans'), ":2: no attribute .* begins at 'gene_id \"G1\"x"),
    "GFF3 row with too few columns": (GFF3 + "chr1\tx\texon\t11", ":4: 4 columns, where a GFF3 row has 9"),
    "GFF3 with a start of 0": (GFF3.replace("exon\t11", "exon\t0"), ":3: exon from 0 to 20"),
    "short GTF row": (EXON + "\n" + "\t".join(EXON.split("\t")[:5]), ":2: 5 columns, where a GTF row has 9"),
    "row cut inside a quoted value": (EXON + "\n" + EXON[:-3], ":2: a quotation mark is not closed"),
    "row cut before transcript_id": (EXON + "\n" + EXON.split(" transcript_id")[0], ":2: this exon row has no transcript_id"),
    "no gene_id": (EXON + "\n" + EXON.split("gene_id")[0] + 'transcript_id "T9";', ":2: this exon row has no gene_id"),
    "start of 0": (EXON + "\n" + EXON.replace("\t11\t", "\t0\t"), ":2: exon from 0 to 20: GTF and GFF3 count from 1"),
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
    pd.testing.assert_frame_equal(table.to_frame(), whole.to_frame()[: len(table)])
    assert len(table) >= cut.count("\n")
