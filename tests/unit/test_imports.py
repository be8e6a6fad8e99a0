"""The house's rules, held by reading the sources: who may import what, and what nobody may write."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("ucdr_ray", "serve", "jobs", "tune_spaces", "benchmarks")
LONGEST = 300

# Where a package may be imported: a folder (ending in /) or a file, relative to the root.
PLACES = {
    "ray": ("ucdr_ray/cluster/", "serve/", "jobs/", "tune_spaces/", "benchmarks/bank.py"),
    "mlflow": ("ucdr_ray/tracking.py",),
    "PIL": (
        "ucdr_ray/images.py",
        "ucdr_ray/drawings/",
        "ucdr_ray/evaluation/report",
        "ucdr_ray/evaluation/contact.py",
        "benchmarks/made_index.py",
    ),
    "faiss": (
        "ucdr_ray/index/",
        "ucdr_ray/neighbors/",
        "benchmarks/neighbors.py",
        "benchmarks/search_",
        "benchmarks/service.py",
    ),
}
NOWHERE = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torchvision", "timm"}

# What training is made of, and what it must not see: whatever holds labels.
TRAINING = (
    "ucdr_ray/augment.py",
    "ucdr_ray/engine.py",
    "ucdr_ray/feed.py",
    "ucdr_ray/losses/",
    "ucdr_ray/methods/",
    "ucdr_ray/models/",
    "ucdr_ray/neighbors/",
)
LABELLED = (
    "ucdr_ray.catalog",
    "ucdr_ray.evaluation",
    "ucdr_ray.ingest",
    "ucdr_ray.labels",
    "ucdr_ray.sources",
)
BLIND = {
    "serve/": ("ucdr_ray.methods", "ucdr_ray.losses", "ucdr_ray.cluster.training"),
    **dict.fromkeys(TRAINING, LABELLED),
}

# The way of the data; a stage imports its own and earlier ones. What is not named here serves all of them.
FLOW = (
    ("sources", "labels"),
    ("ingest", "catalog"),
    ("decoded", "streaming", "feed", "augment", "losses", "neighbors", "models", "methods", "engine", "run"),
    ("embeddings", "embeddings_writer"),
    ("index",),
    ("evaluation",),
)

# All of the package but its shells (Ray, the command line, tracking) is the pure core.
NOT_CORE = ("ucdr_ray/cluster/", "ucdr_ray/commands/", "ucdr_ray/cli.py", "ucdr_ray/tracking.py")
SHELLS = (
    *("ucdr_ray.cluster", "ucdr_ray.commands", "ucdr_ray.cli", "ucdr_ray.tracking"),
    *("serve", "jobs", "tune_spaces", "benchmarks"),
)


def imported(tree: ast.AST, path: str) -> Iterator[str]:
    """Every module a file imports, anywhere in it, as an absolute dotted name."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant))


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def stage(module: str) -> int | None:
    """The stage of `FLOW` that a module belongs to; None where it belongs to none."""
    for number, parts in enumerate(FLOW):
        if any(within(module, f"ucdr_ray.{part}") for part in parts):
            return number
    return None


def import_faults(source: str, path: str) -> list[str]:
    """Which rules about imports ``source``, lying at ``path``, breaks."""
    faults = []
    for name in imported(ast.parse(source), path):
        top = name.split(".")[0]
        if top in NOWHERE or (top in PLACES and not path.startswith(PLACES[top])):
            faults.append(f"{path} imports {name}")
        for place, hidden in BLIND.items():
            if path.startswith(place) and any(within(name, module) for module in hidden):
                faults.append(f"{path} imports {name}, which it must not know")
        core = path.startswith("ucdr_ray/") and not path.startswith(NOT_CORE)
        if core and any(within(name, shell) for shell in SHELLS):
            faults.append(f"{path} is core and imports {name}")
        here, there = stage(path.removesuffix(".py").replace("/", ".")), stage(name)
        if here is not None and there is not None and there > here:
            faults.append(f"{path} imports {name}, which comes later in the way of the data")
    return faults


def danger_faults(source: str, path: str) -> list[str]:
    """Calls by which a file could execute code."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if "allow_pickle" in words:
            faults.append(f"{path}:{node.lineno} passes allow_pickle")
        # Left out, transformers asks at the terminal, and `yes` answers.
        needed = name.split(".")[-1] in ("from_pretrained", "from_config")
        if words.get("trust_remote_code", "" if needed else "False") != "False":
            faults.append(f"{path}:{node.lineno} calls {name} without trust_remote_code=False")
        if name in ("torch.load", "load") and words.get("weights_only", "True") != "True":
            faults.append(f"{path}:{node.lineno} loads with weights_only={words['weights_only']}")
        if name == "torch.load" and "weights_only" not in words:
            faults.append(f"{path}:{node.lineno} loads without weights_only=True")
        if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load") or name.endswith("read_pickle"):
            faults.append(f"{path}:{node.lineno} calls {name}")
    return faults


def sources(*folders: str) -> list[str]:
    return sorted(
        file.relative_to(ROOT).as_posix() for folder in folders for file in (ROOT / folder).rglob("*.py")
    )


def text_files() -> list[Path]:
    """What git holds or would hold."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("no git checkout")
    files = [ROOT / name for name in listing.stdout.splitlines()]
    return [
        file
        for file in files
        if file.is_file() and file.suffix not in (".safetensors", ".png", ".jpg", ".gz")
    ]


@pytest.mark.parametrize("path", sources(*SHIPPED))
def test_imports_keep_to_their_places(path: str) -> None:
    assert import_faults((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", sources(*SHIPPED))
def test_no_file_can_execute_code(path: str) -> None:
    assert danger_faults((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", sources(*SHIPPED, "tests"))
def test_no_file_is_too_long(path: str) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_machine_path_and_no_registry_in_any_file() -> None:
    # In parts, or this file would find itself.
    machine = re.compile(r"(?<![\w.])/(?:" + "|".join(["work", "root", "opt", "tmp/d", r"home/\w+"]) + r")/")
    registry = re.compile("|".join(["pypi" + r"\.org", "python" + "hosted", "download" + r"\.pytorch"]))
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in text_files()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if machine.search(line) or registry.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ucdr_ray/feed.py", "import ray"),
        ("ucdr_ray/feed.py", "def f():\n    from ray.data import Dataset"),
        ("ucdr_ray/feed.py", "import importlib\nimportlib.import_module('ray')"),
        ("ucdr_ray/cli.py", "import mlflow"),
        ("ucdr_ray/catalog.py", "from PIL import Image"),
        ("ucdr_ray/cluster/embed.py", "import faiss"),
        ("ucdr_ray/cluster/embed.py", "import pickle"),
        ("ucdr_ray/models/backbone.py", "import timm"),
        ("serve/app.py", "from ucdr_ray.cluster import training"),
        ("serve/app.py", "from ucdr_ray.losses.nce import nce"),
        ("ucdr_ray/methods/dude.py", "from ucdr_ray import catalog"),
        ("ucdr_ray/methods/dude.py", "from ..catalog import Catalog"),
        ("ucdr_ray/losses/nce.py", "from ucdr_ray.tracking import Tracker"),
        ("ucdr_ray/feed.py", "from ucdr_ray.cluster import stream"),
        ("ucdr_ray/run.py", "from ucdr_ray.tracking import Tracker"),
        ("ucdr_ray/ingest/plan.py", "from ucdr_ray.cluster.session import start_ray"),
        ("ucdr_ray/engine.py", "from ucdr_ray.evaluation import metrics"),
        ("ucdr_ray/models/heads.py", "from ucdr_ray import evaluation"),
        ("ucdr_ray/methods/dude.py", "from ucdr_ray.labels import labeller"),
        ("ucdr_ray/methods/dude.py", "from ucdr_ray.ingest.plan import Plan"),
        ("ucdr_ray/feed.py", "from ucdr_ray.sources.item import Item"),
        ("ucdr_ray/catalog.py", "from ucdr_ray.embeddings import Embeddings"),
        ("ucdr_ray/sources/read.py", "from ucdr_ray.catalog import Catalog"),
        ("ucdr_ray/embeddings.py", "from ucdr_ray.index.search import Index"),
        ("ucdr_ray/index/build.py", "from ucdr_ray.evaluation.ranking import rank"),
    ],
)
def test_the_import_rules_see(path: str, source: str) -> None:
    assert import_faults(source, path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ucdr_ray/cluster/ingest.py", "import ray\nfrom ray.data import Dataset"),
        ("ucdr_ray/evaluation/report_html.py", "from PIL import Image"),
        ("serve/app.py", "import ray\nfrom ucdr_ray.cluster import session"),
        ("ucdr_ray/streaming.py", "import array\nfrom ucdr_ray.catalog import Catalog"),
        ("ucdr_ray/evaluation/features.py", "from ucdr_ray.embeddings import Embeddings"),
        ("ucdr_ray/cluster/training.py", "from ucdr_ray.tracking import Tracker"),
    ],
)
def test_the_import_rules_allow(path: str, source: str) -> None:
    assert import_faults(source, path) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "AutoModel.from_pretrained(f)",
        "AutoModel.from_pretrained(f, trust_remote_code=True)",
        "AutoModel.from_pretrained(f, trust_remote_code=None)",
        "AutoModel.from_pretrained(f, trust_remote_code=trusted)",
        "AutoModel.from_config(c)",
        "make(f, trust_remote_code=True)",
        "eval(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pd.read_pickle(f)",
    ],
)
def test_the_rules_see_what_executes_code(source: str) -> None:
    assert len(danger_faults(source, "x.py")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "torch.load(f, weights_only=True)",
        "yaml.safe_load(text)",
        "AutoModel.from_pretrained(f, trust_remote_code=False)",
    ],
)
def test_the_rules_allow_what_does_not(source: str) -> None:
    assert danger_faults(source, "x.py") == []
