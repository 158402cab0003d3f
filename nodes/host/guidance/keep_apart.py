"""Keep Concepts Apart while sampling: regions are read in the first steps, then a bias keeps concepts to them.

Nothing is replaced and no weight is patched: in each pass of the model an `optimized_attention_override` reads or
changes the attention that looks at the text, and hooks on the K projections say which one that is. Both are gone after
the pass. Settings are kept in transformer_options, so clones carry them; the latest run is left in their `Recording`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.guidance.regions import Bias
from ..apply.token_hooks import refuse_compiled
from ..parameters import layer_of, parameter_shapes
from ..text.token_positions import rows_in, text_and_options
from .apart_run import NOT_READ, ApartRun, GroupedRows, ModelPass, PromptRun, new_maps, step_of
from .attention_layout import read_projections, text_projections
from .attention_override import overriding
from .prompt_groups import encoded_prompts, group_names, groups_by_uuid
from .recording import KEY, RecordedPrompt, Recording, Settings

RUN = KEY + "_run"
OVERRIDE = "optimized_attention_override"


def keep_apart(model: Any, words: tuple[str, ...], strength: float = 1.0, drawn: Tensor | None = None) -> Any:
    """A clone of model that keeps the concepts of its prompts, and the other things named by `words`, apart.

    strength: 0 changes nothing and records where the words look, 1 acts in full. drawn: regions (C, H, W) in [0, 1],
    one for each of `words`, in place of those that are read; then the words alone are kept apart.
    """
    Bias.of(strength)
    if drawn is not None and len(drawn) != len(words):
        raise ConesError(
            f"{len(drawn)} regions are drawn for {len(words)} words; name each region in words, in the same order, "
            "with commas between them"
        )
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    if KEY not in options:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model)
    options[KEY] = Settings(strength, words, drawn, Recording())
    return clone


def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's OUTER_SAMPLE: find the groups of tokens in this run's conditionings, and record the run."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]  # this run's own copy
    settings: Settings = options[KEY]
    run = new_run(guider, settings)
    options[RUN] = run
    settings.recording.names, settings.recording.prompts = run.names, []
    try:
        result = executor(*args, **kwargs)
    finally:
        options.pop(RUN, None)
    whole = {cond["uuid"] for cond in encoded_prompts(guider.conds) if cond.get("area") is None}
    read = {uuid: prompt for uuid, prompt in run.prompts.items() if prompt.maps.total is not None}
    settings.recording.prompts = [recorded(prompt) for uuid, prompt in read.items() if uuid in whole]
    if run.prompts and not read:
        run.warn_once(NOT_READ)
    return result


def new_run(guider: Any, settings: Settings) -> ApartRun:
    """The run of a guider's conditionings; warns where there is nothing to keep apart."""
    prompts = encoded_prompts(guider.conds)
    names = group_names(prompts, settings.words, settings.drawn is not None)
    by_uuid = groups_by_uuid(prompts, names)
    shapes = parameter_shapes(guider.model_patcher)
    projections, read = text_projections(shapes), read_projections(shapes)
    single = len(read) < len(projections)
    drawn = None if settings.drawn is None else settings.drawn[None].float()
    bias = Bias.of(settings.strength)
    runs = {
        uuid: PromptRun(torch.tensor([len(group) > 0 for group in tokens.positions]), drawn, bias, new_maps(single))
        for uuid, tokens in by_uuid.items()
    }
    run = ApartRun(names, by_uuid, runs, projections, read)
    for text in notes(run, bool(prompts), settings):
        run.warn_once(text)
    return run


def notes(run: ApartRun, encoded: bool, settings: Settings) -> Iterator[str]:
    """What a user should know of a run in which something has no effect."""
    if not encoded:
        yield "Use Encode Prompt with Concepts, not CLIP Text Encode: Keep Concepts Apart has no effect without it"
        return
    present = [prompt.present.tolist() for prompt in run.prompts.values()]
    missing = [name for k, name in enumerate(run.names) if not any(groups[k] for groups in present)]
    if missing:
        yield f"Write the things as in the prompt: no prompt contains {', '.join(missing)}, for Keep Concepts Apart"
    if settings.strength and run.prompts and not any(prompt.competes for prompt in run.prompts.values()):
        yield (
            'Write the other things of the prompt into "things": Keep Concepts Apart has no effect, because each '
            "prompt names one thing only. Write commas between them"
        )


def recorded(prompt: PromptRun) -> RecordedPrompt:
    """What is kept of a prompt after the run, on the CPU."""
    coverage = None if prompt.coverage is None else prompt.coverage.float().cpu()
    return RecordedPrompt(prompt.present, prompt.maps.mean().cpu(), coverage)


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's APPLY_MODEL: with the override if the batch has a prompt with groups, else as it is."""
    text, options = text_and_options(args, kwargs)
    run: ApartRun | None = options.get(RUN)
    rows = list(rows_in(options.get("uuids", ()), text, run.by_uuid)) if run else []
    if run is None or not rows:
        return executor(*args, **kwargs)
    diffusion_model = executor.class_obj.diffusion_model
    refuse_compiled(diffusion_model, options, "remove the compile node, or Keep Concepts Apart")
    step, probe = step_of(options)
    grouped = [GroupedRows(run.prompts[part.uuid], part.start, part.stop, part.positions) for part in rows]
    for part in grouped:
        part.prompt.begin_step(step, probe)
    latent = tuple((args[0] if args else kwargs["x"]).shape)
    model_pass = ModelPass(run, grouped, diffusion_model, text.shape[1], latent)
    with overridden(model_pass, options):
        return executor(*args, **kwargs)


@contextmanager
def overridden(model_pass: ModelPass, options: Any) -> Iterator[None]:
    """The override in a pass's options and the hooks that announce attention to the text, removed on every path."""
    previous = options.get(OVERRIDE)
    options[OVERRIDE] = overriding(model_pass, previous)
    handles = []
    try:
        for name in model_pass.run.projections:
            module, _ = layer_of(model_pass.diffusion_model, name)
            handles.append(module.register_forward_pre_hook(announcing(model_pass, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        options.pop(OVERRIDE)
        if previous is not None:
            options[OVERRIDE] = previous


def announcing(model_pass: ModelPass, name: str) -> Any:
    """A hook that says that the next attention reads the text."""

    def announce(*_: Any) -> None:
        model_pass.next_text = name

    return announce
