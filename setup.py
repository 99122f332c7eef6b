"Installation: everything it says is read from settings.ini, which nbdev reads too."
import json
import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
SITE = cfg["doc_host"] + cfg["doc_baseurl"]
FILES = f"{cfg['git_url']}/blob/{cfg['branch']}/"
PICTURES = cfg["git_url"].replace("github.com", "raw.githubusercontent.com") + f"/{cfg['branch']}/"


def absolute_links(markdown: str) -> str:
    "README.md as an index of packages can show it: what it links to lies in the repository."
    markdown = re.sub(r'(src=")(?!https?:)', rf"\1{PICTURES}", markdown)
    markdown = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{PICTURES}", markdown)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#|mailto:)", rf"\1{FILES}", markdown)


class BuildWithData(build_py):
    """The package with what its notebooks read wherever they are.

    The model of data/demo is in lm336/stories, the logs are in lm336/logs, and the chapters,
    for their exercises, without outputs in lm336/chapters. The repository holds them once,
    elsewhere; an editable install reads them there.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return
        package, hidden = Path(self.build_lib) / cfg["lib_name"], shutil.ignore_patterns(".*")
        model = ROOT / "data" / "demo"
        shutil.copytree(model, package / "stories", dirs_exist_ok=True, ignore=hidden)
        for name in ("logs", "chapters"):
            (package / name).mkdir(parents=True, exist_ok=True)
        for path in [*ROOT.glob("data/*.jsonl"), *ROOT.glob("benchmarks/*.jsonl")]:
            shutil.copy(path, package / "logs")
        for path in ROOT.glob("nbs/[0-9][0-9]_*.ipynb"):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                cell |= {"outputs": []} if cell["cell_type"] == "code" else {}
            text = json.dumps(notebook, ensure_ascii=False)
            (package / "chapters" / path.name).write_text(text, encoding="utf-8")


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=absolute_links((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=SITE,
    project_urls={
        "Documentation": SITE,
        "Source": cfg["git_url"],
        "Issues": cfg["git_url"] + "/issues",
        "Changes": FILES + "CHANGELOG.md",
    },
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
    packages=find_packages(include=["lm336", "lm336.*"]),
    package_data={
        cfg["lib_name"]: [
            "*.pyi", "*.txt", "*.mplstyle", "py.typed", "presets/*.json", "web/*"
        ]
    },
    cmdclass={"build_py": BuildWithData},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split()},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
)
