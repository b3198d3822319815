"""Homology: every layout from a few literal rows, groups against a walk from gene to gene, and the real tables."""

import gzip
import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError, IsoclrError
from isoclr.data.homology import (
    GIANT_GENES,
    ISOFORM,
    KEYS,
    MEMBER_COLUMNS,
    ORTHOLOG,
    PARALOG,
    RELATIONS,
    SELF,
    gene_groups,
    match_genes,
    read_homology,
    relation,
    relation_pairs,
)
from isoclr.data.identifiers import read_identifiers, records

TAXA = {"human": 9606, "mouse": 10090}
MGI = "Common Organism Name,NCBI Taxon ID,Symbol,EntrezGene ID,Mouse MGI ID,HGNC ID,OMIM Gene ID,Genetic Location".split(",")
COMPARA = (
    "gene_stable_id protein_stable_id species identity homology_type homology_gene_stable_id homology_protein_stable_id homology_species "
    "homology_identity dn ds goc_score wga_coverage is_high_confidence homology_id"
).split()
H1, H2, M1, M2 = "ENSG00000117054", "ENSG00000115361", "ENSMUSG00000062908", "ENSMUSG00000026003"


def text(*rows, sep="\t"):
    return "\n".join(sep.join(map(str, row)) for row in rows) + "\n"


def compara(a, species_a, kind, b, species_b, confidence="1"):
    return [a, "P1", species_a, "34.3", kind, b, "P2", species_b, "17.7", "NULL", "NULL", "100", "99.9", confidence, "7"]


HOMOLOGENE = [(3, 9606, 34, "ACADM"), (3, 10090, 11364, "Acadm"), (5, 9606, 37, "ACADVL"), (5, 7227, 36, "Arc42"), (7, 4932, 9, "ACA1")]
MGI_ROWS = [
    ("3", "mouse, laboratory", "10090", "Acadm", "11364", "MGI:87867", "", "", "Chr3 78.8 cM"),
    ("3", "human", "9606", "ACADM", "34", "", "HGNC:89", "OMIM:607008", "Chr1 p31.1"),
    ("3", "rat", "10116", "Acadm", "24158", "", "", "", ""),
]
BIOMART = [
    ("Gene stable ID", "Gene name", "Mouse gene stable ID", "Mouse gene name", "Mouse homology type", "Mouse orthology confidence [0 low, 1 high]",
     "Rat gene stable ID", "Rat homology type", "Human paralogue gene stable ID", "Human paralogue associated gene name", "Human paralogue homology type"),
    (H1, "ACADM", M1, "Acadm", "ortholog_one2one", "1", "ENSRNOG00000009845", "ortholog_one2one", H2, "ACADL", "other_paralog"),
    (H2, "ACADL", M2, "Acadl", "ortholog_one2many", "0", "", "", H1, "ACADM", "other_paralog"),
    ("ENSG00000000005", "TNMD", "", "", "", "", "", "", "", "", ""),
]  # fmt: skip
FILES = {
    "homologene": text(*[(*row, 4557231, "NP_000007.1") for row in HOMOLOGENE]),
    "homologene with header": text(("hid", "tax_id", "gene_id", "symbol"), *HOMOLOGENE),
    "mgi": text(["DB Class Key", *MGI], *MGI_ROWS),
    "mgi until 2021": text(["HomoloGene ID", *MGI], *MGI_ROWS),
    "compara": text(
        COMPARA,
        compara(H1 + ".3", "homo_sapiens", "ortholog_one2one", M1, "mus_musculus"),
        compara(M1, "mus_musculus", "ortholog_one2one", H1, "homo_sapiens"),
        compara(H1, "homo_sapiens", "other_paralog", H2, "homo_sapiens", "NULL"),
        compara(H2, "homo_sapiens", "ortholog_one2many", M2, "mus_musculus", "0"),
        compara(H1, "homo_sapiens", "ortholog_one2one", "ENSRNOG00000009845", "rattus_norvegicus"),
    ),
    "biomart": text(*BIOMART),
    "biomart csv": text(*BIOMART, sep=","),
    "biomaRt in R": text(
        ("ensembl_gene_id", "external_gene_name", "mmusculus_homolog_ensembl_gene", "mmusculus_homolog_associated_gene_name",
         "mmusculus_homolog_orthology_type", "hsapiens_paralog_ensembl_gene"),
        *[(row[0], row[1], row[2], row[3], row[4], row[8]) for row in BIOMART[1:]],
    ),
    "biomart until 2016": text(("Ensembl Gene ID", "Mouse Ensembl Gene ID", "Mouse homology type"), *[(row[0], row[2], row[4]) for row in BIOMART[1:]]),
    "bare pairs": text((H1, M1, "ortholog_one2one", 1.79, 1.14), (H2, M2, "ortholog_one2many", -0.4, -0.9), (H2, "ENSRNOG00000012966", "ortholog_one2one", 0, 0)),
    "oma": "# Format: two genes, orthology, OMA group\n" + text((H1, M1, "1:1", 841526), (H2, "MOUSE00012", "1:n", "")),
    "groups": text(("group", "species", "gene"), ("a", "human", H1), ("a", "Mouse", "11364"), ("b", "mouse", "Acadl"), sep=","),
    "pairs": text(("gene_a", "species_a", "gene_b", "species_b", "relation"), ("ACADM", "human", "Acadm", "mouse", "rbh"), ("ACADL", 9606, M2, 10090, "")),
}  # fmt: skip


def written(folder, content, name="homology.txt"):
    (folder / name).write_text(content)
    return folder / name


def members(table):
    return sorted(map(tuple, table[["species", "gene_name", "entrez", "ensembl"]].drop_duplicates().values.tolist()))


def linked(table):
    "The groups of a table as sets of best ids."
    best = table.ensembl.where(table.ensembl != "", table.entrez.where(table.entrez != "", table.gene_name))
    return {frozenset(one) for one in best.groupby([table.source, table.homology_group]).agg(set) if len(one) > 1}


SYMBOLS = [("human", "ACADM", "34", ""), ("mouse", "Acadm", "11364", "")]
EXPECTED = {  # source, members (None: too many to spell out), links
    "homologene": ("homologene", [SYMBOLS[0], ("human", "ACADVL", "37", ""), SYMBOLS[1]], {("34", "11364")}),
    "homologene with header": ("homologene", [SYMBOLS[0], ("human", "ACADVL", "37", ""), SYMBOLS[1]], {("34", "11364")}),
    "mgi": ("mgi", SYMBOLS, {("34", "11364")}),
    "mgi until 2021": ("homologene", SYMBOLS, {("34", "11364")}),
    "compara": ("ensembl", None, {(H1, M1), (H1, H2), (H2, M2)}),
    "biomart": ("ensembl", None, {(H1, M1), (H1, H2), (H2, M2)}),
    "biomart csv": ("ensembl", None, {(H1, M1), (H1, H2), (H2, M2)}),
    "biomaRt in R": ("ensembl", None, {(H1, M1), (H1, H2), (H2, M2)}),
    "biomart until 2016": ("ensembl", None, {(H1, M1), (H2, M2)}),
    "bare pairs": ("pairs", None, {(H1, M1), (H2, M2)}),
    "oma": ("pairs", None, {(H1, M1), (H2, "MOUSE00012")}),
    "groups": ("homology.txt", [("human", "", "", H1), ("mouse", "", "11364", ""), ("mouse", "Acadl", "", "")], {(H1, "11364")}),
    "pairs": ("homology.txt", None, {("ACADM", "Acadm"), ("ACADL", M2)}),
}


@pytest.mark.parametrize("compressed", ["plain", "gzip", "bgzip"])
@pytest.mark.parametrize("layout", FILES)
def test_every_layout(tmp_path, layout, compressed):
    path = written(tmp_path, FILES[layout])
    if compressed == "gzip":
        path.write_bytes(gzip.compress(FILES[layout].encode()))
    elif compressed == "bgzip":
        bgzf = pytest.importorskip("Bio.bgzf")
        with bgzf.open(path, "wb") as out:
            out.write(FILES[layout].encode())
    table = read_homology(path, TAXA)
    source, expected, links = EXPECTED[layout]
    assert list(table.columns) == MEMBER_COLUMNS and not table.isna().any(axis=None) and not table.duplicated().any()
    assert set(table.source) == {source} and linked(table) == set(map(frozenset, links))
    assert expected is None or members(table) == sorted(expected)
    json.dumps(table.attrs)


def test_names_types_and_what_is_passed_over(tmp_path):
    path = written(tmp_path, FILES["biomart"])
    table = read_homology(path, TAXA)
    assert ("mouse", "Acadm", "", M1) in members(table) and ("human", "ACADL", "", H2) in members(table)
    assert set(table.homology_type) == {"ortholog_one2one", "ortholog_one2many", "other_paralog"}
    assert table.attrs["passed_over"] == {"no homolog": 4, "species not asked for": 1}
    one2one = read_homology(path, TAXA, relations=("ortholog_one2one",))
    assert linked(one2one) == {frozenset([H1, M1])} and one2one.attrs["passed_over"]["relation not asked for"] == 3
    assert linked(read_homology(path, TAXA, high_confidence=True)) == {frozenset([H1, M1]), frozenset([H1, H2])}
    assert linked(read_homology(written(tmp_path, FILES["compara"]), TAXA, high_confidence=True)) == {frozenset([H1, M1]), frozenset([H1, H2])}
    three = read_homology(path, {**TAXA, "rat": 10116})
    assert frozenset([H1, "ENSRNOG00000009845"]) in linked(three) and set(three.species) == {"human", "mouse", "rat"}
    with pytest.raises(ConfigError, match="ortholog_one2many, ortholog_one2one, other_paralog"):
        read_homology(path, TAXA, relations=("1:1",))
    for layout, choice in [("homologene", {"high_confidence": True}), ("biomart", {"level": 9347}), ("mgi", {"genes": "x"}), ("mgi", {"relations": ["1:1"]})]:
        with pytest.raises(ConfigError):
            read_homology(written(tmp_path, FILES[layout]), TAXA, **choice)


def test_species_by_other_names_and_prefixes(tmp_path):
    path = written(tmp_path, text(("SPU_1", "XYZ_7"), ("SPU_2", "XYZ_8")))
    with pytest.raises(InputError, match="no table of homologs"):
        read_homology(path, {})
    table = read_homology(path, {}, species={"SPU_": "urchin", "XYZ_": "star"})
    assert set(table.species) == {"urchin", "star"} and linked(table) == {frozenset(["SPU_1", "XYZ_7"]), frozenset(["SPU_2", "XYZ_8"])}
    path = written(tmp_path, FILES["groups"].replace("Mouse", "house mouse").replace("mouse,A", "house mouse,A"))
    assert members(read_homology(path, TAXA, species={"House mouse": "mouse"})) == sorted(EXPECTED["groups"][1])


def test_columns_by_other_names_and_a_saved_table(tmp_path):
    path = written(tmp_path, FILES["groups"].replace("group,species,gene", "family,organism,id"))
    with pytest.raises(InputError, match="no table of homologs"):
        read_homology(path, TAXA)
    names = {"group": "family", "species": "organism", "gene": "id"}
    table = read_homology(path, TAXA, columns=names)
    assert members(table) == sorted(EXPECTED["groups"][1])
    with pytest.raises(ConfigError, match="no column 'famly'. Did you mean 'family'"):
        read_homology(path, TAXA, columns={**names, "group": "famly"})
    with pytest.raises(ConfigError, match="no column 'groups' to name. Did you mean 'group'"):
        read_homology(path, TAXA, columns={"groups": "family"})
    for layout in FILES:
        table = read_homology(written(tmp_path, FILES[layout]), TAXA)
        table.to_csv(tmp_path / "saved.csv", index=False)
        again = read_homology(tmp_path / "saved.csv", TAXA)
        pd.testing.assert_frame_equal(again.drop(columns="source"), table.drop(columns="source"))


ODB_GROUPS = [
    ("7at40674", "9606_0:0001ab"), ("7at40674", "10090_0:000002"), ("7at40674", "10116_0:000003"), ("9at40674", "9606_0:000004"), ("9at40674", "10090_0:000005")
]  # fmt: skip
ODB_GENES = [
    ("9606_0:0001ab", "9606_0", "NP_1", "ACADM;MCAD", "P11310", f"ENSP00000359878;{H1}.14;ENST00000370841", "34", "a \"quoted 5' thing"),
    ("10090_0:000002", "10090_0", "NP_2", "", "", M1, "Acadm", ""),
    ("9606_0:000004", "9606_0", "NP_3", "", "", "", "37", ""),
    ("10090_0:000005", "10090_0", "NP_4", "", "", "", "", ""),
    ("1_0:000001", "1_0", "", "", "", "", "", ""),
]


def test_orthodb(tmp_path):
    groups, genes = ODB_GROUPS, ODB_GENES
    path, of_genes = written(tmp_path, text(*groups)), written(tmp_path, text(*genes), "genes.tab")
    table = read_homology(path, TAXA, genes=of_genes)
    assert members(table) == [("human", "", "34", H1), ("human", "", "37", ""), ("mouse", "Acadm", "", M1)] and linked(table) == {frozenset([H1, M1])}
    assert table.attrs["passed_over"] == {"species not asked for": 1, "gene without a name outside OrthoDB": 1}
    with pytest.raises(ConfigError, match="genes="):
        read_homology(path, TAXA)
    path = written(tmp_path, text(*groups, ("1at2759", "9606_0:0001ab"), ("1at2759", "9606_0:000004")))
    with pytest.raises(ConfigError, match="40674, 2759. Choose one"):
        read_homology(path, TAXA, genes=of_genes)
    assert linked(read_homology(path, TAXA, genes=of_genes, level=40674)) == {frozenset([H1, M1])}
    with pytest.raises(InputError, match="no gene 9606_0:0001ab"):
        read_homology(path, TAXA, genes=written(tmp_path, text(*genes[1:]), "genes.tab"), level=40674)
    with pytest.raises(InputError, match="genes.tab:1: 2 columns"):
        read_homology(path, TAXA, genes=written(tmp_path, "a\tb\n", "genes.tab"), level=40674)


@pytest.mark.parametrize(
    "layout, old, new, line",
    [
        ("homologene with header", "3\t9606", "3\thuman", 2),
        ("homologene with header", "37\tACADVL", "37 ACADVL", 4),
        ("homologene", "NP_000007.1\n5\t7227", "NP_000007.1\n5\tx", 4),
        ("mgi", "\t9606\tACADM\t34", "\t9606\t\t", 3),
        ("mgi", "3\thuman", "\thuman", 3),
        ("compara", f"ortholog_one2one\t{H1}", "ortholog_one2one\t", 3),
        ("biomart", f"{H2}\tACADL\t{M2}", f"\tACADL\t{M2}", 3),
        ("biomart", f"{H2}\tACADL\t{M2}", f"YAL001C\tACADL\t{M2}", 3),
        ("biomart csv", f"{H2},ACADL,{M2}", f'{H2},"ACADL,{M2}', 3),
        ("bare pairs", f"{H2}\t{M2}", f"{H2}\tP11310", 2),
        ("bare pairs", "ortholog_one2many", "17", 2),
        ("oma", "1:n\t", "1:n", 3),
        ("groups", "a,Mouse", ",Mouse", 3),
        ("pairs", "ACADL\t9606", "\t9606", 3),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, layout, old, new, line):
    assert FILES[layout].count(old) == 1
    with pytest.raises(InputError, match=rf"homology.txt:{line}: "):
        read_homology(written(tmp_path, FILES[layout].replace(old, new)), TAXA)


def test_refusals_of_whole_files(tmp_path):
    path = written(tmp_path, FILES["homologene"])
    with pytest.raises(InputError, match=r"no gene of cat \(taxonomy id 9685\) to keep. It has: 4932, 7227, 9606, 10090\."):
        read_homology(path, {"cat": 9685})
    for content, message in [("", ":1: the file holds no table"), ("# only this\n", "no table"), ("a,b,c,d\n", ":1: no table of homologs"), ("x\n", ":1: no table of homologs")]:
        with pytest.raises(InputError, match=message):
            read_homology(written(tmp_path, content), TAXA)
    path.write_bytes(gzip.compress(FILES["homologene"].encode() * 1000)[:-30])
    with pytest.raises(InputError, match="breaks off"):
        read_homology(path, TAXA)
    with pytest.raises(InputError, match="does not exist"):
        read_homology(tmp_path / "none.tsv", TAXA)


@pytest.mark.parametrize("layout", [*FILES, "orthodb", "genes of orthodb"])
def test_mutated_files_are_read_or_refused(tmp_path, layout):
    "Whatever is done to a file, only the package's own errors come, and what is read is whole."
    rng, path, outcomes = random.Random(f"seed 0 {layout}"), tmp_path / "mutated", set()
    files = {**FILES, "orthodb": text(*ODB_GROUPS), "genes of orthodb": text(*ODB_GENES)}
    other = written(tmp_path, files["orthodb" if layout.startswith("genes") else "genes of orthodb"], "other")
    pieces = ["\t", "\n", ",", '"', "#", "", "\0", "é", "٣", "-1", "ENSG", ":", "~", "\ufeff", "group", "9" * 40]
    for _ in range(300):
        data = files[layout]
        for _ in range(rng.randint(1, 4)):
            at, cut = rng.randrange(len(data) + 1), rng.choice([0, 0, 1, 3, 30])
            data = data[:at] + rng.choice([*pieces, data[rng.randrange(len(data) + 1) :][:20]]) + data[at + cut :]
        raw = data.encode()
        if rng.random() < 0.1:
            raw = raw[: rng.randrange(len(raw) + 1)] + bytes([rng.randrange(256)]) + raw[rng.randrange(len(raw) + 1) :]
        path.write_bytes(raw)
        try:
            if "orthodb" not in layout:
                table = read_homology(path, TAXA)
            else:
                table = read_homology(other, TAXA, genes=path) if layout.startswith("genes") else read_homology(path, TAXA, genes=other)
        except (InputError, ConfigError) as error:
            outcomes.add("refused")
            assert isinstance(error, IsoclrError) and str(error)
            continue
        outcomes.add("read")
        assert set(table.species) == set(TAXA) and (table.homology_group != "").all()
        assert (table[["gene_name", "entrez", "ensembl"]] != "").any(axis=1).all()
    assert outcomes == {"read", "refused"}


SPECIES, NAMES = ["human", "mouse"], ["A", "B", "C", "D", "a", ""]
gene_tables = st.lists(st.tuples(st.sampled_from(SPECIES), st.sampled_from(NAMES)), min_size=1, max_size=12).map(
    lambda rows: pd.DataFrame(
        [(species, f"{species}:{i}", name) for i, (species, name) in enumerate(rows)], columns=["species", "gene_id", "gene_name"]
    )
)
homologies = st.lists(
    st.tuples(st.sampled_from(SPECIES), st.sampled_from(NAMES[:5]), st.integers(0, 14).map(str), st.sampled_from("123456"), st.sampled_from("xy")), max_size=14
).map(lambda rows: pd.DataFrame(rows, columns=["species", "gene_name", "entrez", "homology_group", "source"], dtype=object))


def slow_groups(genes: pd.DataFrame, homology: pd.DataFrame) -> list[str]:
    "Join sets of genes one by one: genes of the store with those of the table, and all that stand in one group."
    joined = []

    def join(*things):
        together = set(things).union(*(one for one in joined if one & set(things)))
        joined[:] = [one for one in joined if not one & together] + [together]

    for row in homology.itertuples():
        join(("table", row.species, row.entrez), ("group", row.source, row.homology_group))
    for gene in genes.itertuples():
        join(gene.gene_id)
        for source in set(homology.source):
            there = homology[(homology.source == source) & (homology.species == gene.species)]
            by_id = set(there.entrez[there.entrez == gene.gene_id.split(":")[1]])
            by_name = set(there.entrez[there.gene_name == gene.gene_name]) if gene.gene_name else set()
            by_case = set(there.entrez[there.gene_name.str.lower() == gene.gene_name.lower()]) if gene.gene_name else set()
            for entrez in by_id or by_name or (by_case if len(by_case) == 1 else set()):
                join(gene.gene_id, ("table", gene.species, entrez))
    return [min(one for one in next(one for one in joined if gene in one) if isinstance(one, str)) for gene in genes.gene_id]


@settings(deadline=None, max_examples=50)
@given(gene_tables, homologies, st.randoms())
def test_groups_are_connected_components_whatever_the_order(genes, homology, rng):
    genes.index = genes.index + 100
    groups, report = gene_groups(genes, homology)
    assert groups.tolist() == slow_groups(genes, homology) and groups.index.equals(genes.index)
    matches = match_genes(genes, homology)
    assert matches.index.equals(genes.index) and set(matches.matched_by) <= {*KEYS, ""} and ((matches.found == "") == (matches.matched_by == "")).all()
    for name, counts in report["species"].items():
        of_it = matches[matches.species == name]
        assert counts["genes"] == len(of_it) == counts["unmatched"] + sum(counts[f"by {key}"] for key in KEYS)
        assert counts["unmatched"] == (of_it.matched_by == "").sum() and counts["ambiguous"] == (of_it.ambiguous != "").sum() == sum(counts["why"].values())
    assert report["groups"] == groups.nunique() and report["largest_group"] == groups.value_counts().max()
    json.dumps(report)
    shuffled = genes.iloc[rng.sample(range(len(genes)), len(genes))]
    again, _ = gene_groups(shuffled, homology.iloc[::-1])
    assert again.loc[genes.index].tolist() == groups.tolist()


def frame(columns, *rows):
    return pd.DataFrame(rows, columns=columns.split(), dtype=object)


GENES = "species gene_id gene_name"


def test_keys_in_their_order():
    homology = frame("species gene_name entrez ensembl homology_group", ("human", "ACADM", "34", H1, "1"), ("human", "OTHER", "99", H2, "2"))
    genes = frame(
        GENES,
        ("human", f"human:{H1}.15_PAR_Y", "OTHER"),  # the id goes before the symbol
        ("human", "human:34", "OTHER"),
        ("human", "human:GeneID:99", ""),
        ("human", "human:x", "ACADM"),
        ("human", "human:OTHER", ""),
        ("human", "human:y", "acadm"),
        ("mouse", "mouse:z", "ACADM"),  # of another species
        ("human", "human:w", None),
    )
    matches = match_genes(genes, homology)
    assert matches.matched_by.tolist() == ["ensembl", "entrez", "entrez", "symbol", "symbol", "any case", "", ""]
    assert matches.found.tolist() == [H1, H1, H2, H1, H2, H1, "", ""]
    assert set(matches.ambiguous[:6]) == {"the same as another gene"}
    groups, report = gene_groups(genes, homology)
    assert groups.nunique() == 4 and report["species"]["mouse"]["unmatched"] == 1
    given_ids = genes.assign(ensembl=["", "", "", H2 + ".1", "", "", "", ""], entrez=["", "", "", "", "34", "", "", ""])
    assert match_genes(given_ids, homology).found.tolist() == [H1, H1, H2, H2, H1, H1, "", ""]


def test_ambiguous_genes_are_listed():
    genes = frame(GENES, ("human", "human:1", "A"), ("mouse", "mouse:1x", "a"), ("mouse", "mouse:2x", "b"), ("mouse", "mouse:3x", "C"))
    homology = frame(
        "species gene_name entrez homology_group", ("human", "A", "11", "1"), ("human", "A", "12", "2"), ("mouse", "a", "13", "1"), ("mouse", "b", "14", "2"),
        ("mouse", "b", "14", "3"), ("mouse", "c", "15", "4"), ("mouse", "C ", "16", "5"),
    )  # fmt: skip
    matches = match_genes(genes, homology)
    assert matches.ambiguous.tolist() == ["several genes of the table", "", "in several groups", ""] and matches.matched_by[3] == "any case"
    groups, report = gene_groups(genes, homology)
    assert groups.tolist() == ["human:1"] * 3 + ["mouse:3x"] and report["species"]["human"]["why"] == {"several genes of the table": 1}
    two = pd.concat([homology, frame("species gene_name entrez homology_group", ("mouse", "c", "17", "9"))])
    assert match_genes(genes, two).matched_by[3] == ""  # two genes but for case: neither


def test_sources_are_matched_on_their_own_and_their_groups_kept_apart(tmp_path):
    first = read_homology(written(tmp_path, FILES["homologene"]), TAXA)
    second = read_homology(written(tmp_path, text(("group", "species", "gene"), ("3", "human", H2), ("3", "mouse", M2)), "own.tsv"), TAXA)
    genes = frame(GENES, ("human", f"human:{H2}", "ACADM"), ("mouse", "mouse:11364", ""), ("mouse", f"mouse:{M2}", ""), ("human", "human:37", ""))
    groups, _ = gene_groups(genes, pd.concat([first, second]))
    assert groups.tolist() == [f"human:{H2}"] * 3 + ["human:37"]
    assert gene_groups(genes[1:], pd.concat([first, second]))[0].nunique() == 3


def test_identifiers_bring_names_together(tmp_path):
    content = text(
        ("entrez_id", "symbol", "synonyms", "ensembl_id", ""), (34, "ACADM", "MCAD|SHARED", H1, ""), (33, "ACADL", "LCAD|SHARED|OTHER", H2, ""), (-3, "OTHER", "", "", "")
    )
    identifiers = read_identifiers(written(tmp_path, content), "human")
    assert identifiers.entrez.tolist() == ["34", "33", ""] and identifiers.synonyms[0] == "MCAD|SHARED"
    by_ensembl = frame("species ensembl homology_group", ("human", H1, "1"), ("mouse", M1, "1"), ("human", H2, "2"))
    genes = frame(GENES, *[("human", f"human:{name}", name) for name in ("ACADM", "MCAD", "SHARED", "33", "OTHER", "LCAD")], ("mouse", "mouse:MCAD", "MCAD"))
    matches = match_genes(genes, by_ensembl, identifiers)
    assert matches.matched_by.tolist() == ["identifiers", "identifiers", "", "identifiers", "", "identifiers", ""]
    assert matches.found.tolist() == [H1, H1, "", H2, "", H2, ""]
    by_old_symbol = frame("species gene_name homology_group", ("human", "MCAD", "1"), ("mouse", "Acadm", "1"))
    genes = frame(GENES, ("human", f"human:{H1}.7", ""), ("mouse", "mouse:Acadm", "Acadm"))
    assert gene_groups(genes, by_old_symbol, identifiers)[0].nunique() == 1 and gene_groups(genes, by_old_symbol)[0].nunique() == 2
    assert records(frame("species ensembl entrez gene_name", ("human", "", "", "OTHER")), identifiers).tolist() == [2]
    with pytest.raises(InputError, match="homology.txt:2: the Entrez id 'x'"):
        read_identifiers(written(tmp_path, content.replace("\n34", "\nx")), "human")
    with pytest.raises(InputError, match="homology.txt:1: a table of identifiers has two of"):
        read_identifiers(written(tmp_path, "symbol\tchromosome\n"), "human")


def chained(n_families: int, size: int, hub: bool) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    "Families of a store, a table that chains them by one placeholder or by a gene in each next family, and the true family of each gene."
    n = n_families * size
    genes = pd.DataFrame({"species": "human", "gene_id": [f"human:g{i:05}" for i in range(n)], "gene_name": [f"S{i}" for i in range(n)]})
    family = [str(i // size) for i in range(n)]
    rows = [("human", f"S{i}", family[i]) for i in range(n)]
    rows += [("human", "novel" if hub else f"S{i * size}", str((i + 1) % n_families)) for i in range(n_families)]
    return genes, frame("species gene_name homology_group", *rows), family


@pytest.mark.parametrize("hub", [True, False])
def test_giant_groups_are_never_used_in_silence(hub):
    genes, homology, family = chained(100, 5, hub)
    with pytest.raises(InputError, match="500 of 500 genes would be one group.*human:%s \\(in %d\\)" % (("novel", 100) if hub else (r"S\d+", 2))):
        gene_groups(genes, homology)
    groups, report = gene_groups(genes, homology, giant="keep")
    assert groups.nunique() == 1 and report["giant"]["treated"] == "keep" and report["giant"]["groups"] == 1
    groups, report = gene_groups(genes, homology, giant="split")
    assert report["giant"]["n_cut"] == (1 if hub else 100) and report["giant"]["treated"] == "split"
    json.dumps(report)
    again, _ = gene_groups(genes.iloc[::-1], homology.sample(frac=1, random_state=0), giant="split")
    assert again.loc[genes.index].tolist() == groups.tolist()
    if hub:
        assert pd.crosstab(groups, pd.Series(family)).gt(0).to_numpy().sum() == 100
    else:  # the linking genes may end in either of their families; the others stay where they are
        assert groups.value_counts().max() <= 6 and report["largest_group"] <= 6
        rest = np.arange(500) % 5 != 0
        assert (groups[rest].groupby(np.array(family)[rest]).nunique() == 1).all() and (pd.Series(family)[rest].groupby(groups[rest]).nunique() == 1).all()
    with pytest.raises(ConfigError, match="'error', 'split' or 'keep'"):
        gene_groups(genes, homology, giant="ignore")


def test_a_giant_of_pairs_splits_and_one_source_group_does_not():
    n = 2 * GIANT_GENES
    genes = pd.DataFrame({"species": "human", "gene_id": [f"human:g{i:05}" for i in range(n)], "gene_name": [f"S{i}" for i in range(n)]})
    rng = np.random.default_rng(0)
    pairs = [(f"S{a}", f"S{b}") for a, b in rng.integers(0, n, (3 * n, 2)) if a != b]
    rows = [("human", end, "~".join(one), "other_paralog") for one in pairs for end in one]
    table = frame("species gene_name homology_group homology_type", *rows)
    with pytest.raises(InputError, match="would be one group"):
        gene_groups(genes, table)
    groups, report = gene_groups(genes, table, giant="split")
    assert groups.value_counts().max() <= GIANT_GENES and report["giant"]["n_cut"] > 0
    assert groups.value_counts().max() > 1
    whole = frame("species gene_name homology_group", *[("human", f"S{i}", "all") for i in range(n)])
    with pytest.raises(InputError, match="even split, 400 of 400 genes"):
        gene_groups(genes, whole, giant="split")
    assert gene_groups(genes, whole, giant="keep")[0].nunique() == 1
    few = gene_groups(genes[: GIANT_GENES], whole)[1]  # all the genes there are, but not many
    assert few["largest_group"] == GIANT_GENES and few["giant"]["treated"] == "none"


def test_without_homology_and_with_a_gene_given_twice():
    genes = frame(GENES, ("human", "human:1", "A"), ("mouse", "mouse:1", "A"))
    groups, report = gene_groups(genes, None)
    assert groups.tolist() == ["human:1", "mouse:1"] and report["groups_in_several_species"] == 0 and report["species"]["human"]["unmatched"] == 1
    with pytest.raises(InputError, match="'human:1' is given twice"):
        gene_groups(pd.concat([genes, genes]), None)
    with pytest.raises(InputError, match="no column homology_group"):
        gene_groups(genes, pd.DataFrame({"species": ["human"]}))
    groups, report = gene_groups(genes[:0], None)
    assert len(groups) == 0 and report["groups"] == 0


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4, st.booleans()), min_size=1, max_size=20))
def test_relations_one_by_one(pairs):
    gene_a, species_a, gene_b, species_b, same = (np.array(values) for values in zip(*pairs))
    gene_a, gene_b = gene_a + 10 * species_a, gene_b + 10 * species_b  # a gene has one species
    codes = relation(gene_a, species_a, gene_b, species_b, same)
    for code, a, sa, b, sb, one in zip(codes, gene_a, species_a, gene_b, species_b, same):
        expected = "self" if one else "isoform" if a == b else "paralog" if sa == sb else "ortholog"
        assert RELATIONS[code] == expected
    assert codes.dtype == np.uint8 and (SELF, ISOFORM, PARALOG, ORTHOLOG) == (0, 1, 2, 3)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 2)), max_size=12))
def test_relation_pairs_are_all_pairs_of_a_group(rows):
    rows = [(f"{'hm'[species]}:{gene}", "hm"[species], f"g{group}") for gene, species, group in rows]
    table = pd.DataFrame(rows, columns=["gene_id", "species", "group"], index=range(50, 50 + len(rows)))
    found = relation_pairs(table)
    expected = []
    for j, (gene_b, species_b, group_b) in enumerate(rows):
        for i, (gene_a, species_a, group_a) in enumerate(rows[:j]):
            if group_a == group_b:
                expected.append((i, j, group_a, ISOFORM if gene_a == gene_b else PARALOG if species_a == species_b else ORTHOLOG, ""))
    assert list(map(tuple, found.values.tolist())) == sorted(expected)


def test_types_of_homology_of_pairs(tmp_path):
    homology = read_homology(written(tmp_path, FILES["biomart"]), TAXA)
    genes = frame(GENES, ("human", f"human:{H1}.2", ""), ("human", f"human:{H2}", ""), ("mouse", "mouse:x", "Acadm"), ("mouse", f"mouse:{M2}", ""))
    transcripts = genes.assign(group=gene_groups(genes, homology)[0]).iloc[[0, 0, 1, 2, 3]]
    pairs = relation_pairs(transcripts, homology)
    types = {(a, b): (RELATIONS[code], kind) for a, b, code, kind in zip(pairs.a, pairs.b, pairs.relation, pairs.homology_type)}
    assert len(types) == 10 and types[0, 1] == ("isoform", "") and types[0, 2] == types[1, 2] == ("paralog", "other_paralog")
    assert types[1, 3] == ("ortholog", "ortholog_one2one") and types[2, 4] == ("ortholog", "ortholog_one2many")
    assert types[2, 3] == ("ortholog", "") and types[3, 4] == ("paralog", "")  # together through a third


@pytest.fixture(scope="module")
def regions(shared_data):
    "Coding genes of the two region genomes, as a store would have them, with the ids and labels of the gene tables."
    parts = []
    for species, name in (("human", "hg38"), ("mouse", "mm10")):
        table = pd.read_csv(shared_data / "annotation" / f"{name}.regions.genes.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
        table = table[table.n_coding_transcripts.astype(int) > 0]
        parts.append(table.assign(species=species, gene_id=species + ":" + table.gene, gene_name=table.gene, ensembl=table.ensembl_gene_id))
    table = pd.concat(parts, ignore_index=True).fillna("")
    return table.assign(entrez=table.entrez_id, halflife=pd.to_numeric(table.halflife_pc1))


def orthologs(genes, groups):
    pairs = relation_pairs(genes.assign(group=groups))
    pairs = pairs[pairs.relation == ORTHOLOG]
    return set(zip(genes.gene_id.to_numpy()[pairs.a], genes.gene_id.to_numpy()[pairs.b]))


def test_real_human_and_mouse(shared_data, regions):
    "The numbers of the fixture's README."
    keyed = regions[[*GENES.split(), "ensembl", "entrez"]]
    homologene = read_homology(shared_data / "homology" / "homologene_build68.tsv.gz", TAXA)
    one2one = read_homology(shared_data / "homology" / "saluki_1to1_orthologs_expression.txt.gz", TAXA, relations=("ortholog_one2one",))
    assert homologene.species.value_counts().to_dict() == {"mouse": 21207, "human": 19129} and len(one2one) == 2 * 15348
    groups, report = gene_groups(keyed, homologene)
    assert (report["species"]["human"]["by entrez"], report["species"]["mouse"]["by symbol"]) == (390, 274)
    assert report["species"]["human"]["unmatched"] == 10 and report["groups_in_several_species"] == 242 and report["giant"]["treated"] == "none"
    known = regions[regions.homologene_hid != ""]  # the fixture's own groups
    assert (groups[known.index].groupby(known.homologene_hid).nunique() == 1).all() and groups[known.index].nunique() == known.homologene_hid.nunique()
    of_homologene = orthologs(keyed, groups)
    groups, report = gene_groups(keyed, one2one)
    assert [report["species"][name]["by ensembl"] for name in TAXA] == [330, 242]
    of_ensembl = orthologs(keyed, groups)
    assert (len(of_homologene), len(of_ensembl), len(of_homologene & of_ensembl)) == (245, 240, 220)
    halflife = regions.set_index("gene_id").halflife
    label = np.array([(halflife[a], halflife[b]) for a, b in of_homologene | of_ensembl])
    label = label[~np.isnan(label).any(axis=1)]
    assert len(label) == 183 and np.corrcoef(label.T)[0, 1] == pytest.approx(0.770, abs=5e-4)
    # both tables at once: nothing is lost, and what they add joins
    groups, _ = gene_groups(keyed, pd.concat([homologene, one2one]))
    assert of_homologene | of_ensembl <= orthologs(keyed, groups)


def test_real_identifiers_find_symbols_in_a_table_of_ensembl_ids(shared_data, regions):
    hgnc = read_identifiers(shared_data / "misc" / "hgnc_2023-10.id_map.tsv.gz", "human")
    genes = regions.loc[regions.species == "human", GENES.split()]
    one2one = read_homology(shared_data / "homology" / "saluki_1to1_orthologs_expression.txt.gz", TAXA)
    assert (match_genes(genes, one2one).matched_by == "").all()
    found = match_genes(genes, one2one, hgnc)
    expected = regions.loc[genes.index, "ensembl"]
    assert (found.matched_by == "identifiers").sum() >= 329 and (found.found == expected)[found.found != ""].mean() > 0.99


def test_real_homologene_of_all_species_has_no_giant(shared_data):
    path = shared_data / "homology" / "homologene_build68.tsv.gz"
    taxa = pd.read_csv(path, sep="\t", usecols=["tax_id"]).tax_id.unique()
    homology = read_homology(path, {f"taxon {taxon}": int(taxon) for taxon in taxa})
    assert len(taxa) == 21 and len(homology) == 275_237
    genes = pd.DataFrame({"species": homology.species, "gene_id": homology.species + ":" + homology.entrez, "gene_name": homology.gene_name})
    groups, report = gene_groups(genes, homology)
    assert groups.nunique() == homology.homology_group.nunique() and report["largest_group"] == 672
    zebrafish = genes[genes.species == "taxon 7955"]
    assert gene_groups(zebrafish, homology)[1]["largest_group"] == 655
