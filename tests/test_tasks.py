"""Label tables: matching, accounting, refusals."""
import gc
import gzip
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError, InputError
from isoclr.probe.tasks import OUTCOMES, TaskConfig, load_task, load_tasks, read_table


def transcripts(rows):
    "A stand-in for a store's table: (transcript_id, species, bare gene id, gene name) each."
    table = pd.DataFrame(rows, columns=["transcript_id", "species", "gene_id", "gene_name"])
    table["gene_id"] = table["species"] + ":" + table["gene_id"]
    return table


STORE = transcripts([
    ("ENST00000000001.4", "human", "ENSG00000000001.2", "AAA"),
    ("ENST00000000002.1", "human", "ENSG00000000001.2", "AAA"),
    ("ENST00000000003.9", "human", "ENSG00000000002.7", "NA"),
    ("ENST00000000004.1", "human", "ENSG00000000003.1", "TWIN"),
    ("ENST00000000005.1", "human", "ENSG00000000004.1", "TWIN"),
    ("NM_1.1", "mouse", "Aaa", "AAA"),
    ("NM_2.1", "mouse", "Bbb", ""),
])


def task_of(tmp_path, text, store=STORE, **settings):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    return load_task(TaskConfig.from_dict({"name": "t", "path": str(path), "value": "y", **settings}), store)


def test_transcript_labels_go_to_rows_whatever_the_version(tmp_path):
    task = task_of(tmp_path, "transcript_id,species,y\nENST00000000002,human,1\nNM_2.5,mouse,2\nNM_2.1,rat,3\n")
    assert task.config.level == "transcript" and task.rows.tolist() == [1, 6]
    assert task.units.tolist() == ["human|ENST00000000002.1", "mouse|NM_2.1"] and task.labels.tolist() == [1, 2]
    assert task.features(np.arange(7)[:, None]).ravel().tolist() == [1, 6]
    outcomes = {"matched": 2, "repeated": 0, "unmatched": 1, "ambiguous": 0, "conflicting": 0, "missing": 0}
    assert task.counts() == {"lines": 3, **outcomes, "unlabelled": 5}


def test_gene_labels_go_to_the_mean_of_a_gene(tmp_path):
    task = task_of(tmp_path, "gene_id\ty\nENSG00000000001\t3\nENSG00000000003.8\t4\n", match="gene_id", species="human")
    assert task.config.level == "gene" and task.units.tolist() == ["human:ENSG00000000001.2", "human:ENSG00000000003.1"]
    assert task.features(np.arange(14.0).reshape(7, 2)).tolist() == [[1, 2], [6, 7]]
    assert task.of_units(np.array(list("aabcdef"))).tolist() == ["a", "c"]
    with pytest.raises(InputError, match="ENSG00000000001.2 differ"):
        task.of_units(np.arange(7))


def test_names_stay_inside_their_species_and_are_taken_literally(tmp_path):
    text = "symbol\ty\nAAA\t1\naaa\t2\nNA\t3\nTWIN\t4\n\t5\n"
    human = task_of(tmp_path, text, key="symbol", match="gene_name", species="human")
    assert human.units.tolist() == ["human:ENSG00000000001.2", "human:ENSG00000000002.7"] and human.labels.tolist() == [1, 3]
    assert human.report["outcome"].tolist() == ["matched", "unmatched", "matched", "ambiguous", "unmatched"]
    both = task_of(tmp_path, "gene_name\tspecies\ty\nAAA\tmouse\t7\nAAA\thuman\t8\n", match="gene_name")
    assert dict(zip(both.units, both.labels)) == {"human:ENSG00000000001.2": 8, "mouse:Aaa": 7}


def test_a_transcript_at_two_loci_is_ambiguous(tmp_path):
    store = transcripts([(name, "human", gene, gene) for name, gene in (("NM_9", "X"), ("NM_9", "X"), ("NM_8", "Y"), ("NM_7", "Z"))])
    task = task_of(tmp_path, "transcript_id\ty\nNM_9\t1\nNM_8\t2\nNM_7\t3\n", store, species="human")
    assert task.report["outcome"].tolist() == ["ambiguous", "matched", "matched"] and task.rows.tolist() == [2, 3]


def test_repeated_conflicting_and_missing_lines(tmp_path):
    text = "gene_name,y\nAAA,1\nAAA,1.0\nNA,2\nNA,3\nNA,\n"
    with pytest.raises(InputError, match="all 1 matched labels"):
        task_of(tmp_path, text, match="gene_name", species="human")
    store = pd.concat([STORE, transcripts([("x", "human", "x", "x")])], ignore_index=True)
    task = task_of(tmp_path, text + "x,5\n", store, match="gene_name", species="human")
    assert task.report["outcome"].tolist() == ["matched", "repeated", "conflicting", "conflicting", "missing", "matched"]
    assert task.labels.tolist() == [1, 5] and "human:ENSG00000000002.7" in task.unlabelled


def test_classes_are_sorted_codes(tmp_path):
    task = task_of(tmp_path, "gene_name\ty\nAAA\tzinc\nNA\tkinase\n", match="gene_name", species="human", kind="multiclass")
    assert task.classes == ("kinase", "zinc") and task.labels.tolist() == [1, 0] and task.labels.dtype.kind == "i"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(*map(st.sampled_from, ("ABCDEZ", ["human", "mouse", "rat"], ["1", "2", "", "NaN"]))), max_size=25))
def test_every_line_has_one_outcome_and_labels_equal_a_slow_count(tmp_path_factory, lines):
    genes = {"human": ["aA", "aA", "bB", "dD"], "mouse": ["bB", "cC", "eC"]}  # gene id and name
    store = transcripts([(f"t{i}", species, gene, name) for species in genes for i, (gene, name) in enumerate(genes[species])])
    text = "gene_name\tspecies\ty\n" + "".join("\t".join(line) + "\n" for line in lines)
    expected = {}
    for name, species, value in lines:
        genes = set(store.loc[(store.species == species) & (store.gene_name == name), "gene_id"])
        if len(genes) == 1 and value not in ("", "NaN"):
            expected.setdefault(genes.pop(), set()).add(float(value))
    expected = {gene: values.pop() for gene, values in expected.items() if len(values) == 1}
    if len(set(expected.values())) < 2:
        with pytest.raises(InputError):
            task_of(tmp_path_factory.mktemp("t"), text, store, match="gene_name")
        return
    task = task_of(tmp_path_factory.mktemp("t"), text, store, match="gene_name")
    assert dict(zip(task.units, task.labels)) == expected
    counts = task.counts()
    assert counts["lines"] == len(lines) == sum(counts[outcome] for outcome in OUTCOMES) and counts["matched"] == len(expected)
    of_these_species = store[store.species.isin({species for _, species, _ in lines})]
    assert set(task.units) | set(task.unlabelled) == set(of_these_species.gene_id) and not set(task.units) & set(task.unlabelled)


@pytest.mark.parametrize("text, settings, message", [
    ("gene_name\ty\nAAA\tlong\n", {}, r"labels.txt:2: 'long' in column 'y' is not a finite number"),
    ("gene_name\ty\nAAA\t1\nNA\tinf\n", {}, r"labels.txt:3: 'inf'"),
    ("symbol\ty\nAAA\t1\n", {}, r"labels.txt:1: no column 'gene_name'"),
    ("gene_name\tY\nAAA\t1\n", {}, r"no column 'y'"),
    ("gene_name\ty\nAAA\t1\n", {"species": ""}, r"no column 'species'"),
    ("gene_name\ty\nAAA\t1\n", {"species": "humam"}, r"Did you mean 'human'"),
    ("gene_name\ty\nQQQ\t1\nRRR\t2\n", {}, r"2 unmatched.*\['QQQ', 'RRR'\].*'AAA'"),
    ("gene_name\ty\nAAA\t1\nNA\t1\n", {}, r"all 2 matched labels .* are 1.0\."),
    ("gene_name\ty\nAAA\tk\nNA\tk\n", {"kind": "multiclass"}, r"all 2 matched labels .* are k\."),
    ("gene_name\ty\n", {}, r"it has no lines"),
    ("", {}, r"not a table"),
])
def test_refusals(tmp_path, text, settings, message):
    with pytest.raises(InputError, match=message):
        task_of(tmp_path, text, **{"match": "gene_name", "species": "human", **settings})


@pytest.mark.parametrize("settings, message", [
    ({"match": "symbol"}, "match = 'symbol'"), ({"kind": "multi-class"}, "Did you mean 'multiclass'"),
    ({"name": ""}, "name is empty"), ({"valu": "y"}, "Did you mean 'value'"),
])
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        TaskConfig.from_dict({"name": "t", "path": "p", "value": "y", **settings})


TABLE = b"gene_name\ty\nAAA\t1\nNA\t2\n"
FILES = {
    "plain.tsv": (TABLE, None), "packed.tsv.gz": (gzip.compress(TABLE), None), "mark.tsv": (b"\xef\xbb\xbf" + TABLE, None),
    "packed_by_another_name.txt": (gzip.compress(TABLE[:20]) + gzip.compress(TABLE[20:]), None),
    "cut.tsv.gz": (gzip.compress(TABLE)[:-6], "cut.tsv.gz: the compressed file is cut off or damaged"), "latin.tsv": (b"gene\ty\nB\xe9b\t1\n", "latin.tsv is not a table .*UTF-8"),
    "latin_header.tsv.gz": (gzip.compress(b"g\xe8ne\ty\n"), "latin_header.tsv.gz is not a table"), "empty.tsv": (b"", "empty.tsv is not a table"),
    "ragged.tsv": (TABLE + b"x\t1\t2\n", r"ragged.tsv is not a table .*Expected 2 fields in line 4, saw 3"),
    "row_names.tsv": (b"gene_name\ty\n1\tAAA\t1\n2\tNA\t2\n", r"row_names.tsv:2: more fields than the header has names.*col.names=NA"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_or_refused_and_closed(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if message:
            with pytest.raises(InputError, match=message):
                read_table(tmp_path / name)
        else:
            assert read_table(tmp_path / name).to_dict("list") == {"gene_name": ["AAA", "NA"], "y": ["1", "2"]}
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(InputError, match="is a folder, not a file"):
        read_table(tmp_path)


def test_a_line_without_one_of_several_labels_is_missing(tmp_path):
    task = task_of(tmp_path, "gene_name\ty\nAAA\ta;b\nNA\t ; \nAAA\tb\nNA\tb\n", match="gene_name", species="human", kind="multilabel")
    assert task.report["outcome"].tolist() == ["matched", "missing", "repeated", "matched"] and task.classes == ("a",) and task.left_out == ("b",)


def test_missing_file_names_itself(tmp_path):
    with pytest.raises(InputError, match="nowhere.tsv does not exist"):
        load_task(TaskConfig("t", str(tmp_path / "nowhere.tsv"), "y"), STORE)


@pytest.mark.parametrize("species, annotation, expected, renamed", [
    ("human", "hg38.regions.refseq", 279, {"ADISSP", "DNAAF9", "IFT25", "METTL13"}),
    ("mouse", "mm10.regions.gencodeVM18", 216, set()),
])
def test_half_life_of_the_real_regions_by_symbol(shared_data, species, annotation, expected, renamed):
    """By Ensembl id 283 human and 215 mouse coding genes have a half-life (README of the fixture); by symbol 279 and 216.

    Four human genes were renamed after the half-life table was made (C20orf27 is ADISSP now, …). The mouse symbol Nav1 stands in the
    half-life table beside another Ensembl id than in the fixture's gene table.
    """
    table = pd.read_csv(shared_data / f"annotation/{annotation}.genePred.tsv.gz", sep="\t")
    table = table[table.cdsStart < table.cdsEnd]
    store = transcripts([(name, species, gene, gene) for name, gene in zip(table["name"], table["name2"])])
    config = TaskConfig("half_life", str(shared_data / f"halflife/saluki_all_HLs_{species}_PC1.txt.gz"), f"{species}_PC1",
                        key="external_gene_name", match="gene_name", species=species)
    task = load_task(config, store)
    genes = pd.read_csv(shared_data / f"annotation/{'hg38' if species == 'human' else 'mm10'}.regions.genes.tsv.gz", sep="\t")
    by_id = set(genes.loc[genes.halflife_pc1.notna() & genes.gene.isin(table["name2"]), "gene"])
    by_symbol = {unit.removeprefix(f"{species}:") for unit in task.units}
    assert len(task) == expected and by_id - by_symbol == renamed and by_symbol - by_id == ({"Nav1"} if species == "mouse" else set())
    with gzip.open(config.path, "rt") as lines:
        assert task.counts()["lines"] == sum(1 for _ in lines) - 1
    assert task.counts()["ambiguous"] == task.counts()["conflicting"] == 0
    assert len(task) + len(task.unlabelled) == table["name2"].nunique()
    values = genes.set_index("gene").halflife_pc1
    found = {unit.removeprefix(f"{species}:"): label for unit, label in zip(task.units, task.labels)}
    assert all(found[symbol] == pytest.approx(values[symbol]) for symbol in by_symbol & by_id)


def test_labels_spread_over_rows(tmp_path):
    task = task_of(tmp_path, "gene_name\ty\nAAA\t3\nNA\t4\n", match="gene_name", species="human")
    assert task.of_rows(7)[:3].tolist() == [3, 3, 4] and np.isnan(task.of_rows(7)[3:]).all()
    classes = task_of(tmp_path, "gene_name\ty\nAAA\tz\nNA\tk\n", match="gene_name", species="human", kind="multiclass")
    assert classes.of_rows(7).tolist() == ["z", "z", "k", None, None, None, None]


def test_a_list_of_tasks(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "y.tsv").write_text("gene_name\ty\nAAA\t3\nNA\t4\n")
    settings = {"name": "a", "path": "labels/y.tsv", "value": "y", "match": "gene_name", "species": "human"}
    listed = tmp_path / "tasks.json"
    listed.write_text(json.dumps([settings, {**settings, "name": "b", "path": str(tmp_path / "labels" / "y.tsv")}]))
    assert [(task.config.name, len(task)) for task in load_tasks(listed, STORE)] == [("a", 2), ("b", 2)]
    for text, message in (("[{]", "tasks.json:1: not JSON"), ('{"name": "a"}', "must hold a list of tasks")):
        listed.write_text(text)
        with pytest.raises(InputError, match=message):
            load_tasks(listed, STORE)
    listed.write_text(json.dumps([settings, settings]))
    with pytest.raises(ConfigError, match="two tasks called 'a'"):
        load_tasks(listed, STORE)
    listed.write_text(json.dumps([{**settings, "matches": "gene_name"}]))
    with pytest.raises(ConfigError, match="Did you mean 'match'"):
        load_tasks(listed, STORE)
