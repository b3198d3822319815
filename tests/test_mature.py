"""Mature transcripts: tables and FASTA against an oracle that goes base by base, headers that people have, and files that are refused."""

import gzip
import random

import numpy as np
import pandas as pd
import pytest
from Bio import bgzf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError, IsoclrError
from isoclr.data.genome import decode_bases
from isoclr.data.mature import FIELDS, read_mature
from isoclr.data.tracks import translate

TABLE = ["transcript_id", "gene_id", "gene_name", "biotype", "species", "group", "sequence", "cds_start", "cds_end", "splice_sites"]
PLACED = ["chrom", "strand", "exon_starts", "exon_ends"]


# transcripts as dicts; `genomic`: exons [(start, end)] on the chromosome or None; `cut`: lengths of the exons in reading direction


@st.composite
def transcript_lists(draw):
    transcripts = []
    for number in range(draw(st.integers(1, 4))):
        cut = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
        length = sum(cut)
        sequence = draw(st.text("ACGTUNacgtunRy", min_size=length, max_size=length))
        cds = sorted(draw(st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True))) if draw(st.booleans()) else None
        genomic, strand = None, draw(st.sampled_from("+-"))
        if draw(st.booleans()):
            at, genomic = draw(st.integers(0, 50)), []
            for size in cut if strand == "+" else cut[::-1]:
                genomic.append((at, at + size))
                at += size + draw(st.integers(0, 20))
        transcripts.append(
            {
                "transcript_id": f"T{number}.1",
                "gene_id": draw(st.sampled_from(["G1", "G2"])),
                "gene_name": draw(st.sampled_from(["", "ABC1"])),
                "biotype": draw(st.sampled_from(["", "protein_coding"])),
                "species": draw(st.sampled_from(["", "cow"])),
                "group": draw(st.sampled_from(["", "F7"])),
                "sequence": sequence,
                "cds": cds,
                "cut": cut,
                "genomic": genomic,
                "strand": strand,
                "last_site": draw(st.booleans()),
            }
        )
    return transcripts


def fields_of(transcript) -> dict[str, str]:
    "What a file says of a transcript, as text."
    ends = np.cumsum(transcript["cut"]).tolist()
    sites = ends if transcript["last_site"] or len(ends) == 1 else ends[:-1]
    fields = {name: transcript[name] for name in TABLE[:7]}
    fields |= {name: "" if transcript["cds"] is None else str(transcript["cds"][i]) for i, name in enumerate(["cds_start", "cds_end"])}
    fields["splice_sites"] = ",".join(str(end - 1) for end in sites)
    if transcript["genomic"]:
        starts, ends = zip(*transcript["genomic"])
        fields |= {"chrom": "chr2", "strand": transcript["strand"]}
        fields |= {"exon_starts": ",".join(map(str, starts)), "exon_ends": "".join(f"{end}," for end in ends)}
    return fields


def table(rows: list[dict[str, str]], names: list[str] = TABLE + PLACED) -> str:
    return "".join("\t".join(line) + "\n" for line in [names, *([row.get(name, "") for name in names] for row in rows)])


def fasta(rows: list[dict[str, str]], width: int = 7) -> str:
    text = ""
    for row in rows:
        said = " ".join(f"{name}={value}" for name, value in row.items() if value and name not in ("transcript_id", "sequence"))
        sequence = row["sequence"]
        lines = [sequence[at : at + width] for at in range(0, len(sequence), width)]
        text += f">{row['transcript_id']} {said}\n" + "".join(line + "\n" for line in lines)
    return text


def expected(transcript) -> dict:
    "The row of a transcript and its bases, one base at a time."
    exons = transcript["genomic"]
    if not exons:
        ends = np.cumsum(transcript["cut"]).tolist()
        exons = list(zip([0] + ends[:-1], ends))
    strand = transcript["strand"] if transcript["genomic"] else "+"
    positions = [position for start, end in exons for position in range(start, end)]
    positions = positions if strand == "+" else positions[::-1]
    coding = positions[slice(*transcript["cds"])] if transcript["cds"] else []
    letters = {"U": "T"} | {letter: letter for letter in "ACGT"}
    return {
        **{name: transcript[name] for name in ("transcript_id", "gene_id", "gene_name", "biotype", "species", "group")},
        "chrom": "chr2" if transcript["genomic"] else "",
        "strand": strand,
        "exons": exons,
        "cds": (min(coding), max(coding) + 1) if coding else (-1, -1),
        "bases": "".join(letters.get(letter, "N") for letter in transcript["sequence"].upper()),
    }


def as_read(annotation, bases, relations) -> list[dict]:
    "What was read, in the form of `expected`."
    read, at = [], 0
    for row, relation in zip(annotation.to_frame().to_dict("records"), relations.to_dict("records")):
        assert row["problem"] == "" and row["cds_incomplete"] == ""
        exons = list(zip(row["exon_starts"].tolist(), row["exon_ends"].tolist()))
        length = sum(end - start for start, end in exons)
        kept = {name: row[name] for name in ("transcript_id", "gene_id", "gene_name", "biotype", "chrom", "strand")}
        letters = decode_bases(bases[at : at + length])
        read.append({**kept, **relation, "exons": exons, "cds": (row["cds_start"], row["cds_end"]), "bases": letters})
        at += length
    assert at == len(bases) and bases.dtype == np.uint8 and list(relations) == ["species", "group"]
    return read


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transcripts=transcript_lists(), width=st.integers(1, 12), line_end=st.sampled_from(["\n", "\r\n"]))
def test_table_and_fasta_read_as_the_oracle_says(tmp_path, transcripts, width, line_end):
    rows = [fields_of(transcript) for transcript in transcripts]
    for text in (table(rows), fasta(rows, width)):
        (tmp_path / "any.txt").write_bytes(text.replace("\n", line_end).encode())
        assert as_read(*read_mature(tmp_path / "any.txt")) == [expected(transcript) for transcript in transcripts]


@pytest.fixture
def two(tmp_path):
    rows = [
        {"transcript_id": "T1", "gene_id": "G1", "species": "cow", "sequence": "GGATGAAATAACC", "cds_start": "2", "cds_end": "11"},
        {"transcript_id": "T1", "gene_id": "G1", "species": "rat", "sequence": "ATGTAA", "cds_start": "0", "cds_end": "6"},
    ]
    path = tmp_path / "two.tsv"
    path.write_text(table(rows, ["transcript_id", "gene_id", "species", "sequence", "cds_start", "cds_end"]))
    return path


def test_plain_gzip_and_bgzip_read_alike_whatever_the_name(tmp_path, two):
    text = two.read_bytes()
    (tmp_path / "gzip.dat").write_bytes(gzip.compress(text))
    with bgzf.open(str(tmp_path / "bgzip.dat"), "wb") as file:
        file.write(text)
    plain = as_read(*read_mature(two))
    assert as_read(*read_mature(tmp_path / "gzip.dat")) == as_read(*read_mature(tmp_path / "bgzip.dat")) == plain


def test_a_compressed_file_cut_off_is_refused(tmp_path, two):
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(two.read_bytes())[:-12])
    with pytest.raises(InputError, match="cut.tsv.gz:.*Get it again"):
        read_mature(tmp_path / "cut.tsv.gz")


def test_one_species_of_several(two, tmp_path):
    annotation, bases, relations = read_mature(two, species="rat")
    assert annotation.rows.line.tolist() == [3] and relations.species.tolist() == ["rat"] and decode_bases(bases) == "ATGTAA"
    with pytest.raises(InputError, match="no transcript of dog. It has: cow, rat"):
        read_mature(two, species="dog")
    (tmp_path / "mixed.fa").write_text(">T1 species=cow\nACGT\n>T2\nACGTA\n")  # T2 belongs to whichever is asked for
    assert read_mature(tmp_path / "mixed.fa", species="cow")[0].rows.transcript_id.tolist() == ["T1", "T2"]
    assert read_mature(tmp_path / "mixed.fa", species="dog")[0].rows.transcript_id.tolist() == ["T2"]


def test_renaming(tmp_path):
    (tmp_path / "theirs.tsv").write_text("#isoform\tlocus\tseq\tcontig\nA\tL1\tACGT\tchr1\nB\t\tAC\tchr1\n")
    columns = {"transcript_id": "isoform", "gene_id": "locus", "sequence": "seq", "group": "locus"}
    annotation, _, relations = read_mature(tmp_path / "theirs.tsv", columns=columns)
    assert annotation.rows.gene_id.tolist() == ["L1", "B"] and relations.group.tolist() == ["L1", ""]
    with pytest.raises(InputError, match=r"theirs.tsv:1: there is no gene_id. There are: isoform, locus, seq, contig\..*columns=\{\"gene_id\""):
        read_mature(tmp_path / "theirs.tsv", columns={"transcript_id": "isoform", "sequence": "seq"})
    with pytest.raises(InputError, match="theirs.tsv:1: there is no 'famly' for group"):
        read_mature(tmp_path / "theirs.tsv", columns=columns | {"group": "famly"})
    with pytest.raises(ConfigError, match="Did you mean 'gene_id'"):
        read_mature(tmp_path / "theirs.tsv", columns={"geneid": "locus"})
    (tmp_path / "theirs.fa").write_text(">A family=F1\nACGT\n>B\nAC\n")
    assert read_mature(tmp_path / "theirs.fa", columns={"group": "family"})[2].group.tolist() == ["F1", ""]
    with pytest.raises(InputError, match="no header has 'famly', which columns names for group. Did you mean 'family'"):
        read_mature(tmp_path / "theirs.fa", columns={"group": "famly"})


def test_columns_that_were_not_used_are_listed(tmp_path):
    (tmp_path / "typo.tsv").write_text("transcript_id\tgene_id\tsequence\tcds_strat\tgene\nA\tG\tACGT\t1\tABC\n")
    annotation, _, relations = read_mature(tmp_path / "typo.tsv")
    assert relations.attrs["unused"] == ["cds_strat"] and annotation.rows.gene_name.tolist() == ["ABC"]


ROW = {"transcript_id": "T1", "gene_id": "G1", "sequence": "ACGTACGTAC"}
CHAIN = {"chrom": "chr1", "strand": "-", "exon_starts": "10,40", "exon_ends": "16,44"}
MALFORMED = {
    "no sequence": ({"sequence": ""}, "transcript 'T1' has no sequence"),
    "no id": ({"transcript_id": ""}, "a transcript has no id"),
    "gap": ({"sequence": "ACG-TACGTA"}, r"transcript 'T1'.*'-' \(position 4\)"),
    "not ASCII": ({"sequence": "ACGTACGTAé"}, "is not a nucleotide letter"),
    "half a CDS": ({"cds_start": "1"}, "cds_end is ''"),
    "CDS beyond": ({"cds_start": "1", "cds_end": "11"}, "the CDS 1 to 11 does not lie in a sequence of 10 nt"),
    "CDS empty": ({"cds_start": "4", "cds_end": "4"}, "does not lie"),
    "CDS before": ({"cds_start": "-2", "cds_end": "4"}, "does not lie"),
    "CDS with a fraction": ({"cds_start": "1.0", "cds_end": "4.0"}, "cds_start is '1.0'"),
    "sites beyond": ({"splice_sites": "3,10"}, "splice_sites do not ascend within a sequence of 10 nt"),
    "sites repeated": ({"splice_sites": "3,3"}, "splice_sites do not ascend"),
    "sites descend": ({"splice_sites": "5,3,9"}, "splice_sites do not ascend"),
    "sites no numbers": ({"splice_sites": "[3, 9]"}, "not whole numbers separated by commas"),
    "sites negative": ({"splice_sites": "-1,4"}, "not whole numbers separated by commas"),
    "exons without strand": (CHAIN | {"strand": ""}, "no strand"),
    "exons without ends": (CHAIN | {"exon_ends": ""}, "no exon_ends"),
    "ends without exons": (CHAIN | {"exon_starts": ""}, "no exon_starts"),
    "exons without chromosome": (CHAIN | {"chrom": ""}, "no chrom"),
    "exons descend": (CHAIN | {"exon_starts": "40,10", "exon_ends": "44,16"}, "exons that ascend"),
    "exons overlap": (CHAIN | {"exon_starts": "10,15", "exon_ends": "16,19"}, "exons that ascend"),
    "an exon too few": (CHAIN | {"exon_ends": "16"}, "exons that ascend"),
    "exons too long": (CHAIN | {"exon_ends": "16,45"}, "the exons have 11 nt, the sequence 10"),
    "sites disagree": (CHAIN | {"splice_sites": "5"}, "splice_sites and the exons on the genome disagree"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("write", [table, fasta])
def test_malformed_rows_are_refused_with_their_line(tmp_path, name, write):
    change, message = MALFORMED[name]
    good = ROW | {"transcript_id": "T0"}
    (tmp_path / "bad").write_text(write([good, ROW | change]), encoding="utf-8")
    with pytest.raises(InputError, match=f"bad:3: .*{message}" if write is table else f"bad:4: .*{message}"):
        read_mature(tmp_path / "bad")


def test_a_chain_that_agrees_with_the_sites_is_read(tmp_path):
    (tmp_path / "good.tsv").write_text(table([ROW | CHAIN | {"splice_sites": "3,9", "cds_start": "1", "cds_end": "6"}]))
    row = read_mature(tmp_path / "good.tsv")[0].rows.iloc[0]
    assert (row.cds_start, row.cds_end) == (14, 43)  # read 43 42 41 40 | 15 14 13 …


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("transcript_id\tgene_id\tsequence\n", "has no transcript"),
        ("transcript_id\tgene_id\tsequence\nA\tG\n", ":2: 2 columns, where the header has 3"),
        ("transcript_id\tgene_id\tsequence\tgene_id\nA\tG\tA\tG\n", ":1: the header has 'gene_id' twice"),
        ("transcript_id,gene_id,sequence\nA,G,ACGT\n", ":1: there is no transcript_id, no gene_id, no sequence"),
        ("transcript_id\tgene_id\tsequence\nA\tG\tA\nB\tG\tA\nA\tH\tC\n", ":4: transcript 'A' stands in line 2 already"),
        (">A\nACGT\n>B\nACGT\n>A\nACGT\n", ":5: transcript 'A' stands in line 1 already"),
        (">A\nACGT\n>B\n>C\nACGT\n", ":3: transcript 'B' has no sequence"),
        (">A\nACGT\n>\nACGT\n", ":3: a transcript has no id"),
        (">A\nACGT\n> B\nACGT\n", ":3: a transcript has no id"),
        (">A CDS=1-3,7-9\nACGTACGTACGT\n", ":1: cds_start is '0,6'"),
        (">A CDS=0-3\nACGTACGTACGT\n", ":1: the CDS -1 to 3"),
        (">A CDS=3\nACGTACGTACGT\n", ":1: CDS is '3', not like"),
        (">A segs:1-3,4\nACGTACGTACGT\n", ":1: segs is '1-3,4', not like"),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, message):
    (tmp_path / "bad").write_text(text)
    with pytest.raises(InputError) as refused:
        read_mature(tmp_path / "bad")
    assert message in str(refused.value)


def test_a_file_that_is_not_there_and_one_that_is_no_text(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_mature(tmp_path / "nothing.tsv")
    (tmp_path / "bytes").write_bytes(b"transcript_id\tgene_id\tsequence\nA\tG\t\xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_mature(tmp_path / "bytes")


# FASTA headers as they are


def test_gencode_headers(tmp_path):
    sequence = "GGATGAAATAACC"
    (tmp_path / "pc.fa").write_text(
        f">ENST1.2|ENSG1.7|OTTHUMG1.4|-|OR4F5-201|OR4F5|13|UTR5:1-2|CDS:3-11|UTR3:12-13|\n{sequence}\n"
        f">ENST2.1|ENSG2.5|-|-|MIR1302-2HG-202|MIR1302-2HG|13|\n{sequence}\n"
        f">ENST3.1|ENSG3.1|-|-|DDX11L1-202|DDX11L1|13|processed_transcript|\n{sequence}\n"
        f">NM_1|rn6\n{sequence}\n"
    )
    rows = read_mature(tmp_path / "pc.fa")[0].rows
    assert rows.transcript_id.tolist() == ["ENST1.2", "ENST2.1", "ENST3.1", "NM_1|rn6"]
    assert rows.gene_id.tolist() == ["ENSG1.7", "ENSG2.5", "ENSG3.1", "NM_1|rn6"]
    assert rows.gene_name.tolist() == ["OR4F5", "MIR1302-2HG", "DDX11L1", ""]
    assert rows.biotype.tolist() == ["", "", "processed_transcript", ""]
    assert list(zip(rows.cds_start, rows.cds_end)) == [(2, 11), (-1, -1), (-1, -1), (-1, -1)]


def test_ensembl_headers(tmp_path):
    (tmp_path / "cdna.fa").write_text(
        ">ENST1.2 cdna chromosome:GRCh38:18:9126627:9134295:1 gene:ENSG1.13 gene_biotype:protein_coding transcript_biotype:processed_transcript "
        "gene_symbol:NDUFV2 description:NADH:ubiquinone oxidoreductase [Source:HGNC Symbol;Acc:HGNC:7717]\nACGTACGT\n"
    )
    row = read_mature(tmp_path / "cdna.fa", columns={"group": "gene_symbol:"})
    assert row[2].group.tolist() == ["NDUFV2"]
    row = row[0].rows.iloc[0]
    assert [row.transcript_id, row.gene_id, row.gene_name, row.biotype] == ["ENST1.2", "ENSG1.13", "NDUFV2", "processed_transcript"]
    assert (row.chrom, row.strand, row.cds_start) == ("", "+", -1)


def test_gffread_headers(tmp_path):
    sequence = "GGATGAAATAACCGGG"  # 10 nt of the right exon, then 6 of the left
    (tmp_path / "w.fa").write_text(
        f">T1 gene=ABC CDS=3-11\n{sequence}\n>T2 gene=ABC CDS=3-11 loc:chr1|101-130|- exons:101-106,121-130 segs:1-10,11-16\n{sequence}\n"
    )
    annotation, _, relations = read_mature(tmp_path / "w.fa")
    assert relations.attrs["unused"] == []
    plain, placed = annotation.to_frame().to_dict("records")
    assert (plain["gene_id"], plain["gene_name"], plain["cds_start"], plain["cds_end"]) == ("ABC", "ABC", 2, 11)
    assert (placed["chrom"], placed["strand"], placed["exon_starts"].tolist(), placed["exon_ends"].tolist()) == ("chr1", "-", [100, 120], [106, 130])
    positions = [*range(129, 119, -1), *range(105, 99, -1)][2:11]
    assert (placed["cds_start"], placed["cds_end"]) == (min(positions), max(positions) + 1)


# case


def test_case_coding(tmp_path):
    text = ">A\ngcacATGGC\nTTAAgtt\n>B\ngcac\n>C\nATGTAA\n>D\ngATGcTAAg\n>E cds_start=1 cds_end=4\ngATGc\n"
    (tmp_path / "saluki.fa").write_text(text)
    rows = read_mature(tmp_path / "saluki.fa", case_coding=True)[0].rows
    assert list(zip(rows.cds_start, rows.cds_end)) == [(4, 13), (-1, -1), (0, 6), (-1, -1), (1, 4)]
    assert rows.problem.tolist() == ["", "", "", "unclear_case", ""]
    assert (read_mature(tmp_path / "saluki.fa")[0].rows.problem == "").all()
    (tmp_path / "saluki.fa").write_text(text.replace("cds_end=4", "cds_end=5"))
    with pytest.raises(InputError, match=r":10: the CDS is \(1, 5\) by its coordinates, \(1, 4\) by case"):
        read_mature(tmp_path / "saluki.fa", case_coding=True)
    (tmp_path / "upper.fa").write_text(">A\nACGT\n>B\nAAA\n")
    with pytest.raises(InputError, match="no sequence has a lower-case letter"):
        read_mature(tmp_path / "upper.fa", case_coding=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences=st.lists(st.text("aCgT", min_size=1, max_size=12), min_size=1, max_size=4))
def test_case_coding_base_by_base(tmp_path, sequences):
    (tmp_path / "case.fa").write_text("".join(f">T{i}\n{sequence}\n" for i, sequence in enumerate([*sequences, "a"])))
    rows = read_mature(tmp_path / "case.fa", case_coding=True)[0].rows
    for sequence, row in zip(sequences, rows.itertuples()):
        upper = [i for i, letter in enumerate(sequence) if letter.isupper()]
        clear = upper == list(range(upper[0], upper[-1] + 1)) if upper else True
        assert row.problem == ("" if clear else "unclear_case")
        assert (row.cds_start, row.cds_end) == ((upper[0], upper[-1] + 1) if upper and clear else (-1, -1))


def test_coordinates_that_count_from_one_are_refused(tmp_path):
    rows = [ROW | {"transcript_id": f"T{i}", "sequence": "GGATGAAATAACC", "cds_start": "3", "cds_end": "11"} for i in range(12)]
    (tmp_path / "one.tsv").write_text(table(rows))
    with pytest.raises(InputError, match="seems to count from 1"):
        read_mature(tmp_path / "one.tsv")
    (tmp_path / "zero.tsv").write_text(table([row | {"cds_start": "2"} for row in rows]))
    assert len(read_mature(tmp_path / "zero.tsv")[0]) == 12


# a real file

COUNTS = "rhesus 355 dog 276 cow 294 rabbit 227 elephant 228 armadillo 143 rat 295 tenrec 222 opossum 75 chicken 78".split()
COUNTS = dict(zip(COUNTS[::2], map(int, COUNTS[1::2])))


def test_lifted_transcripts_of_ten_species(shared_data):
    path = shared_data / "orthologs" / "lifted_transcripts.tsv.gz"
    annotation, bases, relations = read_mature(path, columns={"group": "gene_id"})
    theirs = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert len(annotation) == 2193 and relations.species.value_counts().to_dict() == COUNTS
    assert (annotation.rows.problem == "").all() and relations.group.tolist() == theirs.gene_id.tolist() and theirs.gene_id.nunique() == 258
    assert decode_bases(bases) == "".join(theirs.sequence)
    rows, at = annotation.to_frame(), 0
    for row, their in zip(rows.itertuples(), theirs.itertuples()):
        lengths = row.exon_ends - row.exon_starts
        assert lengths.sum() == len(their.sequence)
        positions = [position for start, end in zip(row.exon_starts, row.exon_ends) for position in range(start, end)]
        positions = positions if row.strand == "+" else positions[::-1]
        assert {positions[their.cds_start], positions[their.cds_end - 1]} == {row.cds_start, row.cds_end - 1}
        inside = [i for i in (0, len(positions) - 1) if row.cds_start <= positions[i] < row.cds_end]
        assert len(inside) == (their.cds_start == 0) + (their.cds_end == len(positions))
        coding = decode_bases(bases[at : at + len(positions)])[their.cds_start : their.cds_end]
        protein = translate(coding)
        assert len(coding) % 3 == 0 and coding.startswith("ATG") and protein.endswith("*") and "*" not in protein[:-1]
        at += len(positions)
    cow, cow_bases, _ = read_mature(path, species="cow")
    assert len(cow) == COUNTS["cow"] and decode_bases(cow_bases) == "".join(theirs.sequence[theirs.species == "cow"])
    with pytest.raises(InputError, match="no transcript of zebrafish. It has: rat"):
        read_mature(path, species="zebrafish")


# anything else: only the package's own errors, and never a transcript that does not hold together

SEEDS = [
    table([ROW | CHAIN | {"splice_sites": "3,9", "cds_start": "1", "cds_end": "7", "species": "cow"}, ROW | {"transcript_id": "T2"}]),
    table([ROW | {"splice_sites": "3", "cds_start": "0", "cds_end": "9"}, ROW | {"transcript_id": "T2", "sequence": "acgu"}], TABLE),
    fasta([ROW | CHAIN | {"cds_start": "1", "cds_end": "7"}, ROW | {"transcript_id": "T2", "splice_sites": "3,9"}]),
    ">T1 gene=A CDS=3-11 loc:chr1|101-130|- exons:101-106,121-130 segs:1-10,11-16\nGGATGAAATAACCGGG\n>T2\nggATGTAAcc\n",
    ">ENST1.2|ENSG1.7|OTT1.4|-|OR-201|OR|13|UTR5:1-2|CDS:3-11|UTR3:12-13|\nggATGAAATAAcc\n",
]
PIECES = ["\t", "\n", "\r", ",", "-", "-1", ".", ">", "|", "=", ":", " ", "0", "9", "999999999999", "9999999999999", "١", "\x00", "é", "N", "a", "#", *FIELDS]


def mutated(rng: random.Random) -> bytes:
    text = rng.choice(SEEDS)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(text) + 1), rng.randint(0, 5)
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + rng.choice(PIECES) + text[at + length :]
        elif kind == 1:
            text = text[:at] + text[at + length :]
        elif kind == 2:
            other = rng.randrange(len(text) + 1)
            text = text[:at] + text[min(at, other) : max(at, other)] + text[at:]
        else:
            lines = text.splitlines(keepends=True)
            rng.shuffle(lines)
            text = "".join(lines)
    raw = bytearray(text.encode())
    if rng.random() < 0.1 and raw:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return gzip.compress(bytes(raw))[: -rng.randint(1, 20)] if rng.random() < 0.02 else bytes(raw)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_refused_or_hold_together(tmp_path, seed):
    rng, path, read = random.Random(seed), tmp_path / "fuzz", 0
    for _ in range(1000):
        path.write_bytes(mutated(rng))
        case_coding, species = rng.random() < 0.3, rng.choice(["", "", "cow"])
        try:
            annotation, bases, relations = read_mature(path, species, case_coding=case_coding)
        except IsoclrError:
            continue
        read += 1
        lengths = np.add.reduceat(annotation.exon_ends - annotation.exon_starts, annotation.exon_offsets[:-1])
        assert lengths.sum() == len(bases) and bases.max() <= 4 and len(annotation) == len(relations) == len(lengths) > 0
        kept = [line for line in path.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        for row, length in zip(annotation.to_frame().itertuples(), lengths):
            assert row.transcript_id and row.transcript_id in kept[row.line - 1]
            assert (row.exon_ends > row.exon_starts).all() and (row.exon_starts[1:] >= row.exon_ends[:-1]).all()
            if row.cds_start >= 0 and not row.problem:
                coding = np.minimum(row.exon_ends, row.cds_end) - np.maximum(row.exon_starts, row.cds_start)
                assert 0 < np.clip(coding, 0, None).sum() <= length
    assert 50 < read < 950  # neither all refused nor all read
