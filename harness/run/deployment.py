"""Deploy artefacts with their runtimes, check the deployed files, and predict the test split with them."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.api import Audit, Counter, Data, Deployment, Profile, Runtime, Split
from harness.api.tasks import kind_of
from harness.build.plan import code_identity
from harness.data.library import Library
from harness.errors import CellError, explain_disk_errors
from harness.files import atomic_write
from harness.keys import SCHEMA, key_of
from harness.measure.machine import cpu_features
from harness.plugin.manager import Plugins
from harness.records.record import AuditRecord, DeploymentRecord, OperatorRecord, Parity
from harness.store.entry import Artefact, sha256_of
from harness.store.local import Store
from harness.suite.matrix import Cell

if TYPE_CHECKING:
    import torch

    from harness.measure.pool import Workers
    from harness.run.evaluation import CellContext

#: The number of test examples that the timed calls cycle through.
TIMED_INPUTS = 64
#: So many examples are prepared and written at once.
WRITTEN_ROWS = 1024
#: Predictions use all CPUs, in a worker process, so that a kernel that crashes fails only its own cell.
EVALUATION = Profile(threads=os.cpu_count() or 1, affinity=None)
#: A deployed file is checked on this many validation examples, spread over the split.
CHECKED = 64
#: The test split is predicted in batches of this many examples, unless the answers depend on the batch: then their
#: probabilities differ by more than BATCH_TOLERANCE, where float kernels differ by some 1e-6.
BATCH, BATCH_TOLERANCE = 128, 1e-4
#: Two probabilities differ if they are farther apart than this.
CHANGED = 0.01


@dataclasses.dataclass(frozen=True)
class DeployedFile:
    """A deployed file in the folder of the run, its hash, and the key under which the store holds it."""

    file: Path
    sha256: str
    key: str


class Deployer:
    """Deploys artefacts into ``folder`` and predicts with them, each once; ``evaluation`` limits the test examples."""

    def __init__(
        self,
        plugins: Plugins,
        library: Library,
        store: Store,
        evaluation: int | None,
        folder: Path,
        pool: Callable[[], Workers],
        deployed: str = "",
    ) -> None:
        """``deployed`` is the folder below ``folder`` for deployed files."""
        self._plugins = plugins
        self._library = library
        self._store = store
        self._evaluation = evaluation
        self._folder = folder
        self._pool = pool
        self._files = folder / deployed
        self._contexts: dict[tuple[str, str, str], CellContext] = {}

    def under(self, pool: Callable[[], Workers], deployed: str) -> Deployer:
        """The same data, with files that are deployed into another folder and run by other workers."""
        return Deployer(self._plugins, self._library, self._store, self._evaluation, self._folder, pool, deployed)

    def context(self, cell: Cell, artefact: Artefact) -> CellContext:
        """The context in which metrics judge an artefact on the cell's data and runtime, without its timing.

        Raises CellError when the model fails, predicts wrong shapes, NaN or infinity, or when the deployed file answers
        unlike the network or executes less in int8 than the recipe requests.
        """
        from harness.build.artefact import deployment

        identity = (cell.dataset, cell.runtime, artefact.key)
        if identity not in self._contexts:
            runtime = self._plugins.runtimes.get(cell.runtime)
            content = deployment(artefact.file, self._data(cell), self._plugins)
            references = self._references(cell, artefact, content)  # before a runtime changes the network
            deployed = self._deployed(cell, runtime, artefact, content)
            record, audit = self._checked(cell, runtime, content, deployed.file, references)
            context = self._context(cell, artefact, deployed.file, record.batch, audit)
            context.deployable, context.deployment = deployed.key, record
            self._contexts[identity] = context
        return self._contexts[identity]

    def context_of_file(self, cell: Cell, artefact: Artefact, stored: Artefact | None) -> CellContext:
        """As `context`, of the file that was deployed earlier; the runtime deploys nothing.

        ``stored`` is that deployable; None for the artefact's own file.
        """
        source = artefact if stored is None else stored
        identity = (cell.dataset, cell.runtime, source.sha256)
        if identity not in self._contexts:
            folder = self._files / cell.runtime / source.key
            with explain_disk_errors(f"cannot deploy {cell.id} in {folder}", "or choose another store"):
                folder.mkdir(parents=True, exist_ok=True)
                name = source.file.name if stored is None else Path(str(stored.facts["file"])).name
                file = Path(shutil.copyfile(source.file, folder / name))
            batch, _ = self._batch(cell, file, self._answers(cell, file, "check", 1))
            audit = Audit(reason="it was deployed by an earlier run")
            self._contexts[identity] = self._context(cell, artefact, file, batch, audit)
        return self._contexts[identity]

    def _context(self, cell: Cell, artefact: Artefact, file: Path, batch: int, audit: Audit) -> CellContext:
        """The context of a deployed file, with its answers for the test split, ``batch`` examples a call."""
        from harness.run.evaluation import CellContext

        data, sha256, runtime = self._data(cell), sha256_of(file), self._plugins.runtimes.get(cell.runtime)
        answers = functools.partial(self._answers, cell, file, batch=batch)
        validation_scores = functools.partial(answers, "validation")
        return CellContext(
            file, sha256, artefact.file, data, self._plugins, answers("test"), audit, runtime, validation_scores
        )

    def measure_memory(self, cell: Cell, context: CellContext) -> None:
        """Measure the memory of the deployed file in the cell's profile."""
        memory = self._pool().memory(cell.profile, cell.runtime, context.file, self.inputs(cell))
        if memory is not None:
            context.base_memory, context.loaded_memory, context.peak_memory = dataclasses.astuple(memory)

    def counter(self, cell: Cell, context: CellContext) -> Callable[[Counter], float]:
        """The function that measures a counter of the deployed file in the cell's profile."""
        return lambda counter: self._pool().count(cell.profile, cell.runtime, context.file, self.inputs(cell), counter)

    def inputs(self, cell: Cell) -> Path:
        """The .npy file of the test examples that the cell's calls are timed on."""
        return self._inputs(cell, "timed")

    # -------------------------------------------------------------------------------------------------------- deploying

    def _deployed(self, cell: Cell, runtime: Runtime, artefact: Artefact, content: Deployment) -> DeployedFile:
        """The deployed file: the store's, or one that the runtime writes now and the store keeps."""
        document = self._document(runtime, artefact)
        key = key_of(document)
        folder = self._files / cell.runtime / key
        with explain_disk_errors(f"cannot deploy {cell.id} in {folder}", "or choose another store"):
            folder.mkdir(parents=True, exist_ok=True)
            stored = self._store.deployable(key)
            if stored is not None:
                # A copy, because garbage collection may remove the other one; some runtimes read the name's suffix.
                file = Path(shutil.copyfile(stored.file, folder / Path(str(stored.facts["file"])).name))
            else:
                began = time.perf_counter()
                file = self._deploy(runtime, content, folder)
                facts = {"file": file.name}
                self._store.put_deployable(document, file, artefact, facts, time.perf_counter() - began)
        return DeployedFile(file, sha256_of(file), key)

    def _document(self, runtime: Runtime, artefact: Artefact) -> dict[str, Any]:
        """What the deployed file depends on; its key is the hash of this."""
        origin = self._plugins.runtimes.origin(runtime.name)
        document = {
            "schema": SCHEMA,
            "deployable": runtime.name,
            "version": runtime.version,
            **code_identity(origin, type(runtime)),
            "packages": packages_of(runtime),
            "options": self._plugins.call(runtime, "options"),
            "artefact": artefact.key,
            "sha256": artefact.sha256,
        }
        return document | ({"cpu": cpu_features()} if runtime.depends_on_cpu else {})

    def _deploy(self, runtime: Runtime, content: Deployment, folder: Path) -> Path:
        """The file that the runtime writes. Raises CellError when it fails or writes no file."""
        try:
            file = self._plugins.call(runtime, "deploy", content, folder)
        except CellError as error:
            if isinstance(error.__cause__, OSError):  # possibly a full disk, which the caller explains
                raise error.__cause__ from None
            raise
        if not isinstance(file, Path) or not file.is_file():
            raise CellError(
                f"plugin {self._plugins.origin(runtime)}: {self._plugins.name_of(runtime, 'deploy')} gives {file!r}, "
                "not the path of a file that it wrote"
            )
        return file

    # --------------------------------------------------------------------------------------------------------- checking

    def _references(self, cell: Cell, artefact: Artefact, content: Deployment) -> dict[str, NDArray[Any]]:
        """The probabilities on the checked examples of what the deployed file must equal, or stay close to.

        "network" is the artefact's own. "float network" is the network before any quantization: the same where the
        recipe requests one, else the last ancestor that has no int8 weights.
        """
        if content.quantization is not None:
            return {"float network": self._probabilities(cell, content)}
        answers = {"network": self._probabilities(cell, content)}
        origin = self._float_origin(cell, artefact, content)
        if origin is not None:
            answers["float network"] = self._probabilities(cell, origin)
        return answers

    def _float_origin(self, cell: Cell, artefact: Artefact, content: Deployment) -> Deployment | None:
        """The last ancestor without int8 weights; None for a float network, and where the store lacks an ancestor."""
        from harness.build.artefact import deployment
        from harness.nn.operations import count

        def is_int8(content: Deployment) -> bool:
            return any(layer.dtype == "int8" for layer in count(content.model, content.example).layers)

        architecture, ancestor, key = self._plugins.architectures.get(cell.architecture), content, artefact.key
        while self._plugins.call(architecture, is_int8, ancestor):
            stored = self._store.describe([key]).get(key)
            parent = None if stored is None else stored.document.get("parent")
            found = self._store.get(parent) if parent else None
            if found is None:
                return None
            ancestor, key = deployment(found.file, self._data(cell), self._plugins), found.key
        return None if ancestor is content else ancestor

    def _probabilities(self, cell: Cell, content: Deployment) -> NDArray[Any]:
        """What a network answers to the checked examples, one at a time, as the deployed file is called."""
        split, rows = self._examples(cell, "check")
        examples = split.tensor(rows)

        def answer(network: torch.nn.Module) -> NDArray[Any]:
            import torch

            with torch.inference_mode():
                return torch.cat([network(row) for row in examples.split(1)]).numpy()  # type: ignore[no-untyped-call]

        architecture = self._plugins.architectures.get(cell.architecture)
        answers: NDArray[Any] = self._plugins.call(architecture, answer, content.network)
        return answers

    def _checked(
        self, cell: Cell, runtime: Runtime, content: Deployment, file: Path, references: Mapping[str, NDArray[Any]]
    ) -> tuple[DeploymentRecord, Audit]:
        """Check the deployed file. Raises CellError with the figures when it answers or executes something else."""
        single = self._answers(cell, file, "check", 1)
        batch, batch_difference = self._batch(cell, file, single)
        request = content.quantization
        limits: dict[str, dict[str, float]] = {"network": {"difference": runtime.tolerance}}
        if request is not None:
            limits["float network"] = {"mean": request.mean_difference, "changed": request.changed}
        parity = [
            check_parity(cell, name, single, reference, limits.get(name, {})) for name, reference in references.items()
        ]
        audit = self._pool().audit(EVALUATION, cell.runtime, file, self._inputs(cell, "check"))
        if request is not None:
            check_coverage(cell, audit, request.coverage)
        record = DeploymentRecord(
            runtime=runtime.name,
            version=runtime.version,
            packages=packages_of(runtime),
            parity=parity,
            batch=batch,
            batch_difference=batch_difference,
            audit=AuditRecord(
                [OperatorRecord(operator.kind, operator.precision, operator.count) for operator in audit.operators],
                audit.int8_weights,
                audit.int8_macs,
                audit.reason,
            ),
        )
        return record, audit

    # --------------------------------------------------------------------------------------------------------- plumbing

    def _batch(self, cell: Cell, file: Path, single: NDArray[Any]) -> tuple[int, float | None]:
        """The number of examples that may be answered together, and how much answers then differ from ``single``.

        These are the answers to the checked examples, one at a time. The difference is None where the file cannot
        answer a batch.
        """
        try:
            together = self._answers(cell, file, "check", BATCH)
        except CellError:  # where it fails altogether, it failed for single examples already
            return 1, None
        difference = float(np.abs(together - single).max())
        return (BATCH if difference <= BATCH_TOLERANCE else 1), difference

    def _answers(self, cell: Cell, file: Path, use: str, batch: int) -> NDArray[Any]:
        """What a deployed file answers to the examples of one use. Raises CellError for impossible answers."""
        data, inputs = self._data(cell), self._inputs(cell, use)
        scores = self._pool().predict(EVALUATION, cell.runtime, file, inputs, file.parent / f"{use}-{batch}.npy", batch)
        split = "test" if use == "test" else "validation"
        expected = (len(self._examples(cell, use)[1]), len(data.task.labels))
        if scores.shape != expected:
            raise CellError(
                f"the model of {cell.id} gives answers of shape {scores.shape} for the {split} split, not {expected}"
            )
        wrong = int((~np.isfinite(scores)).any(axis=1).sum())
        if wrong:
            raise CellError(
                f"the model of {cell.id} answers NaN or infinity on {wrong} of {len(scores)} {split} examples"
            )
        if fault := kind_of(data.task).impossible(scores):
            raise CellError(
                f"the answers of {cell.id} {fault}: runtime {cell.runtime!r} must deploy the network with the "
                f"activation of a {data.task.kind} task (Deployment.network)"
            )
        return scores

    def _examples(self, cell: Cell, use: str) -> tuple[Split, NDArray[np.intp]]:
        """The split and its rows for one use: a whole split ("test", "validation"), or some rows ("check", "timed")."""
        data = self._data(cell)
        if use == "check":
            count = len(data.validation)
            return data.validation, np.linspace(0, count - 1, min(count, CHECKED)).astype(np.intp)
        if use == "timed":
            return data.test, np.sort(np.random.default_rng(0).permutation(len(data.test))[:TIMED_INPUTS])
        split: Split = getattr(data, use)
        return split, np.arange(len(split))

    def _inputs(self, cell: Cell, use: str) -> Path:
        """The file from which workers read the inputs of one use, written once."""
        file = self._folder / f"{cell.dataset}-{self._plugins.architectures.get(cell.architecture).layout}-{use}.npy"
        if not file.exists():
            split, rows = self._examples(cell, use)
            # Whole or not at all, because the next cell uses the file if it exists.
            with atomic_write(file, "or choose another store", sync=False) as temporary, temporary.open("wb") as stream:
                header = {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (len(rows), *self._data(cell).task.input_shape),
                }
                np.lib.format.write_array_header_1_0(stream, header)
                for start in range(0, len(rows), WRITTEN_ROWS):  # a split may be larger than the memory
                    stream.write(split.tensor(rows[start : start + WRITTEN_ROWS]).contiguous().numpy().tobytes())
        return file

    def _data(self, cell: Cell) -> Data:
        layout = self._plugins.architectures.get(cell.architecture).layout
        return self._library.load(cell.dataset, self._evaluation, layout)


def packages_of(runtime: Runtime) -> dict[str, str]:
    """Return the versions of the packages that a runtime needs."""
    return {package: version(package) for package in runtime.packages}


def check_parity(
    cell: Cell, against: str, scores: NDArray[Any], expected: NDArray[Any], limits: Mapping[str, float]
) -> Parity:
    """Compare probabilities, (n, labels) each. Raises CellError with the figures when one is beyond its limit."""
    differences = np.abs(scores.astype(np.float64) - expected)
    parity = Parity(
        against=against,
        difference=float(differences.max()),
        mean=float(differences.mean()),
        changed=float((differences > CHANGED).mean()),
        examples=len(scores),
        limits=dict(limits),
    )
    beyond = [name for name, limit in limits.items() if not getattr(parity, name) <= limit]
    if beyond:
        allowed = ", ".join(f"{name} at most {limits[name]:g}" for name in beyond)
        raise CellError(
            f"what runtime {cell.runtime!r} deploys of {cell.id} answers {parity.examples} validation examples unlike "
            f"the {against}: probabilities differ by {parity.mean:.3g} on average and by up to "
            f"{parity.difference:.3g}, and {parity.changed:.1%} of them by more than {CHANGED:g} (allowed: {allowed})"
        )
    return parity


def check_coverage(cell: Cell, audit: Audit, coverage: float) -> None:
    """Raise CellError unless the deployed file executes the requested share in int8."""
    shares = audit.int8_weights, audit.int8_macs
    if shares[0] is None or shares[1] is None:
        if coverage > 0:
            raise CellError(
                f"the share of {cell.id} that runs in int8 is unknown, where the recipe requests {coverage:.1%}: "
                f"{audit.reason}. Set coverage=0 if you want to measure this network"
            )
    elif min(shares[0], shares[1]) < coverage:
        others = [row for row in audit.operators if row.precision != "int8"]
        rest = ", ".join(f"{row.count} {row.kind} in {row.precision}" for row in others)
        raise CellError(
            f"only {shares[0]:.1%} of the weights and {shares[1]:.1%} of the multiply-accumulates of {cell.id} run in "
            f"int8 on runtime {cell.runtime!r}, where the recipe requests {coverage:.1%}; these operators do not: "
            f"{rest or 'none that it names'}. Lower coverage= if you want to measure this network"
        )
