"""What the kernel's tests share: the toy plugin, loaded directly or installed as a third party's, and a store."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
#: The scripts of the results stand in folders that are no packages.
sys.path.insert(0, str(Path(__file__).parent.parent / "results"))
sys.path.insert(0, str(Path(__file__).parent.parent / "results" / "calibration"))

# A shell starts a job in the background with SIGINT ignored, and so would all processes be that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And nohup starts it with SIGHUP ignored.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Where pytest-benchmark finds this it times nothing, but runs that tests start are in no worker of pytest-xdist.
os.environ.pop("PYTEST_XDIST_WORKER", None)

# The tests' networks are so small that a second thread takes more time than it saves, above all beside other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import environments
import toy
from fakes import HEAD, Suite, Workers, logged

from harness.build.plan import make
from harness.data.library import Library
from harness.measure import pool
from harness.plugin import manager as plugins_module
from harness.plugin.manager import Origin, Plugins
from harness.progress import Display
from harness.stats import quality
from harness.store.local import Store
from harness.suite.matrix import Cell
from harness.suite.presets import preset

if TYPE_CHECKING:
    from harness.build.executor import Executor

pytest_plugins = ["pytester"]
#: Distributions of their own, with tests that run where they are installed (test_thirdparty.py).
collect_ignore = ["thirdparty"]


#: The files that take longest come first, so that at the end no worker of pytest-xdist waits for the other.
LONGEST = ("test_thirdparty.py", "test_gate_runs.py", "test_pytest_plugin.py", "test_worker.py", "test_memory.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Spare hundreds of runs what takes time in each and does nothing."""
    gc.freeze()  # pytest collects garbage five times after a run; what was imported stays
    if torch := sys.modules.get("torch"):
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():  # or each seed is noted for it, with the whole stack
                device.manual_seed_all = lambda _: None


PLUGINS = {"studies": "harness_studies", "toy": "toy"}
TOY = Origin("toy", "toy-plugin", "1.2")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the environment nor the current folder names data or a store."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.delenv("HARNESS_SHARED", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plugins(nowhere: None) -> Plugins:
    """The toy plugin alone."""
    loaded = Plugins()
    loaded.add(toy, TOY)
    assert not loaded.problems
    return loaded


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that the store logs."""
    with logged("harness.store") as lines:
        yield lines


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server in this process, on a free port."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file system of that server, with an empty bucket called ``models``, and the environment that leads there."""
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST"))
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    files.mkdir("models")
    return files


@pytest.fixture
def executor(plugins: Plugins, store: Store) -> Callable[..., Executor]:
    """An executor of some cells at a preset's size, with the synthetic toy data."""
    from harness.build.executor import Executor

    def build(cells: Sequence[Cell], size: str = "quick") -> Executor:
        library = Library(plugins, store, None, Display(None))
        plan = make(cells, plugins, library.fingerprint, preset(size), "cpu")
        return Executor(plan, plugins, library, store, Display(None))

    return build


@pytest.fixture
def toy_installed(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The toy plugin, and that of studies, as the only ones installed in this process."""
    points = [EntryPoint(name, module, plugins_module.GROUP) for name, module in PLUGINS.items()]
    monkeypatch.setattr(plugins_module, "entry_points", lambda group: points)
    plugins_module.installed.cache_clear()
    yield toy
    plugins_module.installed.cache_clear()


@pytest.fixture
def toy_distribution(tmp_path: Path) -> Path:
    """A folder that holds the toy plugin's distribution, as pip would install it: put it on PYTHONPATH."""
    site = tmp_path / "site"
    information = site / "toy_plugin-1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text("[harness]\ntoy = toy\n")
    (site / "toy.py").write_text(Path(toy.__file__).read_text())
    return site


@pytest.fixture(scope="module")
def fresh_environment(tmp_path_factory: pytest.TempPathFactory) -> environments.Environment:
    """An environment into which a module's tests install plugins."""
    return environments.make(tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def everything_imported() -> None:
    """pytester forgets what is first imported within it, and torch cannot be imported twice: so it is done before."""

    import harness.report.terminal
    import harness.run.evaluation
    import harness.run.plan_text
    import harness.stats.ratios
    from harness.api.tasks import MULTILABEL
    from harness.build.training import fit

    part, conv = toy.part(8, 0), toy.Conv()
    fit(conv.build(toy.Toy.task), part, part, conv.training("train"), seed=0, kind=MULTILABEL)
    harness.report.terminal.network_tables([])
    gc.freeze()


@pytest.fixture
def suite(
    everything_imported: None, toy_installed: ModuleType, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Suite:
    """Runs pytest, in this process, on a suite with this source."""
    monkeypatch.setattr(pool, "Workers", Workers)
    for bootstrap in (quality.bootstrap, quality.paired_bootstrap):  # with all samples, half of the time of a run
        quicker = functools.partial(bootstrap, repetitions=100)
        monkeypatch.setattr(f"harness.run.evaluation.{bootstrap.__name__}", quicker)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source: str, *options: str) -> pytest.RunResult:
        (pytester.path / "suite.py").write_text(HEAD + source)
        return pytester.runpytest_inprocess("suite.py", "-p", "no:cacheprovider", "--harness-preset=smoke", *options)

    return run
