"""The book explains every term no later than it uses it, and the glossary is in step."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIST = json.loads((ROOT / "nbs/terms.json").read_text(encoding="utf-8"))
TERMS = {term["term"]: term for term in LIST["terms"]}
SYMBOL = {"symbol", "name", "shape", "means", "page"}


@pytest.fixture(scope="module")
def terms():
    "What .ci/terms.py defines."
    return runpy.run_path(str(ROOT / ".ci/terms.py"))


@pytest.mark.parametrize("name", TERMS)
def test_term_is_explained_no_later_than_it_is_used(name, terms):
    assert terms["faults_of"](TERMS[name]) == []


def test_every_term_has_one_sentence():
    assert len(TERMS) == len(LIST["terms"]) >= 60, "a term is there twice"
    for name, term in TERMS.items():
        assert term["means"].endswith("."), f"{name}: a sentence ends in a full stop"
        assert len(term["means"].split()) <= 35, f"{name}: more than a sentence"
        assert term["spellings"], f"{name} has no spelling to look for"


def test_every_symbol_has_a_meaning_and_a_page(terms):
    assert len(LIST["symbols"]) >= 20
    for each in LIST["symbols"]:
        assert each.keys() == SYMBOL and each["means"] and each["name"], each
        assert each["page"] in terms["pages"](), each


def test_a_late_explanation_is_noticed(terms):
    term = dict(TERMS["softmax"], page="19_bug_zoo", words="Why do these bugs live so long?")
    term.pop("first", None)
    (fault,) = terms["faults_of"](term)
    assert "used in nbs/" in fault and "explained in 19_bug_zoo" in fault
    gone = dict(term, words="words that no page has")
    assert "does not say" in terms["faults_of"](gone)[0]


def test_glossary_is_in_step(terms):
    assert (ROOT / "nbs/glossary.ipynb").read_text(encoding="utf-8") == terms["glossary"](), (
        "run python .ci/terms.py --write"
    )
