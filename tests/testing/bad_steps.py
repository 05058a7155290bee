"""Steps with one fault each. Importing this module does not load torch."""

from __future__ import annotations

import copy
import dataclasses
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness import Loss, Step, StepContext, Unsupported
from harness.api import Phase

if TYPE_CHECKING:
    import torch

#: Set to end the threads that steps leave behind.
ENOUGH = threading.Event()
OPEN: list[Any] = []


@dataclasses.dataclass(frozen=True)
class Good(Step):
    """Has no fault: multiplies the weights by ``factor``."""

    name: ClassVar[str] = "good"
    factor: float = 0.5

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        import torch

        model = copy.deepcopy(model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(self.factor)
        return self.spoil(model, context)

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return model

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]] | None:
        return ()

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module | None:
        return model


class Undocumented(Good):
    name = "undocumented"


Undocumented.__doc__ = None


@dataclasses.dataclass(frozen=True)
class Unkeyed(Good):
    """Has a parameter that is not JSON."""

    name: ClassVar[str] = "unkeyed"
    key: Any = print


@dataclasses.dataclass(frozen=True)
class Forgetful(Good):
    """Has a parameter that is not part of the key."""

    name: ClassVar[str] = "forgetful"
    bits: int = 8

    def parameters(self) -> dict[str, Any]:
        return {"factor": self.factor}


@dataclasses.dataclass(frozen=True)
class Renamed(Good):
    """Has parameters() that do not make the step again."""

    name: ClassVar[str] = "renamed"

    def parameters(self) -> dict[str, Any]:
        return {"times": self.factor}


class Falling(Good):
    """Fails on a network that it does not handle, instead of refusing it."""

    name = "falling"

    def spoil(self, model: Any, context: StepContext) -> torch.nn.Module:
        return model if not _is_mlp(model) else model.there_is_no_such_layer  # type: ignore[no-any-return]


class Nothing(Good):
    """Forgets to return the network."""

    name = "nothing"

    def spoil(self, model: Any, context: StepContext) -> torch.nn.Module:
        return None if _is_mlp(model) else model  # type: ignore[return-value]


class Terse(Good):
    """Refuses without a reason."""

    name = "terse"

    def spoil(self, model: Any, context: StepContext) -> torch.nn.Module:
        if _is_mlp(model):
            raise Unsupported("no")
        return model


class Layered(Good):
    """Assumes that there are layers."""

    name = "layered"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        next(model.children())
        return model


class Refusing(Good):
    """Handles nothing."""

    name = "refusing"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        raise Unsupported("it needs a Transformer, which this is not")


class Lucky(Good):
    """Works only with seed 0."""

    name = "lucky"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        from harness.build.executor import derive

        if context.seed("luck") != derive(0, self.name, "luck"):
            raise ZeroDivisionError("bad luck")
        return model


class Careless(Good):
    """Draws from an unseeded generator."""

    name = "careless"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return _moved(model, int.from_bytes(os.urandom(2), "big") / 2**24)


class Counting(Good):
    """Stores state between two calls."""

    name = "counting"
    calls: ClassVar[list[int]] = []

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        self.calls.append(1)
        return _moved(model, len(self.calls) / 100)


class Peeking(Good):
    """Opens the test split."""

    name = "peeking"

    def spoil(self, model: torch.nn.Module, context: Any) -> torch.nn.Module:
        (file,) = context._store.root.rglob("test.npz")
        file.read_bytes()
        return model


class Cheating(Good):
    """Takes the test split, already loaded, from the stack frames of the harness."""

    name = "cheating"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        frame = sys._getframe()
        while "data" not in frame.f_locals or not hasattr(frame.f_locals["data"], "test"):
            assert frame.f_back is not None
            frame = frame.f_back
        return _moved(model, float(frame.f_locals["data"].test.inputs.mean()))


class InPlace(Good):
    """Changes its input network."""

    name = "in-place"

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        super().apply(_moved(model, 0.1), context)
        return copy.deepcopy(model)


class Training(Good):
    """Leaves its input network in training mode."""

    name = "training"

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return super().apply(model.train(), context)


class Undeclared(Good):
    """Trains without declaring it."""

    name = "undeclared"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return context.fit(model)


class Otherwise(Good):
    """Runs another training than it declares."""

    name = "otherwise"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return context.fit(model, epochs=2)

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]] | None:
        return [("finetune", {"epochs": 1})]


class Teaching(Good):
    """Calls teach() without declaring it."""

    name = "teaching"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        context.teach(model)
        return model


class NotTeaching(Good):
    """Declares that it teaches, but does not call teach()."""

    name = "not-teaching"
    is_teacher = True

    def loss(self, task_loss: Loss) -> Loss:
        return task_loss


class Optimistic(Good):
    """Previews another network than it makes."""

    name = "optimistic"

    def preview(self, model: Any, example: torch.Tensor) -> torch.nn.Module | None:
        import torch

        model = copy.deepcopy(model)
        if _is_mlp(model):
            model[1], model[3] = torch.nn.Linear(96, 4), torch.nn.Linear(4, 8)
        return model  # type: ignore[no-any-return]


class Previewing(Good):
    """Changes its input network in its preview."""

    name = "previewing"

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module | None:
        return _moved(model, 0.1)


class Widening(Good):
    """Gives three outputs for two labels."""

    name = "widening"

    def spoil(self, model: Any, context: StepContext) -> torch.nn.Module:
        import torch

        if _is_mlp(model):
            model[-1] = torch.nn.Linear(8, 3)
        return model  # type: ignore[no-any-return]

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> None:
        return None


class Diverging(Good):
    """Gives NaN."""

    name = "diverging"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return _moved(model, float("nan"))


class Unsaved(Good):
    """Adds something to the network that is not stored on disk."""

    name = "unsaved"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        model.register_forward_hook(lambda module, inputs, output: 2 * output)
        return model


class Wrapping(Good):
    """Wraps the network in its own module without defining how that is stored."""

    name = "wrapping"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return _wrapper()(model)

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> None:
        return None


class Threading(Good):
    """Leaves a thread behind."""

    name = "threading"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        threading.Thread(target=ENOUGH.wait, name="left-behind", daemon=True).start()
        return model


class Opening(Good):
    """Leaves a file open."""

    name = "opening"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        OPEN.append(open(__file__))  # noqa: SIM115
        return model


class Seeding(Good):
    """Seeds torch's global generator."""

    name = "seeding"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        import torch

        torch.manual_seed(len(OPEN))
        return model


class Setting(Good):
    """Changes an environment variable."""

    name = "setting"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        os.environ["BAD_STEP"] = str(len(os.environ.get("BAD_STEP", "")) * "x" + "x")
        return model


class Printing(Good):
    """Prints."""

    name = "printing"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        print("epoch 1 of 1")
        return model


class Writing(Good):
    """Writes to the standard output as a library in C would."""

    name = "writing"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        os.write(1, b"solver: converged\n")
        return model


class Rigid(Good):
    """Assumes that layers have their original sizes."""

    name = "rigid"

    def spoil(self, model: Any, context: StepContext) -> torch.nn.Module:
        if _is_mlp(model) and model[1].out_features != 16:
            raise KeyError(model[1].out_features)
        return model  # type: ignore[no-any-return]


class Frozen(Good):
    """Gives a network that cannot be trained further."""

    name = "frozen"

    def spoil(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return _wrapper()(model)

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> None:
        return None

    def dump(self, model: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return super().dump(model.inner)

    def restore(self, fresh: torch.nn.Module, tensors: Any, notes: Any) -> torch.nn.Module:
        return _wrapper()(super().restore(fresh, tensors, notes))


def _is_mlp(model: Any) -> bool:
    import torch

    return isinstance(model, torch.nn.Sequential) and isinstance(model[0], torch.nn.Flatten)


def _moved(model: torch.nn.Module, by: float) -> torch.nn.Module:
    import torch

    with torch.no_grad():
        next(model.parameters()).add_(by)
    return model


def _wrapper() -> Any:
    import torch

    class Wrapper(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("it cannot be trained")
            outputs: torch.Tensor = self.inner(inputs)
            return outputs

    return Wrapper
