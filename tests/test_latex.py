"""A real LaTeX takes the tables and the papers to cite; issue 6, point 1."""

import shutil
import subprocess
from pathlib import Path

import pytest
from test_render import board_of, hostile_board, messy

from um_bench.leaderboard import read_board
from um_bench.render import render

pytestmark = pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("bibtex")),
    reason="needs pdflatex and bibtex (Debian: texlive-latex-recommended)",
)
LEADERBOARDS = Path(__file__).parents[1] / "leaderboards"
CLASSES = {
    "one column": r"\documentclass{article}",
    "two columns": r"\documentclass[twocolumn]{article}\usepackage[margin=1in]{geometry}",
}


def compiled(folder, board, document=CLASSES["one column"], **view):
    """The log of LaTeX on a paper with the tables and all that they cite."""
    (folder / "table.tex").write_text(render(board, "latex", **view), encoding="utf-8")
    (folder / "all.bib").write_text(render(board, "bibtex"), encoding="utf-8")
    (folder / "paper.tex").write_text(
        document + "\\usepackage{booktabs,graphicx}\n"
        "\\begin{document}\n\\input{table.tex}\n\\nocite{*}\\bibliographystyle{plain}"
        "\\bibliography{all}\n\\end{document}\n",
        encoding="utf-8",
    )
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper"]
    bibtex = [["bibtex", "paper"]] if board.info.papers else []
    for command in (latex, *bibtex, latex):
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    return (folder / "paper.log").read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("document", CLASSES.values(), ids=CLASSES)
def test_the_digits_table_fits_the_page_and_cites_its_papers(document, tmp_path):
    board = read_board(LEADERBOARDS / "digits-far-ood")
    log = compiled(tmp_path, board, document)
    assert "Overfull" not in log
    assert "Float too large" not in log
    assert "multiply defined" not in log
    titles = {one.paper.title.casefold() for one in board.info.papers}
    listed = (tmp_path / "paper.bbl").read_text(encoding="utf-8").count("\\bibitem")
    assert listed == len(titles) > 10


@pytest.mark.parametrize("make", [board_of, messy, hostile_board])
def test_whatever_the_names_are(make, tmp_path):
    assert (
        "Overfull \\hbox" not in compiled(tmp_path, make(), per_set=True).split("(./table.tex")[0]
    )
    assert (tmp_path / "paper.pdf").exists()
