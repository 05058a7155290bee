"""A step made from a function behaves like any other step."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest

from harness import Matrix, Step, UsageError, compressor, hookimpl
from harness.build.plan import describe
from harness.keys import code_digest, to_jsonable
from harness.plugin.manager import Origin, Plugins
from harness.plugin.validation import KINDS, refusal


@compressor
def scale(model: Any, context: Any, factor: float = 0.5, *, which: Literal["all", "some"] = "all") -> Any:
    """Scale every weight.

    And more about it.
    """
    return model, context, factor, which


@compressor
def shift(model: Any, context: Any, by: int) -> Any:
    """Shift every weight."""


def test_it_is_a_frozen_step_with_the_function_s_name_docstring_and_parameters() -> None:
    kind: Any = scale
    assert issubclass(kind, Step)
    assert (kind.name, kind.__name__, kind.__module__) == ("scale", "Scale", __name__)
    assert kind.__doc__.startswith("Scale every weight.\n")
    assert scale(0.25) == scale(factor=0.25) != scale()
    assert describe(scale(0.25, which="some")) == "scale(factor=0.25, which=some)"
    with pytest.raises(AttributeError, match=r"frozen|cannot assign"):
        scale().factor = 1  # type: ignore[attr-defined]


def test_its_parameters_and_its_code_are_part_of_the_key() -> None:
    assert to_jsonable(scale(0.25).parameters()) == {"factor": 0.25, "which": "all"}
    assert code_digest(scale) is not None  # type: ignore[arg-type]


def test_apply_calls_the_function_with_the_parameters() -> None:
    assert scale(0.25, which="some").apply("a model", "a context") == (  # type: ignore[arg-type, comparison-overlap]
        "a model",
        "a context",
        0.25,
        "some",
    )


def test_a_plugin_registers_it() -> None:
    class Module:
        @staticmethod
        @hookimpl
        def harness_steps(register: Any) -> None:
            register(scale)

    plugins = Plugins()
    plugins.add(Module, Origin("zoo", "zoo", "1"))
    assert plugins.problems == []
    assert plugins.steps.get("scale") is scale  # type: ignore[comparison-overlap]


def test_the_types_of_its_parameters_are_checked() -> None:
    for wrong in (scale("x"), scale(which="none"), scale(None)):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="axis 'how', option 'it': step 'scale': parameter"):
            Matrix(dataset="toy", architecture="conv", how={"it": [wrong]})
    Matrix(dataset="toy", architecture="conv", how={"it": [scale(1)]})


def test_the_kit_s_examples_are_the_defaults() -> None:
    assert scale.examples() == [scale()]
    with pytest.raises(UsageError, match=r"missing.*'by'.*: give it a default, or write a class with examples\(\)$"):
        shift.examples()


def test_a_function_without_a_docstring_is_refused() -> None:
    def bare(model: Any, context: Any) -> Any: ...

    with pytest.raises(UsageError, match="compressor 'bare' has no docstring"):
        compressor(bare)


def test_a_parameter_without_a_type_is_refused() -> None:
    def bare(model, context, rank=3):  # type: ignore[no-untyped-def]
        """Bare."""

    with pytest.raises(UsageError, match=r"parameter 'rank' has no type: write one \(rank: float\)"):
        compressor(bare)


def test_parameters_without_names_are_refused() -> None:
    def greedy(model: Any, context: Any, **more: float) -> Any:
        """Take anything."""

    with pytest.raises(UsageError, match=r"'greedy' takes \*more: name each parameter"):
        compressor(greedy)


def test_a_function_without_model_and_context_is_refused() -> None:
    def poor(model: Any) -> Any:
        """Take nothing else."""

    with pytest.raises(UsageError, match=r"'poor' needs a model and a context .*: write poor\(model, context\)$"):
        compressor(poor)  # type: ignore[arg-type]


def no_default(model, bits: int):  # type: ignore[no-untyped-def]
    """Take one parameter."""


def no_type(model, bits=6):  # type: ignore[no-untyped-def]
    """Take one parameter."""


def optional(network, bits: int | None, *, how: Literal["a", "b"] = "a"):  # type: ignore[no-untyped-def]
    """Take two parameters."""


def several(model, layers: Sequence[str], context):  # type: ignore[no-untyped-def]
    """Take one parameter, and the context after it."""


def keywords(model, *, bits: int = 6):  # type: ignore[no-untyped-def]
    """Take one parameter by name."""


def neither(bits: int = 6):  # type: ignore[no-untyped-def]
    """Take one parameter."""


@pytest.mark.parametrize(
    ("function", "right"),
    [
        (no_default, "no_default(model, context, bits: int)"),
        (no_type, "no_type(model, context, bits = 6)"),
        (optional, "optional(network, context, bits: int | None, how: Literal['a', 'b'] = 'a')"),
        (several, "several(model, context, layers: Sequence[str])"),
        (keywords, "keywords(model, context, bits: int = 6)"),
        (neither, "neither(model, context, bits: int = 6)"),
    ],
)
def test_the_message_for_a_missing_context_shows_the_signature_to_write(function: Any, right: str) -> None:
    with pytest.raises(UsageError) as caught:
        compressor(function)
    assert str(caught.value).endswith(f"needs a model and a context before its parameters: write {right}")


def test_models_and_contexts_may_have_any_type_or_none() -> None:
    def free(model, context):  # type: ignore[no-untyped-def]
        """Take no types."""

    def hidden(model: Module, context: StepContext) -> Any:  # type: ignore[name-defined]  # noqa: F821
        """Take types that only type checkers can see."""

    compressor(free)
    compressor(hidden)


def test_an_unknown_parameter_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"step 'scale' has no parameter 'facter'; did you mean 'factor'\? \(known: "):
        scale(facter=1)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"step 'scale' takes 1 by position and got 2"):
        scale(1, "some")  # type: ignore[call-arg, arg-type]
    with pytest.raises(UsageError, match=r"step 'shift': missing 'by' \(known: by\)"):
        shift()  # type: ignore[call-arg]


def test_a_mistake_is_reported_with_the_author_s_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mistaken.py").write_text("from harness import compressor\n\n\n@compressor\ndef bare(model): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = Plugins()
    plugins.load(EntryPoint("mistaken", "mistaken", "harness"))
    (problem,) = plugins.problems
    assert str(problem).endswith(f"({tmp_path / 'mistaken.py'}, line 4)")
    assert "has no docstring" in str(problem)


def test_a_default_of_another_type_is_refused_on_registration() -> None:
    @compressor
    def six(model: Any, context: Any, bits: int = "6") -> Any:  # type: ignore[assignment]
        """Take bits."""

    assert "the default bits='6': str is not" in (refusal(KINDS["harness_steps"], six) or "")


def test_a_mutable_default_is_refused() -> None:
    def open_(model: Any, context: Any, layers: list[str] = []) -> Any:  # noqa: B006
        """Keep some layers."""

    with pytest.raises(UsageError, match=r"'open_': mutable default layers=\[\]: use a tuple"):
        compressor(open_)


def test_a_type_that_cannot_be_resolved_is_refused() -> None:
    def strange(model: Any, context: Any, rank: Rank) -> Any:  # type: ignore[name-defined]  # noqa: F821
        """Take a rank."""

    with pytest.raises(UsageError, match="'strange': the type of parameter 'rank', 'Rank', cannot be resolved"):
        compressor(strange)
