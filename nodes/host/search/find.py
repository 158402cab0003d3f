"""One search on a MODEL: from what the node receives to a SearchResult.

Everything is checked before the model is loaded. The mask carries the fingerprint of the base weights, without the
patches that happened to be on the model, so that Apply recognises the base with or without a LoRA.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.concept_mask import Where
from ....cones_ops.models.phrases import OWN_WORDS, OwnWords, own_spans
from ....cones_ops.models.targets import TargetChoice, own_tokens_at, select_targets
from ....cones_ops.search.estimate import BYTES, OnEstimate
from ....cones_ops.search.find import SearchResult, find_concept_neurons
from ....cones_ops.search.objective import Examples
from ....cones_ops.search.settings import OnStep, SearchSettings
from ..parameters import parameter_shapes
from ..samples import SampleDrawer, Samples
from ..text.captions import captioned, check_prompts, prompt_name
from ..text.token_positions import ConceptWords, named, phrase, rule_of, token_positions_of
from .borrow import borrow
from .example_inputs import checked_latents, loss_weights
from .host_model import BorrowedModel
from .kept_states import kept_state

SUBJECT, CLASS = "subject", "class"
NO_PICTURES: Mapping[str, Any] = {"samples": ()}


@dataclass(frozen=True)
class SearchInputs:
    """What the user connected: latents dicts and CONDITIONINGs as the host passes them."""

    subject: Mapping[str, Any]
    subject_conditioning: Any
    class_latents: Mapping[str, Any] | None
    class_conditioning: Any | None
    identifier: str
    class_word: str


def search(
    model: Any,
    inputs: SearchInputs,
    choice: TargetChoice,
    settings: SearchSettings,
    density: float | None,
    prior_weight: float,
    on_step: OnStep | None = None,
    where: Where = "everywhere",
    on_estimate: OnEstimate | None = None,
    facts: Mapping[str, str] | None = None,
    samples: Samples | None = None,
) -> SearchResult:
    """Find the concept's neurons; the model is the same afterwards. At own tokens the class inputs are not used.

    A search that is cancelled or killed resumes where it was when it is called with the same inputs.

    facts: what else the mask's provenance should hold. samples: pictures to draw during the search.
    """
    shapes = parameter_shapes(model)
    names = select_targets(shapes, choice)
    words = checked_words(inputs)
    captions = captioned(SUBJECT, inputs.subject_conditioning, len(inputs.subject["samples"]), [words])
    prior_inputs = checked_class(inputs) if where == "everywhere" else ({}, {})
    latents = checked_latents({SUBJECT: inputs.subject} | prior_inputs[0])
    subject_weights, class_weights = loss_weights(inputs.subject), loss_weights(prior_inputs[0].get(CLASS, NO_PICTURES))
    provenance = dict(facts or {})
    own_words = OWN_WORDS[0]
    if where == "own tokens":
        used, own_words = own_token_facts(captions, words, names, shapes)
        provenance |= used

    def body(host: BorrowedModel) -> SearchResult:
        prior_latents = host.latents.get(CLASS, host.latents[SUBJECT])
        prior = Examples(prior_latents, [CLASS], class_weights) if CLASS in host.conds else None
        drawer = on_step
        if samples is not None:
            drawer = SampleDrawer(samples, host, next(iter(captions)), host.latents[SUBJECT][0], on_step)
        return find_concept_neurons(
            host,
            Examples(host.latents[SUBJECT], list(captions), subject_weights),
            prior,
            identifier=words[0],
            class_word=words[1],
            settings=settings,
            density=density,
            prior_weight=prior_weight,
            distill=prior is not None and CLASS not in host.latents,
            own_words=own_words,
            provenance=provenance,
            on_step=drawer,
            on_estimate=on_estimate,
            resume=resume,
        )

    with kept_state(model, captions, prior_inputs[1], words) as resume:
        return borrow(
            model,
            captions | prior_inputs[1] | (samples.conditionings if samples else {}),
            latents,
            names,
            body,
            rows=settings.batch,
            concepts=[words] if where == "own tokens" else [],
            statistics=BYTES[settings.method],
        )


def checked_words(inputs: SearchInputs) -> tuple[str, str]:
    """Identifier and class word, both needed to name the concept."""
    identifier, class_word = inputs.identifier.strip(), inputs.class_word.strip()
    if not identifier or not class_word:
        raise ConesError(
            f'identifier "{identifier}", class word "{class_word}": both are needed, as in "sks" and "cat"; '
            "use the words of the subject's prompt"
        )
    own_spans("", identifier)  # refuses everyday words
    return identifier, class_word


def checked_class(inputs: SearchInputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """Latents (maybe none) and CONDITIONING of the class, by label."""
    if inputs.class_conditioning is None:
        raise ConesError(
            "class_conditioning is not connected; without it every other prompt would suffer. "
            "Encode the prompt without "
            'the identifier ("a cat") and connect it; class pictures are optional. Or search at own tokens, which '
            "needs neither"
        )
    latents = {} if inputs.class_latents is None else {CLASS: inputs.class_latents}
    check_prompts(CLASS, inputs.class_conditioning, len((inputs.class_latents or inputs.subject)["samples"]))
    return latents, {CLASS: inputs.class_conditioning}


def own_token_facts(
    captions: Mapping[str, Any], concept: ConceptWords, names: Sequence[str], weights: Container[str]
) -> tuple[dict[str, str], OwnWords]:
    """Which tokens a search used, for the mask's provenance, and by which rule; ConesError where there are none.

    weights: the names of all the model's weights.
    """
    if others := [name for name in names if own_tokens_at(name, weights) is None]:
        raise ConesError(
            f"{listed(others)} do not read the text, or not where its tokens can be told apart, and so have no own "
            "tokens; choose text targets, or where = everywhere"
        )
    prompts = [
        tokens
        for number, caption in enumerate(captions.values(), 1)
        for tokens in token_positions_of(caption, concept, prompt_name(SUBJECT, number, len(captions)))
    ]
    places = dict.fromkeys(
        f'"{named(tokens.own_words, concept, phrase(concept))}", '
        f"{', '.join(str(int(k)) for k in tokens.of(concept))} of {tokens.encoded.shape[1]}"
        for tokens in prompts
    )
    rules = dict.fromkeys(rule_of(tokens, concept) for tokens in prompts)
    if len(rules) > 1:
        raise ConesError(
            f'the prompts own {" and ".join(rules)} of "{phrase(concept)}"; encode all of them with one own_tokens'
        )
    rule = next(iter(rules), OWN_WORDS[0])  # none: an empty conditioning, refused later
    return {"own_tokens": f"{rule}, at {'; '.join(list(places)[:5])}"}, rule
