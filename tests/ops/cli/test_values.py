"""Options are checked while they are read."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from cones_ops.cli import main, parser
from cones_ops.cli.values import device, pattern, printable, real, side, whole, word


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (whole(1, 9), "9", 9),
        (real(0, 1), "1e-3", 0.001),
        (side, "512", 512),
        (device, "cpu", "cpu"),
        (word, " sks ", "sks"),
        (pattern, "learned|cones", "learned|cones"),
    ],
)
def test_values_that_fit(parse, text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (whole(1, 9), "0", "'0' is not a whole number from 1 to 9"),
        (whole(1, 9), "9" * 5000, "is not a whole number"),
        (whole(1, 9), "1.5", "is not a whole number"),
        (real(0, 1), "nan", "'nan' is not a number from 0 to 1"),
        (real(0, 1), "4", "is not a number from 0 to 1"),
        (real(0, 1, above=True), "0", "is not a number above 0 to 1"),
        (side, "15", "15 is not a multiple of 8; 16 is"),
        (side, "100000", "is not a whole number from 8 to 8192"),
        (device, "gpu", "'gpu' is no device"),
        (device, "meta", "'meta' is no device for models"),
        (word, " ,", "has no word in it"),
        (pattern, "[", "is not a regular expression"),
    ],
)
def test_values_that_do_not_fit_are_named(parse, text: str, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [("own-tokens", "own tokens"), ("own tokens", "own tokens"), ("everywhere", "everywhere"), (None, "own tokens")],
)
def test_a_choice_with_spaces_may_have_dashes(text: str | None, where: str) -> None:
    find = ["find", "toy", "sks", "--class-word", "cat", "--out", "m.safetensors"]
    options = parser().parse_args([*find, *(["--where", text] if text else [])])
    assert (options.where, options.targets) == (where, "text K+V")


def test_another_choice_is_refused_with_those_there_are(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["shelf", "masks", "--where", "own-token"])
    assert "invalid choice: 'own-token' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--steps", "0"],
        ["--batch", "0"],
        ["--batch", "9" * 20],
        ["--density", "nan"],
        ["--density", "4"],
        ["--size", "15"],
        ["--seed", "9" * 20],
        ["--class-word", " "],
    ],
)
def test_a_wrong_option_ends_the_command_before_it_looks_at_a_file(wrong: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["find", "no-model", "no-pictures", "--class-word", "dog", "--out", "m.safetensors", *wrong])
    assert ended.value.code == 2 and f"argument {wrong[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("strength", ["nan", "inf", "-1", "1.5"])
def test_strengths_follow_the_rule_of_the_library(strength: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["apply", "no-model", "no-mask", "--prompt", "a sks dog", "--strength", strength])
    assert f"argument --strength: '{strength}' is not a number from 0 to 1" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_before_any_file(capsys) -> None:
    find = ["find", "no-model", "no-pictures", "--class-word", "dog", "--out", "m.safetensors"]
    assert main([*find, "--device", "cuda:99"]) == 2
    assert "--device cuda:99: this torch sees" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "out", "message"),
    [
        ("find {no} {no} --class-word dog", "m.pt", "must end in .safetensors"),
        ("find {no} {no} --class-word dog", "x" * 250 + ".safetensors", "a name of 262 bytes"),
        ("find {no} {no} --class-word dog", "file/m.safetensors", "file is not a folder"),
        ("tune {no} --concept {no}/m.safetensors {no}", "file", "file is not a folder"),
        ("export {no} {no}", "m.pt", "must end in .safetensors"),
        ("apply {no} {no} --prompt dog", "file", "file is not a folder"),
    ],
)
def test_where_results_go_is_checked_before_any_model(tmp_path, command: str, out: str, message: str, capsys) -> None:
    (tmp_path / "file").write_bytes(b"")
    arguments = command.format(no=tmp_path / "nothing").split()
    assert main([*arguments, "--out", str(tmp_path / out)]) == 2
    assert message in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ctrl_c_prints_a_line(monkeypatch, capsys) -> None:
    def pressed(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cones_ops.masks.mask_file.load_mask", pressed)
    assert main(["info", "m.safetensors"]) == 130
    assert capsys.readouterr().err == "cones: stopped; the same command resumes a search that it had begun\n"


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[2J\u202eb\nc\ud800 猫") == "a\\x1b[2J\\u202eb\nc\\ud800 猫"
