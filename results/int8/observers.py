"""What int8 costs the float networks of a run by other observers, in other draws and by another PyTorch.

    python int8/observers.py --store ../.harness ptbxl/cnn.json ptbxl/rnn.json

A row is a network and a scheme: the AUROC of the float network less that of its int8 networks, a calibration draw each;
and the kilobytes that ``torch.save`` writes of the two state_dicts. The first scheme is ``quantize("ptq-int8")``.
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tabulate
import torch
from sklearn.metrics import roc_auc_score

from harness import Data
from harness.build import artefact
from harness.data.library import Library
from harness.plugin.manager import installed
from harness.progress import Display
from harness.records.runs import read_records
from harness.store.local import Store
from harness_compress import _fx_int8

CALIBRATION = 128


def schemes() -> dict[str, Any]:
    """What to put in place of the adapter's choice of observers, by name."""
    from torch.ao.quantization import QConfig, get_default_qconfig_mapping
    from torch.ao.quantization.observer import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver

    channel = PerChannelMinMaxObserver.with_args(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
    )
    tensor = MinMaxObserver.with_args(
        dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-127, quant_max=127
    )

    def mapping(observer: Any, most: int, weight: Any) -> Any:
        activation = observer.with_args(
            dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=most
        )
        return lambda: (
            get_default_qconfig_mapping(_fx_int8.ENGINE)
            .set_global(QConfig(activation=activation, weight=weight))
            .set_object_type(torch.nn.LSTM, _fx_int8._dynamic_qconfig())
        )

    return {
        "ptq-int8": _fx_int8._qconfig_mapping,
        "histogram, 8 bits": mapping(HistogramObserver, 255, channel),
        "histogram, 6 bits": mapping(HistogramObserver, 63, channel),
        "extremes, 7 bits": mapping(MinMaxObserver, 127, channel),
        "histogram, 7 bits, weights per tensor": mapping(HistogramObserver, 127, tensor),
    }


def networks(runs: list[Path], store: Store) -> Iterator[tuple[str, torch.nn.Module]]:
    """The plain float networks of the runs, full and pruned by the L1 norm, each once."""
    seen: set[str] = set()
    for run in runs:
        for cell in read_records(run):
            axes, key = cell.axes, cell.artefact.key
            wanted = axes["training"] == "plain" and axes["precision"] == "float32" and "l2" not in str(axes["pruning"])
            if wanted and key not in seen:
                seen.add(key)
                found = store.local(key)
                if found is None:
                    raise SystemExit(f"{store.places} has no artefact {key}: run the suite of {run} first")
                yield f"{axes['architecture']} {axes['pruning']}", artefact.load(found.file)


def auroc(model: torch.nn.Module, data: Data) -> float:
    with torch.no_grad():
        scores = [model(batch) for batch in torch.split(torch.from_numpy(data.test.inputs), CALIBRATION)]
    return float(roc_auc_score(data.test.targets, torch.cat(scores).numpy(), average="macro"))


def kilobytes(model: torch.nn.Module) -> float:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue()) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--store", type=Path, default=Path(".harness"))
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if not hasattr(torch.fx.config, "do_not_emit_stack_traces"):  # PyTorch 2.2 does not know it
        torch.fx.config.do_not_emit_stack_traces = False
    store = Store(options.store, create=False)
    data = Library(installed(), store, None, Display(None)).load("ptbxl")
    validation = torch.from_numpy(data.validation.inputs)
    rows, choices = [], schemes()
    for name, network in networks(options.runs, store):
        whole = auroc(network, data)
        for scheme, choice in choices.items():
            _fx_int8._qconfig_mapping = choice
            losses = []
            for seed in range(options.draws):
                drawn = np.random.default_rng(seed).choice(len(validation), CALIBRATION, replace=False)
                int8, _ = _fx_int8.quantize(copy.deepcopy(network), [validation[torch.from_numpy(np.sort(drawn))]])
                losses.append(whole - auroc(int8, data))
            spread = [f"{value:.4f}" for value in (statistics.mean(losses), min(losses), max(losses))]
            # What a cell is evaluated with.
            stored = _fx_int8.restore(copy.deepcopy(network), *_fx_int8.dump_state(int8))
            sizes = [f"{kilobytes(model):.3f}" for model in (network, stored)]
            rows.append([name, f"{whole:.4f}", scheme, *spread, *sizes])
    print(f"PyTorch {torch.__version__}, {options.draws} draws of {CALIBRATION} validation examples\n")
    print(tabulate.tabulate(rows, ["network", "AUROC", "scheme", "loss", "least", "most", "float kB", "int8 kB"],
                            disable_numparse=True, colalign=["left", "right", "left", *["right"] * 5]))  # fmt: skip


if __name__ == "__main__":
    main()
