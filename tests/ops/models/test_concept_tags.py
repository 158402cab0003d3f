"""Tags of concepts in prompts: what they name, what stands in their place, and clear errors."""

import pytest

from cones_ops.errors import ConesError
from cones_ops.models.concept_tags import Tag, file_named, prompt_words, strengths, tags_in, without_tags

FILES = ["rex.safetensors", "people/Tom Cat.safetensors", "old/rex2.safetensors", "toys/bear.safetensors"]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("a plain (prompt:1.2) with <lora:x:1>", []),
        ("a <concept:rex> and a < Concept : people/Tom  Cat : .5 >", [Tag("rex", 1.0), Tag("people/Tom Cat", 0.5)]),
        ("<concept:rex:0><concept:rex:1>", [Tag("rex", 0.0), Tag("rex", 1.0)]),
        ("<concept:雷克斯:1e-1>", [Tag("雷克斯", 0.1)]),
    ],
)
def test_tags_are_read_in_order(text, tags):
    assert tags_in(text) == tags


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <concept:rex and more", "has no end"),
        ("a <concept:rex <concept:tom>", "'<concept:rex' has no end"),
        ("a <concept: >", "names no concept"),
        ("a <concept::0.5>", "names no concept"),
        ("a <concept:rex:strong>", "strength .* 'strong'; write a number from 0 to 1"),
        ("a <concept:rex:>", "from 0 to 1"),
        ("a <concept:rex:1.5>", "'1.5'"),
        ("a <concept:rex:-1>", "'-1'"),
        ("a <concept:rex:nan>", "'nan'"),
        ("a <concept:rex:0.5:0.5>", "'0.5:0.5'"),
    ],
)
def test_broken_tags_are_named(text, message):
    with pytest.raises(ConesError, match=message):
        tags_in(text)


def test_words_stand_where_the_tags_were():
    text = "a photo of <concept:rex> next to (<concept:tom:0.8>:1.1), <concept:rex>"
    words = {"rex": "sks dog", "tom": r"zwx\1 cat"}
    assert without_tags(text, words.__getitem__) == r"a photo of sks dog next to (zwx\1 cat:1.1), sks dog"


def test_one_name_has_one_strength():
    assert strengths([Tag("rex", 0.5), Tag("tom", 1.0), Tag("rex", 0.5)]) == {"rex": 0.5, "tom": 1.0}
    with pytest.raises(ConesError, match=r"<concept:rex> has the strengths 0.5 and 1; give it the same one"):
        strengths([Tag("rex", 0.5), Tag("rex", 1.0)])


@pytest.mark.parametrize(
    ("identifier", "class_word", "words"),
    [
        ("sks", "dog", "sks dog"),
        ("sks", "", "sks"),
        ("sks+zwx", "dog+cat", "sks dog and zwx cat"),
        ("sks+zwx", "dog", "sks dog and zwx dog"),
    ],
)
def test_the_words_of_a_concept(identifier, class_word, words):
    assert prompt_words(identifier, class_word) == words


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("rex", "rex.safetensors"),
        ("REX.safetensors", "rex.safetensors"),
        ("tom cat", "people/Tom Cat.safetensors"),
        ("People\\tom cat", "people/Tom Cat.safetensors"),
        ("toys/bear", "toys/bear.safetensors"),
    ],
)
def test_names_forgive_case_and_folder(name, file):
    assert file_named(name, FILES) == file


def test_a_path_is_preferred_to_a_name_in_a_folder():
    assert file_named("rex", [*FILES, "dogs/rex.safetensors"]) == "rex.safetensors"


def test_unknown_and_ambiguous_names_are_explained():
    with pytest.raises(ConesError, match='no concept "rexx": the nearest names are: old/rex2, rex'):
        file_named("rexx", FILES)
    with pytest.raises(ConesError, match=r'no concept "tomcat": the nearest names are: people/Tom Cat'):
        file_named("tomcat", FILES)
    with pytest.raises(ConesError, match=r'no concept "zebra": .*bear'):
        file_named("zebra", FILES)
    with pytest.raises(ConesError, match="there is no concept mask yet"):
        file_named("rex", [])
    with pytest.raises(ConesError, match=r'"bear" may be .*write the folder too, as in <concept:folder/bear>'):
        file_named("bear", [*FILES, "wild/Bear.safetensors"])
