"""JupyterLab for these notebooks: the settings of `make lab`.

It runs as root, too, opens at the top of the repository, and saves a notebook as it is
committed: after Run All and Save, git shows a difference only in outputs that changed.
"""
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parent))
from notebooks import as_committed  # noqa: E402

c = get_config()  # noqa: F821


def clean(model, **_):
    "What is saved of a notebook, by the rules of a commit."
    if model["type"] == "notebook":
        model["content"] = nbformat.from_dict(model["content"])
        as_committed(model["content"])


c.ContentsManager.pre_save_hook = clean
c.ServerApp.allow_root = True
c.ServerApp.root_dir = str(Path(__file__).parents[1])
c.LabApp.default_url = "/lab/tree/nbs/index.ipynb"
