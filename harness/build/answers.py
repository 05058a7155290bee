"""Whether a network answers as its task asks: one finite number for each label."""

from __future__ import annotations

import torch


def wrong_answer(model: torch.nn.Module, example: torch.Tensor, labels: int) -> str | None:
    """What is wrong with what ``model`` answers to ``example`` (1, *input_shape) in evaluation mode, or None.

    The model stays in evaluation mode. Whatever it raises passes.
    """
    model.eval()
    with torch.no_grad():
        answer = model(example.clone())
    if not isinstance(answer, torch.Tensor):
        return f"answers with {type(answer).__name__}, not with a tensor of shape (1, {labels})"
    if tuple(answer.shape) != (1, labels):
        return (
            f"answers one example with the shape {tuple(answer.shape)}, not (1, {labels}): "
            "a step keeps the shapes of inputs and answers, one number for each label"
        )
    wrong = labels - int(answer.isfinite().sum())
    if wrong:
        return f"answers NaN or infinity for {wrong} of {labels} labels of one example"
    return None
