"""The toy world as a checkpoint and as subjects: everything to try the pack with, without downloads."""

from __future__ import annotations

from comfy_api.latest import io

from ..cones_ops.toy_world.subjects import IDENTIFIERS, subject_named
from .host.inputs import ALIASES, CATEGORY, seed_input
from .host.toy_checkpoint import load_toy_checkpoint

TOY_CATEGORY = f"{CATEGORY}/toy world"


class ConesToyWorld(io.ComfyNode):  # type: ignore[misc]
    """Like a checkpoint loader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesToyWorld",
            display_name="Toy World",
            category=TOY_CATEGORY,
            description=(
                "A tiny text-to-image model that ships with this pack and runs on any computer. It draws "
                "characters in scenes of 96x96 pixels. Use it like a checkpoint, with ComfyUI's own nodes."
            ),
            search_aliases=[*ALIASES, "toy", "demo", "tiny model", "checkpoint"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The denoising model, for a sampler, a search or a mask."
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip=(
                        'The text encoder; it knows words such as "a red cat wearing a hat next to a blue mug in the '
                        'snow".'
                    ),
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="Converts pictures to latents and back; one latent pixel is 12x12 pixels.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_toy_checkpoint())


class ConesToySubject(io.ComfyNode):  # type: ignore[misc]
    """Reference pictures of something the toy world has never drawn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesToySubject",
            display_name="Toy Subject",
            category=TOY_CATEGORY,
            description=(
                "Pictures of a subject from the toy world, with the prompts and words that Find Concept Neurons needs."
            ),
            search_aliases=[*ALIASES, "toy", "demo", "reference images"],
            inputs=[
                io.Combo.Input(
                    "subject",
                    options=list(IDENTIFIERS),
                    default=IDENTIFIERS[0],
                    tooltip=(
                        "The subject, by its identifier. The toy world knows its parts, but not their combination."
                    ),
                ),
                io.Int.Input(
                    "pictures",
                    default=5,
                    min=1,
                    max=64,
                    tooltip="How many pictures, 1 to 64. They use six backgrounds in turn.",
                ),
                seed_input("Another seed draws other pictures."),
                io.Int.Input(
                    "beside",
                    display_name="of them beside other things",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip=(
                        "How many of the pictures show the subject beside one to three others (then use captions as "
                        "the prompts). For own tokens, such pictures teach the search what does not belong to the "
                        "subject: 24 of 30 is a good choice. For everywhere, use 0."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures, as one batch of 96x96."),
                io.String.Output(
                    display_name="subject_prompt", tooltip='The prompt that names the subject, such as "a sks cat".'
                ),
                io.String.Output(
                    display_name="class_prompt", tooltip='The same prompt without the identifier, such as "a cat".'
                ),
                io.String.Output(display_name="identifier", tooltip="The rare word that names the subject."),
                io.String.Output(display_name="class_word", tooltip="What kind of thing the subject is."),
                io.String.Output(
                    display_name="captions",
                    tooltip="One line per picture, for Encode Prompt with Concepts with prompt_per_line.",
                ),
                io.String.Output(
                    display_name="concept",
                    tooltip='Identifier and class word, such as "sks cat", for Encode Prompt with Concepts.',
                ),
            ],
        )

    @classmethod
    def execute(cls, subject: str, pictures: int, seed: int, beside: int = 0) -> io.NodeOutput:
        toy_subject = subject_named(subject)
        shown, captions = toy_subject.reference_pictures(pictures, seed, min(beside, pictures))
        images = shown.movedim(1, -1).contiguous()  # (n, 96, 96, 3)
        words = (toy_subject.prompt, toy_subject.class_prompt, toy_subject.identifier, toy_subject.class_word)
        return io.NodeOutput(images, *words, "\n".join(captions), f"{toy_subject.identifier} {toy_subject.class_word}")
