"""Selection: every option against a choice made row by row, chromosome names of real houses, truncation base by base, codons by translation."""

import gzip
import random
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.data.build import SpeciesSource, StoreConfig, build_store
from isoclr.data.genome import encode_bases
from isoclr.data.selection import DROP_REASONS, choose, chromosome_kinds, incomplete_cds, read_appris, truncate, unversioned
from isoclr.data.table import COLUMNS, PROBLEMS, Annotation, assemble
from isoclr.data.tracks import CODON, tokens_from_exons, translate
from test_annotation import coding_positions, frames_of, genepred, reading_order, transcript_lists
from test_build import CODING, one_species, sequences_for, transcript
from test_genome import write_fasta

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


# chromosomes

NAMES = {  # house → kind → names
    "UCSC hg38": {
        "primary": "chr1 chr9 chr10 chr22", "x": "chrX", "y": "chrY", "m": "chrM",
        "alternate": "chr1_KI270706v1_random chrUn_KI270302v1 chr6_GL000250v2_alt chr1_KN196472v1_fix chrX_KI270880v1_alt chrY_KZ208924v1_fix chr22_KI270731v1_random",
    },
    "UCSC hg19": {
        "primary": "chr1 chr22", "x": "chrX", "y": "chrY", "m": "chrM chrMT",
        "alternate": "chr6_apd_hap1 chr6_cox_hap2 chr4_ctg9_hap1 chr17_ctg5_hap1 chr1_gl000191_random chrUn_gl000211",
    },
    "analysis set": {"primary": "chr1", "x": "chrX", "y": "chrY", "m": "chrM", "alternate": "chrEBV chrUn_JTFH01000001v1_decoy chr11_KI270721v1_random"},
    "1000 Genomes": {"primary": "1 22", "x": "X", "y": "Y", "m": "MT", "alternate": "GL000207.1 hs37d5"},
    "Ensembl human": {
        "primary": "1 9 10 22", "x": "X", "y": "Y", "m": "MT",
        "alternate": "KI270728.1 GL000009.2 KI270442.1 CHR_HSCHR6_MHC_COX_CTG1 CHR_HSCHR15_4_CTG8 CHR_HG2023_PATCH CHR_HG1_PATCH CHR_HSCHRX_1_CTG3",
    },
    "Ensembl GRCh37": {"primary": "1 22", "x": "X", "y": "Y", "m": "MT", "alternate": "HSCHR6_MHC_COX HSCHR17_1 HG104_HG975_PATCH HG1007_PATCH GL000192.1"},
    "NCBI human": {
        "primary": "NC_000001.11 NC_000009.12 NC_000022.11", "x": "NC_000023.11 NC_000023.10", "y": "NC_000024.10", "m": "NC_012920.1",
        "alternate": "NT_187361.1 NT_113793.3 NW_009646201.1 NW_003315905.1",
    },
    "UCSC mouse": {
        "primary": "chr1 chr19", "x": "chrX", "y": "chrY", "m": "chrM",
        "alternate": "chr1_GL456210_random chr4_JH584295_random chrUn_GL456239 chrUn_JH584304 chrX_GL456233_random chrY_JH584300_random",
    },
    "Ensembl mouse": {
        "primary": "1 19", "x": "X", "y": "Y", "m": "MT",
        "alternate": "JH584304.1 GL456211.1 MU069434.1 CHR_MG132_PATCH CHR_MMCHR1_CHORI29_IDD5_1 CHR_WSB_EIJ_MMCHR11_CTG3",
    },
    "NCBI mouse": {"primary": "NC_000067.7 NC_000085.7", "x": "NC_000086.8", "y": "NC_000087.8", "m": "NC_005089.1", "alternate": "NT_166280.1 NW_023337853.1"},
    "UCSC yeast": {"primary": "chrI chrII chrIII chrIV chrV chrVI chrVII chrVIII chrIX chrX chrXI chrXII chrXIII chrXIV chrXV chrXVI", "m": "chrM"},
    "SGD yeast": {"primary": "chrI chrIX chrX chrXVI", "m": "chrmt"},
    "Ensembl yeast": {"primary": "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI", "m": "Mito"},
    "UCSC fly": {
        "primary": "chr2L chr2R chr3L chr3R chr4", "x": "chrX", "y": "chrY", "m": "chrM",
        "alternate": "chrUn_CP007071v1 chrX_CP007103v1_random chrY_CP007108v1_random chrUn_DS483562v1",
    },
    "FlyBase": {"primary": "2L 2R 3L 3R 4", "x": "X", "y": "Y", "m": "mitochondrion_genome"},
    "worm": {"primary": "I II III IV V", "x": "X", "m": "MtDNA"},
    "UCSC worm": {"primary": "chrI chrII chrIII chrIV chrV", "x": "chrX", "m": "chrM"},
    "UCSC zebrafish": {"primary": "chr1 chr25", "m": "chrM", "alternate": "chrUn_KN147632v2 chr4_KZ114857v1_alt chrUn_NA1"},
    "Ensembl zebrafish": {"primary": "1 25", "m": "MT", "alternate": "KN149696.2 KZ114951.1 CHR_ALT_CTG1_1_18"},
    "dog": {"primary": "chr1 chr38", "x": "chrX", "m": "chrM", "alternate": "chrUn_JH373233 chrUn_NW_020192544v1"},
    "Ensembl dog": {"primary": "1 38", "x": "X", "m": "MT", "alternate": "AAEX03020568.1 JH373233.1"},
    "cow": {"primary": "1 29", "x": "X", "y": "Y", "m": "MT", "alternate": "NKLS02000031.1"},
    "chicken": {"primary": "chr1 chr28 chr33 chrW chrZ", "m": "chrM", "alternate": "chr25_AADN03005424_random chrUn_KQ759365v1 chrZ_AADN03005443_random"},
    "Ensembl chicken": {"primary": "1 28 W Z", "m": "MT", "alternate": "KQ759365.1 AADN05001306.1"},
    "opossum": {"primary": "chr1 chr8", "x": "chrX", "m": "chrM", "alternate": "chrUn"},
    "scaffolds": {"primary": "1", "alternate": "scaffold_12 scaffold123 contig_7 Un Un_random"},
    "without a genome": {"primary": ""},
}


@pytest.mark.parametrize("house", NAMES)
def test_chromosome_names_of_the_houses(house):
    expected = {name: kind for kind, names in NAMES[house].items() for name in (names.split() or [""])}
    assert chromosome_kinds(expected) == expected
    assert chromosome_kinds(list(expected)[::-1]) == expected  # in any order


def test_x_is_the_tenth_only_beside_a_ninth():
    assert chromosome_kinds(["IX", "X"]) == {"IX": "primary", "X": "primary"}
    assert chromosome_kinds(["chr9", "chrX"]) == {"chr9": "primary", "chrX": "x"}
    assert chromosome_kinds(["chrIX", "chrY", "chrM"]) == {"chrIX": "primary", "chrY": "y", "chrM": "m"}
    assert chromosome_kinds([]) == {}


@pytest.mark.parametrize("name", ["hg38.regions.refseq.genePred.tsv.gz", "hg38_RefSeq.bed.gz", "mm10_Gencode_VM18.bed.gz", "sacCer3.ensGene.gtf.gz"])
def test_every_real_chromosome_name_is_what_ucsc_says(shared_data, name):
    with gzip.open(shared_data / "annotation" / name, "rt") as text:
        column = 2 if "genePred" in name else 0
        names = {line.split("\t")[column] for line in text if not line.startswith("#")}
    for chrom, kind in chromosome_kinds(names).items():
        special = {"chrX": "primary" if "sacCer" in name else "x", "chrY": "y", "chrM": "m"}
        assert kind == ("alternate" if "_" in chrom else special.get(chrom, "primary")), chrom


# the choice, row by row

IDS = ["ENST1", "ENST1.2", "ENST1.3", "ENST2.1", "ENST2.1_PAR_Y", "NM_7.4", "T.x"]
GENES = ["ENSG1", "ENSG1.5", "ENSG2.1", "ENSG2.1_PAR_Y", "7"]
SYMBOLS = ["", "TP53", "HLA-A", "RP11-1.7"]
CHROMS = {"chr1": "primary", "chrX": "x", "chrY": "y", "chrM": "m", "chr1_random": "alternate", "": "primary"}
LENGTHS = {"chr1": 60, "chrX": 200, "chrY": 50}


@st.composite
def annotations(draw) -> Annotation:
    n = draw(st.integers(1, 6))
    rows, owner, starts, ends = [], [], [], []
    for i in range(n):
        position = draw(st.integers(0, 20))
        for _ in range(draw(st.integers(1, 3))):
            owner.append(i)
            starts.append(position)
            ends.append(position + draw(st.integers(1, 25)))
            position = ends[-1] + draw(st.integers(1, 9))
        first, last = owner.index(i), len(owner) - 1
        coding = draw(st.booleans())
        rows.append({
            "transcript_id": draw(st.sampled_from(IDS)), "gene_id": draw(st.sampled_from(GENES)), "gene_name": draw(st.sampled_from(SYMBOLS)),
            "biotype": draw(st.sampled_from(["protein_coding", "lncRNA", ""])), "chrom": draw(st.sampled_from(list(CHROMS))),
            "strand": draw(st.sampled_from("+-")), "cds_start": starts[first] if coding else -1, "cds_end": ends[last] if coding else -1,
            "cds_incomplete": "", "line": i + 1, "problem": draw(st.sampled_from(["", "", "", "", *list(PROBLEMS)[-2:]])),
        })
    return assemble(pd.DataFrame(rows, columns=COLUMNS), *map(np.array, (owner, starts, ends)), np.full(len(owner), -1))


configs = st.builds(
    StoreConfig,
    coding_only=st.booleans(), biotypes=st.sampled_from([(), (), ("protein_coding",), ("lncRNA", "protein_coding")]), primary_chromosomes=st.booleans(),
    keep_x=st.booleans(), keep_y=st.booleans(), keep_m=st.booleans(), par_copies=st.booleans(), principal_only=st.booleans(),
    only=st.one_of(st.just(()), st.lists(st.sampled_from([*IDS, *GENES, *SYMBOLS[1:], "nobody", "ENST2"]), min_size=1, max_size=3, unique=True).map(tuple)),
    min_length_nt=st.sampled_from([0, 10, 30]), max_length_nt=st.sampled_from([30, 50, 10**9]), too_long=st.sampled_from(["drop", "truncate"]), partial_genome=st.just(True),
)


def bare(name: str) -> str:
    name = name.removesuffix("_PAR_Y")
    head, dot, version = name.rpartition(".")
    return head if dot and version.isdigit() else name


def fate_of(row, rows, exons, config, lengths, appris) -> str:
    "The reason to drop one row, or \"\": all the options one after the other."
    kind, size = CHROMS[row.chrom], sum(end - start for start, end in exons)
    names = [row.transcript_id, row.gene_id, row.gene_name]
    if row.problem:
        return row.problem
    in_scaffolds = all(CHROMS[other.chrom] == "alternate" for other in rows)
    if kind == "alternate" and config.primary_chromosomes and not in_scaffolds:
        return "alternate_contig"
    for special, keep, reason in (("x", config.keep_x, "chromosome_x"), ("y", config.keep_y, "chromosome_y"), ("m", config.keep_m, "mitochondrial")):
        if kind == special and not keep:
            return reason
    if lengths is not None and row.chrom not in lengths:
        return "missing_chromosome"
    if lengths is not None and exons[-1][1] > lengths[row.chrom]:
        return "beyond_the_end"
    if config.only and not set(config.only) & {*names, *map(bare, names)}:
        return "not_listed"
    if config.biotypes and row.biotype not in config.biotypes:
        return "other_biotype"
    if config.coding_only and row.cds_start < 0:
        return "non_coding"
    if config.coding_only and config.too_long == "truncate":
        reading = [position for start, end in exons for position in range(start, end)][:: 1 if row.strand == "+" else -1]
        if reading.index(row.cds_start if row.strand == "+" else row.cds_end - 1) >= config.max_length_nt:
            return "non_coding"
    on_x = {bare(other.transcript_id) for other in rows if CHROMS[other.chrom] == "x"}
    if not config.par_copies and kind == "y" and (row.transcript_id.endswith("_PAR_Y") or bare(row.transcript_id) in on_x):
        return "par_copy"
    if config.principal_only and not appris.get(bare(row.transcript_id), "").startswith("PRINCIPAL"):
        return "not_principal"
    if size < config.min_length_nt:
        return "too_short"
    if size > config.max_length_nt and config.too_long == "drop":
        return "too_long"
    return ""


@settings(anywhere, max_examples=400)
@given(annotations(), configs, st.booleans(), st.dictionaries(st.sampled_from(["ENST1", "ENST2", "NM_7"]), st.sampled_from(["PRINCIPAL:1", "ALTERNATIVE:2", "PRINCIPAL:4"])))
def test_choice_equals_the_choice_row_by_row(annotation, config, with_genome, appris):
    rows, lengths = list(annotation.rows.itertuples()), LENGTHS if with_genome else None
    assume(not config.biotypes or any(row.biotype for row in rows))
    bounds = annotation.exon_offsets.tolist()
    exons = [list(zip(annotation.exon_starts[a:b].tolist(), annotation.exon_ends[a:b].tolist())) for a, b in zip(bounds, bounds[1:])]
    sizes = np.array([sum(end - start for start, end in of_row) for of_row in exons])
    expected = [fate_of(row, rows, of_row, config, lengths, appris) for row, of_row in zip(rows, exons)]
    if with_genome:  # a FASTA that has no chromosome of what is left is another genome, partial or not
        left = [row for row, of_row in zip(rows, exons) if fate_of(row, rows, of_row, StoreConfig(
            coding_only=False, primary_chromosomes=config.primary_chromosomes, keep_x=config.keep_x, keep_y=config.keep_y, keep_m=config.keep_m,
            par_copies=True, max_length_nt=10**9, partial_genome=True), None, {}) == ""]
        if left and not any(row.chrom in LENGTHS for row in left):
            with pytest.raises(InputError, match="annotation:.*lies on .*, which genome lacks"):
                choose(annotation, config, lengths, appris)
            return
    before = annotation.rows.copy()
    fate, met = choose(annotation, config, lengths, appris)
    assert fate.reason.tolist() == expected and list(fate.columns) == ["reason", "detail"] and set(expected) <= {"", *DROP_REASONS}
    names = [name for row in rows for name in (row.transcript_id, row.gene_id, row.gene_name)]
    assert met == set(config.only) & ({*names, *map(bare, names)})
    pd.testing.assert_frame_equal(annotation.rows, before)  # nothing is written into what was given
    for row, of_row, (reason, detail) in zip(rows, sizes.tolist(), fate.itertuples(index=False)):
        if reason in ("too_short", "too_long"):
            assert detail == f"{of_row} nt"
        if reason in ("alternate_contig", "chromosome_x", "chromosome_y", "mitochondrial", "missing_chromosome", "beyond_the_end"):
            assert detail == row.chrom
        if reason == "other_biotype" or (reason == "non_coding" and row.cds_start < 0):
            assert detail == row.biotype
        if reason == "not_principal":
            assert detail == appris.get(bare(row.transcript_id), "not in the list")


@given(st.sampled_from([*IDS, *GENES]), st.sampled_from(["", ".1", ".12", "_PAR_Y"]))
def test_versions_are_taken_off(name, more):
    assert unversioned(pd.Series([name + more])).tolist() == [bare(name + more)]


def test_options_that_cannot_be_followed():
    annotation = assemble(pd.DataFrame([{**dict.fromkeys(COLUMNS, ""), "transcript_id": "T", "chrom": "chr1", "strand": "+", "cds_start": -1, "cds_end": -1, "line": 3}]),
                          np.array([0]), np.array([10]), np.array([70]), np.array([-1]))
    size = np.array([60])
    with pytest.raises(InputError, match="a.gtf names no biotypes.*GTF or GFF3"):
        choose(annotation, StoreConfig(biotypes=("b",)), files=("a.gtf", ""))
    with pytest.raises(ConfigError, match="principal_only = True needs an APPRIS list"):
        choose(annotation, StoreConfig(principal_only=True))
    with pytest.raises(InputError, match=r"a.gtf:3: transcript T has an exon that ends at 70, beyond the end of chr1 \(60 nt in g.fa\).*partial_genome=True"):
        choose(annotation, StoreConfig(), LENGTHS, files=("a.gtf", "g.fa"))
    with pytest.raises(InputError, match="a.gtf:3: transcript T lies on 'chr1', which g.fa lacks"):
        choose(annotation, StoreConfig(), {"chr2": 9}, files=("a.gtf", "g.fa"))
    for wrong in ({"too_long": "cut"}, {"frame": "none"}, {"max_length_nt": 0}, {"min_length_nt": -1}, {"min_length_nt": 9, "max_length_nt": 8}):
        with pytest.raises(ConfigError):
            StoreConfig(**wrong)
    with pytest.raises(ConfigError, match="Did you mean 'par_copies'"):
        StoreConfig.from_dict({"par_copy": True})


def test_a_problem_on_a_missing_chromosome_is_no_error(tmp_path):
    "Rows that are left out anyway do not have to lie in the FASTA, and partial_genome is not needed for them."
    fasta = write_fasta(tmp_path / "g.fa", {"chr1": "ACGTTGCA" * 20})
    rows = [CODING, transcript("alt", [(5, 40)], (0, 30), chrom="chr9_alt"), transcript("m", [(5, 400)], (0, 30), chrom="chrM")]
    store = build_store(tmp_path / "store", one_species(tmp_path, fasta, genepred(rows, "extended")), config=StoreConfig(keep_m=False), progress=False)
    assert store.report.counts["s"]["dropped"] == {"alternate_contig": 1, "mitochondrial": 1}
    assert store.report.not_found == ()


# copies on Y

GENCODE_PAR = "".join(
    f'{chrom}\tx\t{feature}\t11\t40\t.\t+\t{phase}\tgene_id "ENSG1.5{suffix}"; transcript_id "ENST1.2{suffix}"; gene_name "CD99"; transcript_type "protein_coding";\n'
    for chrom, suffix in (("chrX", ""), ("chrY", "_PAR_Y")) for feature, phase in (("exon", "."), ("CDS", "0"))
) + "".join(
    f'chrY\tx\t{feature}\t61\t90\t.\t+\t{phase}\tgene_id "ENSG9.1"; transcript_id "ENST9.1"; gene_name "SRY"; transcript_type "protein_coding";\n'
    for feature, phase in (("exon", "."), ("CDS", "0"))
)
REFSEQ_PAR = genepred([transcript("NM_1", [(10, 40)], (0, 30), chrom="chrX", gene="CD99"), transcript("NM_1", [(10, 40)], (0, 30), chrom="chrY", gene="CD99"),
                       transcript("NM_9", [(60, 90)], (0, 30), chrom="chrY", gene="SRY")], "extended with bin", header=True)
ENSEMBL_PAR = re.sub("_PAR_Y", "", GENCODE_PAR).replace("chr", "")
NCBI_PAR = "##gff-version 3\n" + "".join(
    f"{chrom}\tx\tgene\t{start}\t{end}\t.\t+\t.\tID=gene-{gene}{n};Dbxref=GeneID:{number};Name={gene};gene={gene}\n"
    f"{chrom}\tx\tmRNA\t{start}\t{end}\t.\t+\t.\tID=rna-{name}{n};Parent=gene-{gene}{n};Dbxref=GeneID:{number};gene={gene};transcript_id={name}\n"
    f"{chrom}\tx\texon\t{start}\t{end}\t.\t+\t.\tID=exon-{name}{n};Parent=rna-{name}{n};transcript_id={name}\n"
    f"{chrom}\tx\tCDS\t{start}\t{end}\t.\t+\t0\tID=cds-{name}{n};Parent=rna-{name}{n}\n"
    for chrom, name, n, gene, number, start, end in (
        ("NC_000023.11", "NM_1.5", "", "CD99", 4267, 11, 40), ("NC_000024.10", "NM_1.5", "-2", "CD99", 4267, 11, 40), ("NC_000024.10", "NM_9.1", "", "SRY", 6736, 61, 90))
)


@pytest.mark.parametrize("content, x, y", [
    (GENCODE_PAR, "chrX", "chrY"), (REFSEQ_PAR, "chrX", "chrY"), (ENSEMBL_PAR, "X", "Y"), (NCBI_PAR, "NC_000023.11", "NC_000024.10"),
], ids=["GENCODE", "RefSeq of UCSC", "Ensembl", "RefSeq of NCBI"])
def test_copies_of_the_pseudoautosomal_regions(tmp_path, content, x, y):
    sequence = "".join(random.Random(1).choices("ACGT", k=100))
    sources = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {x: sequence, y: sequence}), content)
    store = build_store(tmp_path / "store", sources, progress=False)
    assert store.transcripts.chrom.tolist() == [x, y] and store.report.counts["s"]["dropped"] == {"par_copy": 1}
    assert store.report.dropped.detail.tolist() == [bare(store.transcripts.transcript_id[0])]
    both = build_store(tmp_path / "both", sources, config=StoreConfig(par_copies=True), progress=False)
    assert both.transcripts.chrom.tolist() == [x, y, y] and both.sequence(0) == both.sequence(1)
    alone = build_store(tmp_path / "y", sources, config=StoreConfig(keep_x=False), progress=False)  # the copy goes though X is left out
    assert alone.transcripts.chrom.tolist() == [y] and alone.report.counts["s"]["dropped"] == {"chromosome_x": 1, "par_copy": 1}
    distinct = build_store(tmp_path / "distinct", sources, config=StoreConfig(par_copies=True, distinct_sequences=True), progress=False)
    assert distinct.transcripts.chrom.tolist() == [x, y] and distinct.report.counts["s"]["dropped"] == {"duplicate_sequence": 1}


# lists

def test_a_list_by_transcript_gene_and_name(tmp_path):
    rows = [transcript(name, [(10 * i, 10 * i + 9)], (0, 9), gene=gene) for i, (name, gene) in enumerate(
        [("ENST1.2", "ENSG1.7"), ("ENST2.2", "ENSG1.7"), ("ENST3.1", "ENSG3.1"), ("ENST4.1", "TP53"), ("ENST5.1", "ENSG5.1")])]
    sources = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": "ACGTTGCA" * 20}), genepred(rows, "extended"))

    def kept(*only):
        store = build_store(tmp_path / "store", sources, config=StoreConfig(only=only), overwrite=True, progress=False)
        assert store.report.counts["s"]["dropped"].get("not_listed", 0) == 5 - len(store)
        return store.transcripts.transcript_id.tolist(), store.report.not_found

    assert kept("ENST2") == (["ENST2.2"], ()) and kept("ENST2.2") == (["ENST2.2"], ())
    assert kept("ENSG1") == kept("ENSG1.7") == (["ENST1.2", "ENST2.2"], ())
    assert kept("TP53", "ENST5", "ENST77", "x") == (["ENST4.1", "ENST5.1"], ("ENST77", "x"))
    assert kept("ENST3", "ENSG3", "ENSG3.1") == (["ENST3.1"], ())
    with pytest.raises(InputError, match="no transcript is left"):
        kept("nobody")


def test_names_are_not_found_only_where_no_species_has_them(tmp_path):
    fasta, sources = write_fasta(tmp_path / "g.fa", {"chr1": "ACGTTGCA" * 20}), []
    for species in ("a", "b"):
        (source,) = one_species(tmp_path, fasta, genepred([transcript(f"{species}1", [(10, 40)], (0, 30), gene=f"G{species}")], "extended"), species)
        sources.append(source.replace(species=species))
    store = build_store(tmp_path / "store", sources, config=StoreConfig(only=("a1", "Gb", "Gc")), progress=False)
    assert len(store) == 2 and store.report.not_found == ("Gc",)


@pytest.mark.parametrize("species, rows", [("human.gencode34", 36169), ("mouse.vM23", 36871)])
def test_real_appris_lists(shared_data, species, rows):
    path = shared_data / "misc" / f"appris_data.principal.{species}.txt.gz"
    raw = pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    labels = read_appris(path)
    assert len(labels) == rows == len(raw) and [labels[name] for name in raw[2]] == raw[4].tolist()
    principal = raw[raw[4].str.startswith("PRINCIPAL")].groupby(1).size()
    assert len(principal) == raw[1].nunique()  # every gene has one


def test_principal_isoforms_of_real_mouse_transcripts(shared_data, tmp_path):
    source = SpeciesSource("mouse", str(shared_data / "genome" / "mm10.regions.fa.gz"), str(shared_data / "annotation" / "mm10.regions.gencodeVM18.genePred.tsv.gz"),
                           appris=str(shared_data / "misc" / "appris_data.principal.mouse.vM23.txt.gz"))
    store = build_store(tmp_path / "store", [source], config=StoreConfig(principal_only=True), progress=False)
    raw = pd.read_csv(source.appris, sep="\t", header=None, dtype=str, index_col=2)[4]
    names = store.transcripts.transcript_id.str.split(".").str[0]
    assert store.transcripts.appris.tolist() == raw[names].tolist() and store.transcripts.appris.str.startswith("PRINCIPAL").all()
    other = store.report.rows("not_principal")
    assert other.detail.tolist() == [raw.get(name.split(".")[0], "not in the list") for name in other.transcript_id] and len(other) > 100 < len(store)


def test_labels_are_kept_where_nothing_is_asked_of_them(tmp_path):
    (tmp_path / "appris").write_text("g\tG\tT1\t-\tALTERNATIVE:1\r\n\nh\tH\tT9.3\tCCDS1\tPRINCIPAL:M\tMANE\n")
    rows = [CODING, transcript("T2", [(10, 40)], (0, 30)), transcript("T9.1", [(10, 40)], (0, 30))]
    (source,) = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": "ACGTTGCA" * 20}), genepred(rows, "extended"))
    store = build_store(tmp_path / "store", [source.replace(appris=str(tmp_path / "appris"))], progress=False)
    assert store.transcripts.appris.tolist() == ["ALTERNATIVE:1", "", "PRINCIPAL:M"]


def test_appris_of_identifiers_that_hold_dots(tmp_path):
    "Transcripts of C. elegans are named by cosmid and number: the number is no version, and APPRIS has this species."
    (tmp_path / "appris").write_text("a\tWBGene1\t2L52.1a\t-\tPRINCIPAL:1\nb\tWBGene2\tY74C9A.3.1\t-\tALTERNATIVE:1\nb\tWBGene2\tY74C9A.3.2\t-\tPRINCIPAL:3\nc\tWBGene3\tY74C9A.2a.1\t-\tPRINCIPAL:2\n")
    rows = [transcript(name, [(10, 40)], (0, 30)) for name in ("2L52.1a", "Y74C9A.3.1", "Y74C9A.3.2", "Y74C9A.2a.1")]
    (source,) = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": "ACGTTGCA" * 20}), genepred(rows, "extended"))
    store = build_store(tmp_path / "store", [source.replace(appris=str(tmp_path / "appris"))], progress=False)
    assert store.transcripts.appris.tolist() == ["PRINCIPAL:1", "ALTERNATIVE:1", "PRINCIPAL:3", "PRINCIPAL:2"]


GOOD = "SCYL3\tENSG1\tENST1\tCCDS1\tPRINCIPAL:1\n"


@pytest.mark.parametrize("content, line", [
    (GOOD + "SCYL3\tENSG1\tENST2\tCCDS1\n", 2), (GOOD + "\n" + GOOD.replace("PRINCIPAL:1", "YES"), 3), (GOOD.replace("\t", " "), 1), (GOOD.replace("\t", ","), 1),
    ("gene\tid\ttranscript\tccds\tlabel\n" + GOOD, 1), (GOOD + GOOD[:-14], 2), (GOOD + GOOD.replace("ENST1", ""), 2), ("<html>\n", 1),
], ids=["four columns", "another label", "blanks", "commas", "header", "cut off", "no transcript", "error page"])
def test_rows_that_are_no_appris(tmp_path, content, line):
    (tmp_path / "appris").write_text(content)
    with pytest.raises(InputError, match=rf"appris:{line}: .*APPRIS.*PRINCIPAL:1"):
        read_appris(tmp_path / "appris")


def test_an_appris_list_that_is_missing_or_empty(tmp_path):
    with pytest.raises(InputError, match="none does not exist"):
        read_appris(tmp_path / "none")
    (tmp_path / "empty").write_text("")
    with pytest.raises(InputError, match="empty"):
        read_appris(tmp_path / "empty")


# truncation

def annotation_of(transcripts, folder) -> Annotation:
    from isoclr.data.annotation import read_annotation

    (folder / "a").write_text(genepred(transcripts, "extended"))
    return read_annotation(folder / "a")


@anywhere
@given(transcript_lists(), st.integers(1, 60))
def test_truncation_base_by_base(tmp_path_factory, transcripts, limit):
    annotation = annotation_of(transcripts, tmp_path_factory.mktemp("t"))
    before = annotation.to_frame()
    table = truncate(annotation, limit).to_frame()
    pd.testing.assert_frame_equal(annotation.to_frame(), before)
    for row, t in zip(table.itertuples(), transcripts):
        kept, coding, frames = set(reading_order(t)[:limit]), coding_positions(t), frames_of(t)
        exons = [(sorted(kept & set(range(start, end))), frame) for (start, end), frame in zip(t["exons"], frames)]
        exons = [(bases, frame) for bases, frame in exons if bases]
        left = [position for position in coding if position in kept]
        assert row.exon_starts.tolist() == [bases[0] for bases, _ in exons] and row.exon_ends.tolist() == [bases[-1] + 1 for bases, _ in exons]
        assert sum(row.exon_ends - row.exon_starts) == len(kept) and row.transcript_id == t["name"]
        assert (row.cds_start, row.cds_end) == ((min(left), max(left) + 1) if left else (-1, -1))
        assert row.exon_frames.tolist() == [frame if set(bases) & set(left) else -1 for bases, frame in exons]


@settings(anywhere, max_examples=60)
@given(transcript_lists(), st.integers(1, 60), st.sampled_from(["annotated", "published"]), st.integers(0, 99))
def test_a_truncated_transcript_is_the_beginning_of_the_whole_one(tmp_path_factory, transcripts, limit, frame, seed):
    folder, chromosomes = tmp_path_factory.mktemp("t"), sequences_for(transcripts, seed)
    sources = one_species(folder, write_fasta(folder / "g.fa", chromosomes), genepred(transcripts, "extended"))
    config = StoreConfig(coding_only=False, frame=frame, max_length_nt=10**9)
    whole = build_store(folder / "whole", sources, config=config, progress=False)
    cut = build_store(folder / "cut", sources, config=config.replace(max_length_nt=limit, too_long="truncate"), progress=False)
    cut.validate()
    assert cut.transcripts.transcript_id.tolist() == whole.transcripts.transcript_id.tolist()
    for i, (row, long) in enumerate(zip(cut.transcripts.itertuples(), whole.transcripts.itertuples())):
        assert cut.tokens(i).tolist() == whole.tokens(i)[:limit].tolist()
        inside = 0 <= long.cds_start < limit
        assert (row.length_nt, row.cds_start, row.cds_end) == (min(long.length_nt, limit), *((long.cds_start, min(long.cds_end, limit)) if inside else (-1, -1)))
    assert cut.report.counts["s"]["notes"]["truncated transcripts"] == (whole.transcripts.length_nt > limit).sum()
    assert cut.report.counts["s"]["dropped"] == {}


def test_of_coding_transcripts_alone_none_loses_its_cds_by_truncation(tmp_path):
    rows = [transcript("early", [(0, 90)], (3, 30)), transcript("late", [(0, 90)], (60, 30)), transcript("cut", [(0, 90)], (30, 60))]
    sources = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": "ACGTTGCA" * 20}), genepred(rows, "extended"))
    store = build_store(tmp_path / "store", sources, config=StoreConfig(max_length_nt=50, too_long="truncate"), progress=False)
    assert (store.transcripts.cds_start >= 0).all() and store.transcripts.transcript_id.tolist() == ["early", "cut"]
    assert store.report.counts["s"]["dropped"] == {"non_coding": 1}


def test_truncated_sequences_that_agree_are_duplicates(tmp_path):
    rows = [transcript("A", [(0, 90)], (3, 30)), transcript("B", [(0, 80)], (3, 30)), transcript("C", [(1, 90)], (2, 30))]
    sources = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": "".join(random.Random(2).choices("ACGT", k=100))}), genepred(rows, "extended"))
    config = StoreConfig(max_length_nt=50, too_long="truncate", distinct_sequences=True)
    assert build_store(tmp_path / "cut", sources, config=config, progress=False).transcripts.transcript_id.tolist() == ["A", "C"]
    assert len(build_store(tmp_path / "whole", sources, config=StoreConfig(distinct_sequences=True), progress=False)) == 3


# codons

codons = st.lists(st.sampled_from(["ATG", "TAA", "TAG", "TGA", "TGG", "CTG", "NNN", "A", "C", "TA"]), max_size=5).map("".join)


@anywhere
@given(st.lists(st.tuples(codons, codons, codons, st.integers(0, 2), st.sampled_from(["", "", "5'", "3'", "5' 3'"])), min_size=1, max_size=5), st.booleans())
def test_a_complete_cds_is_one_that_translates(transcripts, published):
    transcripts = [(five or "A", cds, three, 0 if published else frame, annotated) for five, cds, three, frame, annotated in transcripts]
    pieces, coordinates, expected = [], [], []
    for five, cds, three, frame, annotated in transcripts:
        sequence, start, end = five + cds + three, *((len(five), len(five) + len(cds)) if cds else (-1, -1))
        pieces.append(tokens_from_exons(encode_bases(sequence), [len(sequence)], start, end, frame if cds else 0))
        coordinates.append((start, end))
        skipped = (3 - frame) % 3
        reading = cds[skipped:]
        missing = [f"annotated as incomplete at {annotated}"] if annotated else []
        missing += ["no ATG"] if skipped or translate(cds)[:1] != "M" else []
        missing += ["no stop codon in frame"] if len(reading) % 3 or translate(reading)[-1:] != "*" else []
        expected.append(", ".join(missing) if cds else "")
    begins = np.cumsum([0, *map(len, pieces)])[:-1]
    found = incomplete_cds(np.concatenate(pieces), begins, *np.array(coordinates).T, np.array([annotated for *_, annotated in transcripts], object))
    assert found.tolist() == expected


def test_complete_coding_sequences_of_a_build(tmp_path):
    sequence = "CCATGAAACCCTAAGG" + "TTATGAAATAGTT" + "C" * 20
    rows = [transcript("complete", [(0, 16)], (2, 12)), transcript("no start", [(0, 16)], (5, 9)), transcript("no stop", [(0, 16)], (2, 9)),
            transcript("two exons", [(16, 22), (23, 29)], (2, 9)), transcript("reverse", [(0, 16)], (2, 12), "-"), transcript("none", [(0, 16)])]
    content = genepred(rows, "extended").splitlines(keepends=True)
    content.append(content[0].replace("complete", "said so").replace("cmpl\tcmpl", "cmpl\tincmpl"))
    sources = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": sequence}), "".join(content))
    store = build_store(tmp_path / "store", sources, config=StoreConfig(complete_cds=True, coding_only=False), progress=False)
    assert store.transcripts.transcript_id.tolist() == ["complete", "none"]
    details = store.report.rows("incomplete_cds").set_index("transcript_id").detail
    assert details["no start"] == "no ATG" and details["no stop"] == "no stop codon in frame" and details["said so"] == "annotated as incomplete at 3'"
    assert (store.tokens(0) & CODON).nonzero()[0].tolist() == [2, 5, 8, 11]


# a part of a genome

def test_a_part_of_a_genome_keeps_what_lies_in_it(tmp_path):
    rows = [CODING, transcript("over", [(40, 60), (90, 101)], (0, 30)), transcript("behind", [(200, 240)], (0, 30)),
            transcript("touching", [(40, 60), (80, 100)], (0, 30)), transcript("elsewhere", [(1, 40)], (0, 30), chrom="chr2")]
    sources = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": "ACGTA" * 20}), genepred(rows, "extended"))
    store = build_store(tmp_path / "store", sources, config=StoreConfig(partial_genome=True), progress=False)
    assert store.transcripts.transcript_id.tolist() == ["T1", "touching"]
    assert dict(zip(store.report.dropped.transcript_id, store.report.dropped.reason)) == {"over": "beyond_the_end", "behind": "beyond_the_end", "elsewhere": "missing_chromosome"}
