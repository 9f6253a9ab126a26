"""What a table cites: the adapters' and detectors' papers, from the classes to BibTeX."""

import re
import shutil
import subprocess
from importlib.metadata import entry_points

import pytest
import synthetic
from pytorch_ood.detector import KNN

from um_bench.adapters import cited, create
from um_bench.leaderboard import make_board
from um_bench.papers import Cited, Paper, paper_of
from um_bench.render import render
from um_bench.suite import parse_adapter

OURS = Paper("Unleashing Mask", "ICML", 2023, "https://arxiv.org/abs/2306.03715")
HOSTILE = Paper(
    "}\\input{/etc/passwd} 100 % \\ of {", "arXiv\n}@string{a=b}", 2024, "http://a/b}\\input{c} %d"
)


def bibtex(*papers):
    return render(make_board(synthetic.sweep(), synthetic.info(papers=papers)), "bibtex")


def test_an_entry_has_what_is_known_of_a_paper():
    assert bibtex(Cited("adapter", "um", OURS)) == (
        "% adapter um\n@inproceedings{um2023,\n  title = {{Unleashing Mask}},\n"
        "  booktitle = {ICML},\n  year = {2023},\n  url = {https://arxiv.org/abs/2306.03715},\n}"
    )


def test_a_paper_has_one_entry_whoever_cites_it_and_wherever_it_lies():
    elsewhere = OURS._replace(title="unleashing mask", url="https://openreview.net")
    text = bibtex(
        Cited("adapter", "um", OURS),
        Cited("detector", "um", OURS._replace(title="Another")),
        Cited("adapter", "umap", elsewhere),
    )
    assert re.findall(r"@\w+\{(.*),", text) == ["um2023", "um2023x"]
    assert "% adapter um, adapter umap\n" in text


@pytest.mark.parametrize(
    ("venue", "entry"),
    [
        ("ICLR", "@inproceedings"),
        ("arXiv", "@misc"),
        ("Machine Vision and Applications", "@article"),
    ],
)
def test_the_kind_of_entry_follows_the_venue(venue, entry):
    assert entry in bibtex(Cited("detector", "a", OURS._replace(venue=venue)))


def test_hostile_text_stays_text():
    text = bibtex(Cited("adapter", "@string{x", HOSTILE))
    assert len(re.findall("@", text)) == 2  # the entry's, and one in a value
    assert "\\input" not in text.replace("\\textbackslash{}input", "")
    assert "\n}@" not in text


def test_a_board_that_knows_no_paper_says_so():
    assert "names no paper" in bibtex()


@pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("bibtex")), reason="needs pdflatex and bibtex"
)
def test_latex_takes_it(tmp_path):
    papers = [Cited("adapter", "um", OURS), Cited("adapter", "@string{x", HOSTILE)]
    (tmp_path / "all.bib").write_text(bibtex(*papers), encoding="utf-8")
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\begin{document}\\nocite{*}\\bibliographystyle{plain}"
        "\\bibliography{all}\\end{document}",
        encoding="utf-8",
    )
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "a.tex"]
    for command in (latex, ["bibtex", "a"], latex):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "a.bbl").read_text(encoding="utf-8").count("\\bibitem") == 2


def test_parts_and_stages_are_cited_each():
    label = "um@constraint=0.15>oe+um"
    found = list(cited(label, create(parse_adapter(label))))
    assert [one.name for one in found] == ["um", "oe", "um"]
    assert all(one.kind == "adapter" for one in found)
    assert "Unleashing Mask" in found[0].paper.title


def test_every_adapter_that_comes_with_um_bench_names_its_paper():
    names = {
        point.name
        for point in entry_points(group="um_bench.adapters")
        if point.value.startswith("um_bench")
    }
    without = {name for name in names if not list(cited(name, create(parse_adapter(name))))}
    assert len(names) > 15
    assert without == {"none", "finetune"}


def test_a_class_of_pytorch_ood_says_where_it_comes_from():
    paper = paper_of(KNN)
    assert (paper.venue, paper.year) == ("ICML", 2022)
    assert paper_of(object) is None
