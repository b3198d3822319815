"""BuildReport: a line for every reason, counts that add up, and names from outside that cannot become markup."""
import pandas as pd

from isoclr.data.build import StoreConfig, build_store
from isoclr.data.report import BuildReport
from isoclr.data.selection import DROP_REASONS
from test_annotation import genepred
from test_build import CODING, one_species, transcript
from test_genome import write_fasta


def test_a_line_for_every_reason(tmp_path):
    rows = [CODING, transcript("long", [(0, 150)], (0, 30)), transcript("none", [(0, 60)])]
    sources = one_species(tmp_path, write_fasta(tmp_path / "g.fa", {"chr1": "ACGTN" * 40}), genepred(rows, "extended"))
    homology = pd.DataFrame([("s", "T1", "7")], columns=["species", "gene_name", "homology_group"])
    config = StoreConfig(max_length_nt=100, only=("T1", "long", "none", "<b>nobody</b>"))
    report = build_store(tmp_path / "store", sources, homology, config, progress=False).report
    table = report.table
    assert set(DROP_REASONS) < set(table.index) and (table.loc[list(DROP_REASONS), "meaning"] != "").all()
    assert table.s[["read", "kept", "too_long", "non_coding", "not_listed"]].tolist() == [3, 1, 1, 1, 0]
    assert table.s["read"] == table.s["kept"] + table.s[list(DROP_REASONS)].sum() and table.s["unknown_nucleotides"] == 12
    assert table.option["too_long"] == "max_length_nt=100" and table.option["no_exons"] == ""
    assert report.rows("too_long").transcript_id.tolist() == ["long"] and report.rows("too_long").detail.tolist() == ["150 nt"] and len(report.rows("too_short")) == 0
    assert report.not_found == ("<b>nobody</b>",)
    html = report._repr_html_()
    assert "1 of 3 transcripts kept" in html and "&lt;b&gt;nobody" in html and "<b>nobody" not in html and "by symbol" in html
    assert "too_long" in repr(report) and "too_short" not in repr(report)


def test_notes_of_one_kind_share_a_line():
    def counts(notes):
        return {"read": 1, "kept": 1, "dropped": {}, "notes": notes}

    report = BuildReport({"a": counts({"columns not used: x, y": 2}), "b": counts({"columns not used: z": 1})}, pd.DataFrame(), StoreConfig().to_dict())
    assert report.table.loc["columns_not_used", ["a", "b"]].tolist() == [2, 1]
