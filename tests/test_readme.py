"What README.md promises, its Chinese version, and CITATION.cff: in step, and true."
import ast
import json
import re
from collections import Counter
from configparser import ConfigParser

import pytest
import yaml

from lm336 import load_preset

from .conftest import ROOT

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
REPORT = (ROOT / "data/demo/report.md").read_text(encoding="utf-8")


def read(path) -> str:
    return path.read_text(encoding="utf-8")


def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def blocks(text: str) -> list[tuple[str, str]]:
    "The language and the code of every block, without comments, which are translated."
    return [(kind, re.sub(r"(?m)\s+# .*$", "", code)) for kind, code in BLOCK.findall(text)]


def without_code(text: str) -> str:
    return BLOCK.sub("", text)


def links(text: str) -> list[str]:
    return [one or other for one, other in LINK.findall(without_code(text))]


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"(?m)^(#+) ", without_code(text))]


def code_in(text: str) -> Counter:
    return Counter(re.findall(r"`([^`\n]+)`", without_code(text)))


def items(text: str) -> int:
    return len(re.findall(r"(?m)^- ", without_code(text)))


def quoted(text: str) -> list[str]:
    return re.findall(r"(?m)^> (.+)$", text)


def code_of(kind: str) -> list[str]:
    return [code for language, code in blocks(read(README)) if language == kind]


def test_the_chinese_readme_has_the_same_code():
    assert blocks(read(CHINESE)) == blocks(read(README))


def test_the_chinese_readme_has_the_same_links_and_links_back():
    english, chinese = Counter(links(read(README))), Counter(links(read(CHINESE)))
    english["README.zh-CN.md"] -= 1
    chinese["README.md"] -= 1
    assert english == chinese
    for path, other in ((README, CHINESE), (CHINESE, README)):
        top = read(path).split("\n> ")[0]
        assert links(top) == [other.name], f"{path.name} begins with a link to {other.name}"


def test_the_chinese_readme_has_the_same_parts():
    english, chinese = read(README), read(CHINESE)
    assert headings(chinese) == headings(english)
    assert items(chinese) == items(english)
    assert quoted(chinese)[1:] == quoted(english)[1:], "a story is quoted as it was written"
    paragraphs = [len(re.split(r"\n{2,}", text.strip())) for text in (english, chinese)]
    assert paragraphs[0] == paragraphs[1]


def test_the_chinese_readme_names_the_same_commands():
    english, chinese = read(README), read(CHINESE)
    # the first comment says where each is made, and differs
    bare = [re.sub(r"(?s)<!--.*?-->", "", text) for text in (english, chinese)]
    assert code_in(bare[0]) == code_in(bare[1])


def test_the_chinese_readme_has_chinese_punctuation():
    "And no Latin comma, colon, question or exclamation mark after a Chinese character."
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]+>", "", without_code(read(CHINESE)))
    assert re.findall(r".*[\u4e00-\u9fff][,;:?!].*", text) == []


@pytest.mark.parametrize("path", [README, CHINESE], ids=lambda path: path.name)
def test_what_a_readme_links_to_is_there(path):
    cfg = settings()
    colab = "https://colab.research.google.com/github/lm336/lm336/blob/main/"
    for link in links(read(path)):
        if link.startswith(colab):
            link = link.removeprefix(colab)
        if link.startswith("https://"):
            ours = (cfg["doc_host"] + cfg["doc_baseurl"], "https://nbdev.fast.ai")
            assert link.startswith(ours), f"{path.name} links to {link}"
        else:
            assert (ROOT / link.partition("#")[0]).is_file(), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", [README, CHINESE], ids=lambda path: path.name)
def test_a_readme_is_markdown_with_one_picture_of_html(path):
    "So it looks the same where classes and columns are not known."
    tags = re.findall(r"<(?!!)/?(\w+)", without_code(read(path)))
    assert tags == ["p", "img", "p"]
    assert all(re.findall(r'<img [^>]*\balt="[^"]+"', read(path)))
    assert re.findall(r"!\[\s*\]", read(path)) == []


def test_the_first_lines_have_what_a_visitor_looks_for():
    "The sentence, the picture, the site, Colab, the clone, two commands with their costs."
    top = read(README).split("\n## ")[0]
    assert f"> {settings()['description']}\n" in top
    assert links(top)[1:4] == [
        settings()["doc_host"] + settings()["doc_baseurl"] + "/",
        "https://colab.research.google.com/github/lm336/lm336/blob/main/nbs/tour.ipynb",
        "nbs/sampler.gif",
    ]
    assert f"git clone {settings()['git_url']}\n" in top
    for command in ("make demo", "make test"):
        assert re.search(rf"(?m)^{command} +# .*\d+ minutes, \d\.\d GB$", top), command


@pytest.mark.parametrize("path", [README, CHINESE], ids=lambda path: path.name)
def test_the_picture_and_the_commands_come_before_all_that_is_to_be_read(path):
    "So both are on the first screen: the title and four lines stand above them."
    parts = re.sub(r"(?s)<!--.*?-->\n*", "", read(path)).split("\n\n")
    begins = ["# ", "", "> ", "**[", "<p><img ", "```bash\ngit clone "]
    assert list(map(str.startswith, parts, begins)) == [True] * 6
    assert len(parts[5].splitlines()) <= 6


def test_the_costs_are_those_that_make_announces():
    makefile = read(ROOT / "Makefile")
    minutes = re.findall(r"(?m)^\t@echo \"make (\w+): .*?(\d+) minutes", makefile)
    (gigabytes,) = re.findall(r"([\d.]+) GB for the demo, ([\d.]+) GB with", makefile)
    for path, unit in ((README, " minutes, "), (CHINESE, " 分钟，")):
        said = re.findall(rf"(?m)^make (\w+) .*?(\d+){unit}([\d.]+) GB$", read(path))
        assert [one[:2] for one in said] == minutes
        assert tuple(one[2] for one in said) == gigabytes


def test_the_pictures_are_small():
    assert (ROOT / "nbs/sampler.gif").stat().st_size < 1_500_000
    assert (ROOT / "nbs/loss.png").stat().st_size < 150_000


def test_the_figures_are_those_of_the_run():
    found = re.search(r"; ([\d.]+%) above the entropy floor", REPORT)
    parameters = re.search(r"\| parameters \| ([\d,]+) \|", REPORT)
    assert found and parameters
    millions = int(parameters[1].replace(",", "")) / 1e6
    lines = read(ROOT / "data/demo/metrics.jsonl").splitlines()
    minutes = round(json.loads(lines[-1])["seconds"] / 60)
    english, chinese = read(README), read(CHINESE)
    assert f"{millions:.1f} million parameters" in english
    assert f"{minutes} minutes on two CPU cores" in english.replace("\n", " ")
    assert f"ends {found[1]} above" in english
    assert read(README).startswith(f"# lm336: a language model from nothing, {found[1]} from")
    assert f"{10 * round(10 * millions)} 万个参数" in chinese
    assert f"{minutes} 分钟" in chinese and f"高 {found[1]}" in chinese
    assert chinese.splitlines()[0].endswith(f"离完美只差 {found[1]}")


def test_the_story_is_one_that_the_run_wrote():
    (story,) = quoted(read(README))[1:]
    assert story in read(ROOT / "data/demo/samples.md").split("\n")


def test_the_preset_is_one(tmp_path):
    (code,) = code_of("json")
    path = tmp_path / "my.json"
    path.write_text(code, encoding="utf-8")
    data, model, training = load_preset(path)
    assert data == "my.txt" and model.num_layers == 6
    assert training.warmup_steps < training.max_steps
    assert training.min_learning_rate < training.learning_rate


def test_the_program_stops_at_the_end_of_the_story():
    (code,) = code_of("python")
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    generate = [one for one in calls if getattr(one.func, "attr", "") == "generate"]
    assert ["stop_token" in [word.arg for word in one.keywords] for one in generate] == [True]


def test_the_citation_is_valid_and_of_this_version():
    cited, cfg = yaml.safe_load(read(ROOT / "CITATION.cff")), settings()
    required = {"cff-version", "message", "title", "authors"}
    known = {"type", "abstract", "version", "license", "repository-code", "url", "keywords"}
    assert required <= cited.keys() <= required | known
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["version"] == cfg["version"]
    assert cited["authors"] == [{"name": cfg["author"]}]
    assert cited["license"] == "Apache-2.0"
    assert cited["repository-code"] == cfg["git_url"]
    assert cited["url"] == cfg["doc_host"] + cfg["doc_baseurl"]
    bibtex = dict(re.findall(r"(?m)^  (\w+) += \{+(.*?)\}+,?$", code_of("bibtex")[0]))
    assert bibtex["title"] == cited["title"]
    assert bibtex["author"] == cited["authors"][0]["name"]
    assert bibtex["url"] == cited["repository-code"]


def test_the_sdist_has_what_the_package_index_shows_and_the_citation():
    (first, *_) = read(ROOT / "MANIFEST.in").splitlines()
    assert {"README.md", "README.zh-CN.md", "CITATION.cff", "LICENSE"} <= set(first.split())
