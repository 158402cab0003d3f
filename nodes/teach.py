"""Teach a Concept: pictures in, a saved concept and the words to use out; everything between is done here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from comfy_api.latest import io

from ..cones_ops.models.phrases import PHRASE
from ..cones_ops.models.rare_words import with_article
from ..cones_ops.reports.text import facts_text
from ..cones_ops.search.find import SearchResult
from ..cones_ops.search.settings import recommended
from .host.files.folders import FOLDER, SUFFIX
from .host.files.model_info import base_facts
from .host.files.save_mask import keep_mask
from .host.inputs import (
    ALIASES,
    CATEGORY,
    TEACHING,
    ConceptMaskSocket,
    as_image,
    check_file_name,
    drawn,
    file_inputs,
    preview,
    sample_input,
    seed_input,
)
from .host.lessons import (
    Artist,
    Lesson,
    before_after,
    beside_others,
    concept_of,
    fitted,
    other_things,
    own_captions,
)
from .host.notices import warn
from .host.samples import Samples
from .host.search.example_inputs import only
from .host.search.find import SearchInputs, search
from .host.search.kept_states import kept_state
from .host.search.progress import SearchProgress
from .host.text.encode import encode_prompt
from .host.text.token_positions import ConceptWords, phrase
from .pictures import safe_covers

DEFAULTS = {"identifier": "", "steps": 300, "beside": 24, "other_things": "", "size": 0, "cfg": 0.0, "sample_every": 50}


class ConesTeachConcept(io.ComfyNode):  # type: ignore[misc]
    """Crop, encode, caption, draw neighbours, search, save, show."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesTeachConcept",
            display_name="Teach a Concept",
            category=CATEGORY,
            description=(
                "Teaches the model a subject from 3 to 10 pictures, and saves it as a concept. The node crops and "
                "encodes the pictures, writes captions, draws other things beside the subject, searches with the "
                "recommended settings, and shows the result. Then use the concept in Prompt with Concepts."
            ),
            search_aliases=[*ALIASES, *TEACHING, "fine-tune"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that should learn the subject. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint."),
                io.Image.Input(
                    "images",
                    tooltip=(
                        "3 to 10 pictures that show the subject, in the middle and on different backgrounds: a batch, "
                        "or a list in any sizes, such as a folder."
                    ),
                ),
                io.String.Input(
                    "class_word",
                    default="dog",
                    tooltip='What the subject is, in a word or two that everybody knows: "dog", "coffee mug".',
                ),
                *file_inputs(FOLDER),
                io.String.Input(
                    "captions",
                    force_input=True,
                    optional=True,
                    tooltip=(
                        "Optional: what each picture shows, as one text with a line per picture, or as the list that "
                        "Load Image-Text (from Folder) reads from .txt files beside the pictures. Use the word from "
                        "class_word. Without a caption, only the subject is named."
                    ),
                ),
                io.String.Input(
                    "identifier",
                    display_name="identifier (rare word)",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        'The rare word that names the subject in prompts, such as sks in "a sks dog". Empty: a word '
                        "that the text encoder tells apart and that none of your other concepts has."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS["steps"],
                    min=1,
                    max=10000,
                    optional=True,
                    advanced=True,
                    tooltip="Steps of the search; the time grows in proportion. 300 is usual.",
                ),
                io.Int.Input(
                    "beside",
                    display_name="pictures beside other things",
                    default=DEFAULTS["beside"],
                    min=0,
                    max=128,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How many pictures of the subject beside other things to make, 0 to 128. They teach the "
                        "search what does not belong to the subject. 24 is usual."
                    ),
                ),
                io.String.Input(
                    "other_things",
                    display_name="which other things",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        'What stands beside the subject in these pictures, separated by commas, such as "chair, '
                        'ball". The model draws them. Empty: common things that the text encoder knows.'
                    ),
                ),
                io.Int.Input(
                    "size",
                    display_name="size (0 = usual)",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Side of the pictures in pixels, up to 4096. 0: what this kind of model usually draws.",
                ),
                io.Float.Input(
                    "cfg",
                    display_name="cfg (0 = usual)",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Guidance (cfg, up to 100) of the pictures drawn here. 0: usual for this kind of model.",
                ),
                seed_input("Seed of the noise. The same seed and inputs give the same concept."),
                sample_input(DEFAULTS["sample_every"]),
            ],
            outputs=[
                ConceptMaskSocket.Output(display_name="concept_mask", tooltip="The concept, also saved as a file."),
                io.String.Output(display_name="name", tooltip="The name of the file, for tags and Load Concept Mask."),
                io.String.Output(display_name="words", tooltip='How to name the subject in a prompt: "a sks dog".'),
                io.Image.Output(
                    display_name="before_after",
                    tooltip="Your picture, and what the model draws for the words without and with the concept.",
                ),
                io.String.Output(display_name="report", tooltip="The result in words; the first line says it all."),
            ],
        )

    @classmethod
    def execute(cls, images: list[torch.Tensor], captions: Sequence[str] = ("",), **others: list[Any]) -> io.NodeOutput:
        choice = SimpleNamespace(**DEFAULTS | only(**others))
        artist = Artist.of(choice.model, choice.clip, choice.vae, choice.size, choice.cfg, choice.seed)
        concept = concept_of(choice, artist)
        subject = fitted(images, artist.side)
        alone = own_captions(captions, len(subject), concept)
        things = other_things(artist, choice.other_things, concept[1])
        progress = SearchProgress(before=-(-choice.beside // 2) if things else 0, after=2 + bool(things))
        artist = replace(artist, drew=progress.drew)
        with kept_state(artist.model) as drawings:
            beside = beside_others(replace(artist, drawings=drawings), subject, concept, things, choice.beside)
            lesson = Lesson(torch.cat([subject, beside.pictures]), [*alone, *beside.captions])
            result = taught(artist, lesson, concept, choice, progress)
        name, notes = "", ""
        if result.mask.count:
            cover, no_cover = safe_covers(subject)
            name, trouble = keep_mask(result.mask, choice.name, choice.if_exists == "overwrite", cover)
            notes = "\n".join(filter(None, (trouble, no_cover)))
        words = with_article(phrase(concept))
        figure, no_figure = drawn(lambda: before_after(artist, subject, result.mask, concept, things))
        report = "\n".join(filter(None, (verdict(name, words), notes, no_figure, "", facts_text(result))))
        progress.finish(figure, report)
        if notes or not name:
            warn(report)
        picture = as_image(figure)
        return io.NodeOutput(result.mask, name, words, picture, report, ui=preview(cls, picture, report))

    @classmethod
    def validate_inputs(cls, name: Sequence[str | None] = (None,)) -> bool | str:
        """Before minutes of search are spent: the name can be a file's."""
        return check_file_name(name[0])


def taught(
    artist: Artist, lesson: Lesson, concept: ConceptWords, choice: Any, progress: SearchProgress
) -> SearchResult:
    """The search at own tokens on the pictures of a lesson."""
    latents = {"samples": artist.vae.encode(lesson.pictures)}
    prompts = [encode_prompt(artist.clip, caption, [concept], PHRASE) for caption in lesson.captions]
    conditioning = [entry for prompt in prompts for entry in prompt.conditioning]
    settings = replace(recommended("own tokens", seed=artist.seed), steps=choice.steps)
    inputs = SearchInputs(latents, conditioning, None, None, *concept)
    facts = base_facts(artist.model, latents)
    samples = None
    if choice.sample_every:
        class_prompt = encode_prompt(artist.clip, with_article(concept[1]), ()).conditioning
        shown = (artist.negative, progress.show, artist.seed, class_prompt, artist.vae)
        samples = Samples(choice.sample_every, artist.cfg, *shown)
    return search(
        *(artist.model, inputs, "text K+V", settings, None, 1.0, progress, "own tokens", progress.expect, facts),
        samples=samples,
    )


def verdict(name: str, words: str) -> str:
    """The first line of the report. words: what names the subject in a prompt."""
    if not name:
        return (
            "NOT FOUND. Use other pictures or more steps\n"
            f"No share of the weights makes the model draw {words}; nothing was saved"
        )
    tag = name.removesuffix(SUFFIX)
    return f"FOUND. Type: a <concept:{tag}> in Prompt with Concepts\nOr type: {words}, where the concept is applied"
