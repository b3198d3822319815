"""Homology: readers, and groups against a walk from gene to gene."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import InputError
from isoclr.data.homology import ISOFORM, ORTHOLOG, PARALOG, RELATIONS, SELF, gene_groups, read_homology, relation

ROWS = [(3, 9606, 34, "ACADM"), (3, 10090, 11364, "Acadm"), (5, 9606, 37, "ACADVL"), (5, 7227, 36, "Arc42"), (7, 4932, 9, "ACA1")]


def written(folder, rows, header=True, extra=()):
    lines = ["hid\ttax_id\tgene_id\tsymbol"] if header else []
    lines += ["\t".join(map(str, (*row, *extra))) for row in rows]
    (folder / "homology.tsv").write_text("\n".join(lines) + "\n")
    return folder / "homology.tsv"


@pytest.mark.parametrize("header, extra", [(True, ()), (False, ()), (False, (4557231, "NP_000007.1"))])
def test_both_forms_of_homologene(tmp_path, header, extra):
    table = read_homology(written(tmp_path, ROWS, header, extra), {"human": 9606, "mouse": 10090})
    assert table.values.tolist() == [["human", "ACADM", "34", "3"], ["mouse", "Acadm", "11364", "3"], ["human", "ACADVL", "37", "5"]]


def test_real_homologene(shared_data):
    table = read_homology(shared_data / "homology" / "homologene_build68.tsv.gz", {"human": 9606, "mouse": 10090, "yeast": 4932})
    assert table.species.value_counts().to_dict() == {"mouse": 21207, "human": 19129, "yeast": 4579}


def test_refusals(tmp_path):
    path = written(tmp_path, ROWS)
    with pytest.raises(InputError, match=r"no gene of cat \(taxonomy id 9685\). It has: 4932, 7227, 9606, 10090\."):
        read_homology(path, {"cat": 9685})
    content = path.read_text()
    for spoilt, line in [
        (content[:-10], 6),
        (content.replace("3\t9606", "3\thuman"), 2),
        (content.replace("37\tACADVL", "37 ACADVL"), 4),
        ("a,b,c,d\n", 1),
    ]:
        path.write_text(spoilt)
        with pytest.raises(InputError, match=rf"homology.tsv:{line}: not a HomoloGene row"):
            read_homology(path, {"human": 9606})
    with gzip.open(path, "wt") as out:
        out.write(content + content.split("\n", 1)[1] * 1000)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="breaks off"):
        read_homology(path, {"human": 9606})
    with pytest.raises(InputError, match="does not exist"):
        read_homology(tmp_path / "none.tsv", {"human": 9606})


SPECIES, NAMES = ["human", "mouse"], ["A", "B", "C", "D", ""]
gene_tables = st.lists(st.tuples(st.sampled_from(SPECIES), st.sampled_from(NAMES)), min_size=1, max_size=12).map(
    lambda rows: pd.DataFrame(
        [(species, f"{species}:{i}", name) for i, (species, name) in enumerate(rows)], columns=["species", "gene_id", "gene_name"]
    )
)
homologies = st.lists(
    st.tuples(st.sampled_from(SPECIES), st.sampled_from(NAMES[:4]), st.integers(0, 14).map(str), st.sampled_from("123456")), max_size=14
).map(lambda rows: pd.DataFrame(rows, columns=["species", "gene_name", "gene_id", "homology_group"]))


def slow_groups(genes: pd.DataFrame, homology: pd.DataFrame) -> list[str]:
    "Walk from gene to homology group to gene until nothing new is reached."
    of_gene = {}
    for gene in genes.itertuples():
        same_species = homology[homology.species == gene.species]
        by_name = set(same_species.homology_group[same_species.gene_name == gene.gene_name]) if gene.gene_name else set()
        by_id = set(same_species.homology_group[same_species.gene_id == gene.gene_id.split(":")[1]])
        of_gene[gene.gene_id] = by_name or by_id
    groups = []
    for gene in genes.gene_id:
        reached, size = {gene}, 0
        while len(reached) > size:
            size = len(reached)
            linked = set().union(*(of_gene[other] for other in reached))
            reached |= {other for other in of_gene if of_gene[other] & linked}
        groups.append(min(reached))
    return groups


@settings(deadline=None)
@given(gene_tables, homologies, st.randoms())
def test_groups_are_connected_components_whatever_the_order(genes, homology, rng):
    genes.index = genes.index + 100
    groups, report = gene_groups(genes, homology)
    assert groups.tolist() == slow_groups(genes, homology) and groups.index.equals(genes.index)
    counts = pd.DataFrame(report["species"]).T
    assert (counts.genes == counts["by gene_name"] + counts["by gene_id"] + counts.unmatched).all() and counts.genes.sum() == len(genes)
    assert report["groups"] == groups.nunique() and report["largest_group"] == groups.value_counts().max()
    shuffled = genes.iloc[rng.sample(range(len(genes)), len(genes))]
    again, _ = gene_groups(shuffled, homology.iloc[::-1])
    assert again.loc[genes.index].tolist() == groups.tolist()


def test_ambiguous_names_are_counted():
    genes = pd.DataFrame(
        [("human", "human:1", "A"), ("mouse", "mouse:1", "a"), ("mouse", "mouse:2", "b")], columns=["species", "gene_id", "gene_name"]
    )
    homology = pd.DataFrame(
        [("human", "A", "1", "1"), ("human", "A", "9", "2"), ("mouse", "a", "1", "1"), ("mouse", "b", "2", "2")],
        columns=["species", "gene_name", "gene_id", "homology_group"],
    )
    groups, report = gene_groups(genes, homology)
    assert set(groups) == {"human:1"} and report["species"]["human"]["ambiguous"] == 1 and report["species"]["mouse"]["ambiguous"] == 0


def test_without_homology_and_with_a_gene_given_twice():
    genes = pd.DataFrame([("human", "human:1", "A"), ("mouse", "mouse:1", "A")], columns=["species", "gene_id", "gene_name"])
    groups, report = gene_groups(genes, None)
    assert groups.tolist() == ["human:1", "mouse:1"] and report["groups_in_several_species"] == 0
    with pytest.raises(InputError, match="'human:1' is given twice"):
        gene_groups(pd.concat([genes, genes]), None)


def test_real_groups_join_human_and_mouse(shared_data):
    taxa = {"human": 9606, "mouse": 10090}
    homology = read_homology(shared_data / "homology" / "homologene_build68.tsv.gz", taxa)
    parts = []
    for species, name in (("human", "hg38"), ("mouse", "mm10")):
        table = pd.read_csv(shared_data / "annotation" / f"{name}.regions.genes.tsv.gz", sep="\t")
        table = table[table.n_coding_transcripts > 0]
        parts.append(
            pd.DataFrame({"species": species, "gene_id": species + ":" + table.gene, "gene_name": table.gene, "hid": table.homologene_hid})
        )
    genes = pd.concat(parts, ignore_index=True)
    groups, report = gene_groups(genes, homology)
    # the fixture's own HomoloGene ids (found through Entrez ids) agree wherever the symbol is matched
    by_symbol = genes.merge(homology, on=["species", "gene_name"])
    assert (by_symbol.hid == by_symbol.homology_group.astype(float)).mean() > 0.99
    known = genes[genes.hid.notna() & genes.gene_name.isin(homology.gene_name)]
    assert (groups[known.index].groupby(known.hid).nunique() == 1).mean() > 0.99
    assert report["groups_in_several_species"] >= 235 and report["largest_group"] < 10


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4, st.booleans()), min_size=1, max_size=20))
def test_relations_one_by_one(pairs):
    gene_a, species_a, gene_b, species_b, same = (np.array(values) for values in zip(*pairs))
    gene_a, gene_b = gene_a + 10 * species_a, gene_b + 10 * species_b  # a gene has one species
    codes = relation(gene_a, species_a, gene_b, species_b, same)
    for code, a, sa, b, sb, one in zip(codes, gene_a, species_a, gene_b, species_b, same):
        expected = "self" if one else "isoform" if a == b else "paralog" if sa == sb else "ortholog"
        assert RELATIONS[code] == expected
    assert codes.dtype == np.uint8 and (SELF, ISOFORM, PARALOG, ORTHOLOG) == (0, 1, 2, 3)
