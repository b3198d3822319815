"""Gene Ontology labels: the graph against networkx, labels against a slow count, files that are wrong."""
import gzip
import re

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.probe.annotations import EVIDENCE, annotation_outcomes, go_labels, read_annotations
from isoclr.probe.ontology import DISTANCES, RELATIONS, ancestors, ancestry, levels, read_obo

SETS = {"Molecular_Function_2018.txt": 1151, "Biological_Process_2018.txt": 5103, "Cellular_Component_2018.txt": 446, "Biological_Process_2021.gmt": 6036}


def go(number):
    return f"GO:{number:07d}"


def stanza(number, *lines, name="", namespace="f"):
    return "\n".join(["[Term]", f"id: {go(number)}", f"name: {name or f'term {number}'}", f"namespace: {namespace}", *lines]) + "\n\n"


def obo_file(folder, *stanzas, header="format-version: 1.2\n\n"):
    path = folder / "go.obo"
    path.write_text(header + "".join(stanzas))
    return path


def gaf_line(symbol, term, code="IDA", qualifier="enables", taxon=9606, product="P1"):
    return "\t".join(["UniProtKB", product, symbol, qualifier, term, "PMID:1", code, "", "F", "", "", "protein", f"taxon:{taxon}", "20200101", "UniProt", "", ""]) + "\n"


# A DAG: parents of term i are among the terms before it; term 0 is the root. Identifiers are drawn, so that their order is not that of the graph.
DAGS = st.integers(1, 11).flatmap(lambda n: st.tuples(
    st.permutations(range(1, n + 1)),
    st.tuples(*(st.dictionaries(st.integers(0, i - 1), st.sampled_from(RELATIONS), min_size=1, max_size=4) for i in range(1, n))),
    st.randoms(use_true_random=False),
))


def written(folder, dag):
    "The OBO file of a drawn DAG in a drawn order, and networkx graphs from child to parent: of both relations, and of is_a."
    ids, parents, random = dag
    ids = [go(i) for i in ids]
    both, is_a = nx.DiGraph(), nx.DiGraph()
    both.add_nodes_from(ids), is_a.add_nodes_from(ids)
    lines = {0: []}
    for i, of in enumerate(parents, start=1):
        lines[i] = [f"is_a: {ids[j]} ! x" if relation == "is_a" else f"relationship: part_of {ids[j]}" for j, relation in of.items()]
        both.add_edges_from((ids[i], ids[j]) for j in of)
        is_a.add_edges_from((ids[i], ids[j]) for j, relation in of.items() if relation == "is_a")
    stanzas = ["\n".join(["[Term]", f"id: {ids[i]}", f"name: {'f' if i == 0 else 't'}", "namespace: f", *lines[i]]) + "\n\n" for i in lines]
    random.shuffle(stanzas)
    return obo_file(folder, *stanzas), both, is_a, ids[0]


def slow_levels(is_a, root):
    "Lengths of all paths to the root, by walking them."
    paths = {node: [len(path) - 1 for path in nx.all_simple_paths(is_a, node, root)] for node in is_a if node != root}
    return {root: (0, 0), **{node: (min(found), max(found)) for node, found in paths.items() if found}}


@settings(max_examples=80, deadline=None)
@given(DAGS)
def test_ancestors_and_levels_equal_those_of_networkx(tmp_path_factory, dag):
    path, both, is_a, root = written(tmp_path_factory.mktemp("go"), dag)
    ontology = read_obo(path)
    assert ontology.terms.index.tolist() == sorted(both)
    reach = ancestry(ontology).toarray()
    for row, term in enumerate(ontology.terms.index):
        expected = nx.descendants(both, term)  # edges lead upwards
        assert ancestors(ontology, term) == tuple(sorted(expected))
        assert set(ontology.terms.index[reach[row]]) == expected | {term}
        assert ancestors(ontology, term, ("is_a",)) == tuple(sorted(nx.descendants(is_a, term)))
    slow = slow_levels(is_a, root)
    for place, distance in enumerate(DISTANCES):
        assert levels(ontology, "f", distance).to_dict() == {term: found[place] for term, found in slow.items()}
    assert levels(ontology, "f").to_dict() == dict(nx.single_source_shortest_path_length(is_a.reverse(), root))


@settings(max_examples=80, deadline=None)
@given(DAGS, st.lists(st.tuples(st.sampled_from("ABCDEF"), st.integers(1, 12), st.sampled_from(["IDA", "IEA"]), st.sampled_from(["enables", "NOT|enables"])), min_size=1, max_size=25),
       st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_labels_equal_a_slow_count_whatever_the_order_of_the_file(tmp_path_factory, dag, lines, level, min_genes, without_electronic):
    folder = tmp_path_factory.mktemp("go")
    path, both, is_a, root = written(folder, dag)
    bears = {}
    for gene, number, code, qualifier in lines:
        if go(number) in both and not qualifier.startswith("NOT") and not (without_electronic and code == "IEA"):
            bears.setdefault(gene, set()).update({go(number)} | nx.descendants(both, go(number)))
    at_level = [term for term, (shortest, _) in slow_levels(is_a, root).items() if shortest == level]
    chosen = [term for term in at_level if sum(term in terms for terms in bears.values()) >= min_genes]
    expected = sorted((gene, term) for gene, terms in bears.items() for term in chosen if term in terms)
    tables = []
    for order in (lines, sorted(lines), lines[::-1]):
        (folder / "a.gaf").write_text("!gaf-version: 2.2\n" + "".join(gaf_line(gene, go(number), code, qualifier) for gene, number, code, qualifier in order))
        arguments = dict(namespace="f", levels_below_root=level, min_genes=min_genes, without_evidence=("IEA",) if without_electronic else ())
        if not expected:
            with pytest.raises(InputError, match=rf"No term of f is {level} levels below"):
                go_labels(path, folder / "a.gaf", **arguments)
            continue
        tables.append(go_labels(path, folder / "a.gaf", **arguments))
        assert list(zip(tables[-1]["key"], tables[-1]["value"])) == expected
        assert tables[-1].attrs["terms"] == len(chosen) and tables[-1].attrs["terms at level"] == len(at_level)
        assert sum(count for name, count in tables[-1].attrs.items() if name.startswith("annotations ")) == len(lines)
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


RICH = (
    stanza(1, name="f"),
    stanza(2, f"is_a: {go(1)} ! f", f"alt_id: {go(20)}", f"alt_id: {go(21)}"),
    stanza(3, f"is_a: {go(20)} ! named by an older id", f"relationship: part_of {go(4)} ! whole", f"relationship: regulates {go(2)}", f"relationship: has_part {go(2)}"),
    stanza(4, name=r"f\, of \"g\"", namespace="g"),
    stanza(5, "is_obsolete: true", f"replaced_by: {go(3)}"),
    stanza(6, "is_obsolete: true", f"replaced_by: {go(5)}"),  # in two steps
    stanza(7, "is_obsolete: true"),
    stanza(8, "is_obsolete: true", f"replaced_by: {go(2)}", f"replaced_by: {go(3)}"),  # two successors are none
    stanza(9, "is_obsolete: true", f"replaced_by: {go(10)}"),
    stanza(10, "is_obsolete: true", f"replaced_by: {go(9)}"),  # in a circle
    f"[Typedef]\nid: part_of\nname: part of\nis_transitive: true\n\n! a comment\n[Term]\nid: {go(11)} ! note\nname: without namespace\nis_a: {go(2)} {{source=\"x\"}} ! y\n",
)


def test_stanzas_of_every_kind(tmp_path):
    path = obo_file(tmp_path, *RICH, header="format-version: 1.2\ndefault-namespace: f\n\n")
    ontology = read_obo(path)
    assert ontology.terms.index.tolist() == [go(i) for i in (1, 2, 3, 4, 11)]
    assert ontology.terms["namespace"].tolist() == ["f", "f", "f", "g", "f"] and ontology.terms.at[go(4), "name"] == 'f, of "g"'
    edges = [(ontology.terms.index[child], ontology.terms.index[parent], relation) for child, parent, relation in ontology.edges[["child", "parent", "relation"]].to_numpy()]
    assert edges == [(go(2), go(1), "is_a"), (go(3), go(2), "is_a"), (go(3), go(4), "part_of"), (go(11), go(2), "is_a")]
    assert ontology.replaced == {go(20): go(2), go(21): go(2), go(5): go(3), go(6): go(3)}
    assert ontology.obsolete == {go(i) for i in (7, 8, 9, 10)}
    assert ontology.resolve([go(i) for i in (3, 6, 7, 21, 99)]).tolist() == [2, 2, -1, 1, -1]
    assert ancestors(ontology, go(5)) == (go(1), go(2), go(4))
    assert levels(ontology, "f").to_dict() == {go(1): 0, go(2): 1, go(3): 2, go(11): 2}
    packed = tmp_path / "go.obo.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    pd.testing.assert_frame_equal(read_obo(packed).terms, ontology.terms)


@pytest.mark.parametrize("text, message", [
    (stanza(1) + "[Term]\nname: nameless\n\n", r"go.obo:8: this term has no id"),
    (stanza(1) + stanza(2) + stanza(1), r"go.obo:13: GO:0000001 is defined a second time; the first is in line 3"),
    (stanza(1) + stanza(2, f"is_a: {go(9)}"), r"go.obo:12: is_a names GO:0000009, which is no live term"),
    (stanza(1) + stanza(2, "is_a: "), r"go.obo:12: is_a has no value"),
    (stanza(1) + stanza(2, "relationship: part_of"), r"go.obo:12: relationship has no value"),
    (stanza(1) + stanza(7, "is_obsolete: true") + stanza(2, f"relationship: part_of {go(7)}"), r"go.obo:18: part_of names GO:0000007"),
    (stanza(1) + "no colon here\n", r"go.obo:8: neither a stanza nor"),
    (stanza(2, f"is_a: {go(2)}"), r"go.obo:3: GO:0000002: each is its own ancestor"),
    (stanza(1) + stanza(2, f"is_a: {go(1)}", f"is_a: {go(4)}") + stanza(3, f"relationship: part_of {go(2)}") + stanza(4, f"is_a: {go(3)}"),
     r"go.obo:8: GO:0000002, GO:0000003, GO:0000004: each is its own ancestor"),
    (stanza(1, "is_obsolete: true"), r"defines no term that is not obsolete"),
    ("", r"defines no term"),
])
def test_broken_ontologies_are_refused_where_they_break(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_obo(obo_file(tmp_path, text))


def test_an_ontology_that_is_cut_off(tmp_path):
    path = tmp_path / "go.obo.gz"
    path.write_bytes(gzip.compress("".join(RICH).encode())[:-12])
    with pytest.raises(InputError, match=r"go.obo.gz:\d+: the compressed file ends or breaks off"):
        read_obo(path)
    with pytest.raises(InputError, match="nowhere.obo does not exist"):
        read_obo(tmp_path / "nowhere.obo")


def test_questions_about_what_is_not_there(tmp_path):
    ontology = read_obo(obo_file(tmp_path, *RICH, header="default-namespace: f\n\n"))
    with pytest.raises(InputError, match="GO:0000007 is an obsolete term"):
        ancestors(ontology, go(7))
    with pytest.raises(InputError, match="GO:0000099 is no term"):
        ancestors(ontology, go(99))
    for call, message in ((lambda: levels(ontology, "ff"), "Did you mean 'f'"), (lambda: levels(ontology, "f", "shortes"), "Did you mean 'shortest'"),
                          (lambda: ancestry(ontology, ("is_b",)), "Did you mean 'is_a'")):
        with pytest.raises(ConfigError, match=message):
            call()
    (tmp_path / "two").mkdir()
    with pytest.raises(InputError, match="'f' has 2 roots"):
        levels(read_obo(obo_file(tmp_path / "two", stanza(1), stanza(2))), "f")


GAF = "!gaf-version: 2.2\n" + "".join([
    gaf_line("A", go(3), "IDA"), gaf_line("A", go(3), "IEA"), gaf_line("B", go(2), "IMP", "NOT|enables"), gaf_line("B", go(6), "ISS", product="P2"),
    gaf_line("C", go(7), "TAS"), gaf_line("C", go(99), "HDA"), gaf_line("D", go(20), "IBA", "contributes_to"), gaf_line("E", go(2), "IDA", "NOT"),
])


def test_outcomes_of_annotations(tmp_path):
    ontology = read_obo(obo_file(tmp_path, *RICH, header="default-namespace: f\n\n"))
    (tmp_path / "a.gaf").write_text(GAF)
    annotations = read_annotations(tmp_path / "a.gaf")
    assert annotations["line"].tolist() == list(range(2, 10)) and annotations["key"].tolist() == list("AABBCCDE")
    assert read_annotations(tmp_path / "a.gaf", key="id")["key"].unique().tolist() == ["P1", "P2"]
    table = annotation_outcomes(ontology, annotations)
    assert table["outcome"].tolist() == ["used", "used", "negated", "used", "obsolete", "unknown", "used", "negated"]
    assert ontology.terms.index[table["row"][3]] == go(3) and ontology.terms.index[table["row"][6]] == go(2)  # replaced_by twice, alt_id
    measured = annotation_outcomes(ontology, annotations, evidence=(*EVIDENCE["experiment"], *EVIDENCE["high throughput"]))
    assert measured["outcome"].tolist() == ["used", "evidence", "negated", "evidence", "evidence", "unknown", "evidence", "negated"]
    without = annotation_outcomes(ontology, annotations, without_evidence=EVIDENCE["electronic"])
    assert without["outcome"].tolist() == ["used", "evidence", "negated", "used", "obsolete", "unknown", "used", "negated"]
    labels = go_labels(ontology, annotations, "f", levels_below_root=1, min_genes=2)
    assert labels[["key", "value"]].to_numpy().tolist() == [["A", go(2)], ["B", go(2)], ["D", go(2)]]  # the negation of B says nothing about its other line
    counted = {"annotations negated": 2, "annotations obsolete": 1, "annotations unknown": 1, "annotations used": 4, "genes annotated": 3, "genes labelled": 3,
               "terms at level": 1, "terms": 1}
    assert labels.attrs == counted
    (tmp_path / "b.gaf").write_text(GAF.replace("\tIDA\t", "\tABC\t"))
    assert annotation_outcomes(ontology, read_annotations(tmp_path / "b.gaf"))["outcome"][0] == "used"  # a code of a later year is no reason to drop a line


def test_evidence_that_cannot_be_asked_for(tmp_path):
    ontology = read_obo(obo_file(tmp_path, *RICH, header="default-namespace: f\n\n"))
    table = pd.DataFrame({"key": ["A"], "term": [go(2)]})
    with pytest.raises(ConfigError, match="'IEE' is no evidence code.*Did you mean 'IE"):
        annotation_outcomes(ontology, table, evidence=("IEE",))
    with pytest.raises(ConfigError, match="carry no evidence codes"):
        annotation_outcomes(ontology, table, without_evidence=("IEA",))
    with pytest.raises(InputError, match="no column 'term'"):
        annotation_outcomes(ontology, table.rename(columns={"term": "go"}))
    assert annotation_outcomes(ontology, table)["outcome"].tolist() == ["used"]


def test_gene2go(tmp_path):
    lines = ["9606\t10\tGO:0000002\tIDA\t-\tbinding\t1\tFunction", "9606\t11\tGO:0000002\tIEA\tNOT enables\tbinding\t1\tFunction", "10090\t10\tGO:0000003\tIDA\tenables\tx\t-\tFunction"]
    path = tmp_path / "gene2go"
    path.write_text("#tax_id\tGeneID\tGO_ID\tEvidence\tQualifier\tGO_term\tPubMed\tCategory\n" + "\n".join(lines) + "\n")
    human = read_annotations(path, taxon=9606)
    assert human[["key", "term", "evidence", "qualifier", "line"]].to_numpy().tolist() == [["10", go(2), "IDA", "", 2], ["11", go(2), "IEA", "NOT enables", 3]]
    assert read_annotations(path, taxon=10090)["line"].tolist() == [4]
    with pytest.raises(InputError, match=r"gene2go:4: a line of taxon 10090, where those before are of taxon 9606. Say which species is meant: taxon=9606"):
        read_annotations(path)
    with pytest.raises(InputError, match="no annotation of taxon 7955"):
        read_annotations(path, taxon=7955)


def test_gene_sets_in_their_three_forms(tmp_path):
    (tmp_path / "enrichr.txt").write_text('a, b (c) activity (GO:0000002),A\tB\n"d, e (GO:0000003)",C\t\n')
    (tmp_path / "gmt.gmt").write_text("a, b (c) activity (GO:0000002)\t\tA\tB\nd, e (GO:0000003)\tfrom somewhere\tC\n")
    (tmp_path / "msigdb.gmt").write_text("GOMF_A\thttps://x/GO:0000002\tA\tB\nGOMF_D\tGO:0000003\tC\n")
    expected = [["A", go(2), 1], ["B", go(2), 1], ["C", go(3), 2]]
    for name in ("enrichr.txt", "gmt.gmt", "msigdb.gmt"):
        assert read_annotations(tmp_path / name)[["key", "term", "line"]].to_numpy().tolist() == expected, name


@pytest.mark.parametrize("text, message", [
    (GAF + "UniProtKB\tP1\tA\n", r"a.txt:10: not a line of GAF 2"),
    (GAF + gaf_line("A", "HP:0000001"), r"a.txt:10: not a line of GAF 2"),
    (GAF + gaf_line("A", go(2), taxon=10090), r"a.txt:10: a line of taxon 10090"),
    ("9606\t10\tGO:0000002\tIDA\t-\tb\t1\tFunction\n9606\t10\tGO:2\n", r"a.txt:2: not a line of gene2go"),
    ("a (GO:0000002)\t\tA\nb\tc\tA\n", r"a.txt:2: this gene set has no GO identifier"),
    ("! nothing\n", r"not one line that is not a comment"),
    ("gene\tterm\nA\tB\n", r"a.txt:1: neither GAF, gene2go nor a gene set"),
    ("a (GO:0000002)\t\n", r"holds no annotation"),
])
def test_broken_annotations_are_refused_where_they_break(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_annotations(path)


@pytest.mark.parametrize("wrong", [{"levels_below_root": 0}, {"min_genes": 0}, {"max_share": 0.0}, {"max_share": 1.5}])
def test_settings_without_meaning(tmp_path, wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = "):
        go_labels(obo_file(tmp_path, stanza(1)), pd.DataFrame({"key": ["A"], "term": [go(1)]}), "f", **wrong)


def test_terms_that_nearly_all_genes_bear_can_be_left_out(tmp_path):
    path = obo_file(tmp_path, stanza(1, name="f"), stanza(2, f"is_a: {go(1)}"), stanza(3, f"is_a: {go(1)}"))
    table = pd.DataFrame({"key": list("ABCDA"), "term": [go(2)] * 4 + [go(3)]})
    assert set(go_labels(path, table, "f", 1, min_genes=1)["value"]) == {go(2), go(3)}
    assert set(go_labels(path, table, "f", 1, min_genes=1, max_share=0.75)["value"]) == {go(3)}
    with pytest.raises(InputError, match="2 terms are at that level, the largest with 4 genes; levels go down to 1"):
        go_labels(path, table, "f", 1, min_genes=5)


@pytest.fixture(scope="module")
def real(shared_data):
    return read_obo(shared_data / "go/go_isa_from_ontologyIndex.obo.gz")


def test_the_real_graph_equals_networkx(shared_data, real):
    text = gzip.open(shared_data / "go/go_isa_from_ontologyIndex.obo.gz", "rt").read()
    graph, names, obsolete = nx.DiGraph(), {}, 0
    for block in text.split("[Term]\n")[1:]:
        tags = [line.split(": ", 1) for line in block.splitlines() if ": " in line]
        own = dict(tags)
        if own.get("is_obsolete") == "true":
            obsolete += 1
            continue
        names.setdefault(own.get("namespace", ""), set()).add(own["id"])
        graph.add_edges_from((own["id"], parent) for tag, parent in tags if tag == "is_a")
    assert obsolete == len(real.obsolete) == 5287 and len(real.edges) == graph.number_of_edges() == 67581
    assert {name: len(terms) for name, terms in names.items()} == real.terms["namespace"].value_counts().to_dict() == {
        "biological_process": 27186, "molecular_function": 11198, "cellular_component": 4058, "": 6}  # six relations, which that index holds as terms
    for namespace, root in (("molecular_function", "GO:0003674"), ("biological_process", "GO:0008150"), ("cellular_component", "GO:0005575")):
        below = dict(nx.single_source_shortest_path_length(graph.reverse(), root))
        assert levels(real, namespace).to_dict() == below and set(below) == names[namespace]
        deepest = {root: 0}
        for term in reversed(list(nx.topological_sort(graph.subgraph(names[namespace])))):
            deepest[term] = max((deepest[parent] + 1 for parent in graph.successors(term)), default=0)
        assert levels(real, namespace, "longest").to_dict() == deepest
    reach, index = ancestry(real), real.terms.index
    for row in np.random.default_rng(0).choice(len(real), 300, replace=False):
        assert set(index[reach[[row]].indices]) == {index[row]} | nx.descendants(graph, index[row])


def test_a_slim_with_part_of_and_alternative_ids(shared_data):
    slim = read_obo(shared_data / "go/goslim_generic.obo.gz")
    text = gzip.open(shared_data / "go/goslim_generic.obo.gz", "rt").read().partition("[Typedef]")[0]
    assert len(slim) == 149 and not slim.obsolete
    assert slim.edges["relation"].value_counts().to_dict() == {relation: len(re.findall(pattern, text, re.M)) for relation, pattern in
                                                               (("is_a", "^is_a: "), ("part_of", "^relationship: part_of "))}
    assert slim.replaced == {other: next(re.findall(r"^id: (\S+)", block, re.M)[0] for block in text.split("\n\n") if f"alt_id: {other}\n" in block + "\n")
                             for other in re.findall(r"^alt_id: (\S+)", text, re.M)}
    assert slim.resolve(["GO:0019952"]).tolist() == slim.resolve(["GO:0000003"]).tolist() != [-1]


@pytest.mark.parametrize("name", SETS)
def test_real_gene_sets_are_read_whole(shared_data, name):
    path = shared_data / f"go/enrichr.GO_{name}.gz"
    table = read_annotations(path)
    expected = []
    for number, line in enumerate(gzip.open(path, "rt"), start=1):
        term = re.search(r"\((GO:\d{7})\)", line)
        expected += [(gene, term[1], number) for gene in re.split(r"[,\t]", line[term.end():].lstrip('"').rstrip("\n")) if gene]
    assert list(zip(table["key"], table["term"], table["line"])) == expected
    assert table["line"].nunique() == SETS[name]
