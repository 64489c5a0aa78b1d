"""Every bad input: a clear message with file and line, exit code 2, nothing written, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.samples import DOCUMENT, MODEL, Command, Ended, line_of

UNCAPTURABLE = MODEL.replace(
    "return torch.relu(self.linear(x)) * 2.0",
    "y = self.linear(x)\n        if y.sum().item() > 0:\n            return y * 2.0\n        return y",
)
WRONG_INPUTS = MODEL.replace("torch.rand(6, 16)", "torch.rand(6, 17)")


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def check(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err, ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DOCUMENT.replace("```python", "").replace("```", ""), ("document.txt", "code block")),
        (
            DOCUMENT.replace("def scale(x):", "def scale(x:"),
            (f"document.txt:{line_of(DOCUMENT, 'def scale(x)')}:", "does not parse"),
        ),
        (DOCUMENT.replace("class ModelNew", "class Model"), ("document.txt", "ModelNew")),
        (
            DOCUMENT.replace('"launch__grid_size": 12,', '"launch__grid_size" 12,'),
            (f"document.txt:{line_of(DOCUMENT, 'launch__grid_size')}:", "JSON"),
        ),
        (DOCUMENT.replace("# Target GPU: 4090", "# Target GPU: 4091"), ("4091", "4090")),
    ],
    ids=["no-code-block", "does-not-parse", "no-ModelNew", "metrics-not-json", "unknown-gpu"],
)
@pytest.mark.parametrize("name", ["optimize", "inspect", "prompt"])
def test_bad_documents(command: Command, folder: Path, name: str, text: str, words: tuple[str, ...]) -> None:
    (folder / "document.txt").write_text(text)
    before = everything(folder)
    extra = {"optimize": ["--reference", "model.py", "--out", "out"], "prompt": ["--stage", "block_tiling"]}
    check(command(name, "document.txt", *extra.get(name, [])), *words)
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MODEL.replace("class Model(", "class Other("), ("model.py", "Model")),
        (MODEL.replace("def get_inputs", "def make_inputs"), ("model.py", "get_inputs")),
        (MODEL.replace("super().__init__()", "super().__init__("), ("model.py:", "does not parse")),
        (
            MODEL.replace("return [16]", "return 1 / 0"),
            (f"model.py:{line_of(MODEL, 'return [16]')}:", "get_init_inputs"),
        ),
        (WRONG_INPUTS, ("do not fit", "17")),
        (UNCAPTURABLE, ("cannot be captured", "item()")),
    ],
    ids=["no-Model", "no-get_inputs", "does-not-parse", "raises", "inputs-do-not-fit", "cannot-be-captured"],
)
@pytest.mark.parametrize("name", ["optimize", "inspect"])
def test_bad_modules(command: Command, folder: Path, name: str, text: str, words: tuple[str, ...]) -> None:
    (folder / "model.py").write_text(text)
    before = everything(folder)
    extra = ["--out", "out"] if name == "optimize" else []
    check(command(name, "model.py", "--gpu", "4090", *extra), *words)
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["document.txt"], ("--reference FILE", "--init", "--inputs")),
        (["document.txt", "--init", "[]"], ("--inputs",)),
        (["document.txt", "--init", "[", "--inputs", "rand(8)"], ("init",)),
        (["document.txt", "--init", "[]", "--inputs", "__import__('os').system('touch pwned')"], ("inputs",)),
        (["document.txt", "--init", "[open('pwned', 'w')]", "--inputs", "rand(8)"], ("init",)),
        (["document.txt", "--init", "[1, 2]", "--inputs", "rand(8)"], ("ModelNew",)),
        (["document.txt", "--reference", "none.py"], ("none.py",)),
        (["document.txt", "--reference", "document.txt"], ("document",)),
        (["none.txt"], ("none.txt",)),
        (["."], ("folder",)),
        (["model.py", "--gpu", "5909"], ("5909", "5090")),
        (["model.py", "--gpu", "none.toml"], ("none.toml",)),
        (["model.py", "--stage", "document"], ("document",)),
    ],
)
def test_bad_arguments(command: Command, folder: Path, arguments: list[str], words: tuple[str, ...]) -> None:
    before = everything(folder)
    check(command("optimize", *arguments, "--out", "out"), *words)
    assert everything(folder) == before


def test_a_folder_of_results_that_cannot_be_one(command: Command, folder: Path) -> None:
    check(command("optimize", "model.py", "--gpu", "4090", "--out", "document.txt"), "document.txt", "not a folder")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["optimize"],
        ["optimise", "model.py"],
        ["optimize", "model.py", "--stage", "warp_speed"],
        ["optimize", "model.py", "--effort", "heroic"],
        ["optimize", "model.py", "--precision", "fp8"],
        ["optimize", "model.py", "--rules", "lax"],
        ["optimize", "model.py", "--unknown"],
        ["prompt", "model.py"],
        ["verify", "model.py"],
    ],
)
def test_a_wrong_command_line(command: Command, folder: Path, arguments: list[str]) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["inspect", "none.txt", "--json"], "TilewrightError"),
        (["optimize", "document.txt", "--json"], "MissingReferenceError"),
        (["optimize", "model.py", "--gpu", "5909", "--json"], "UnknownGpuError"),
        (["optimize", "--json"], "UsageError"),
    ],
)
def test_errors_as_json(command: Command, folder: Path, arguments: list[str], kind: str) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    assert ended.json["error"] == kind
    assert ended.json["exit_code"] == 2
    assert ended.err


def test_an_error_of_ours_is_short_and_says_how_to_see_more(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("the table caught fire\nand more")

    monkeypatch.setattr("tilewright.gpu.table.all_gpus", broken)
    ended = command("gpus")
    assert ended.code == 70
    assert "the table caught fire" in ended.err
    assert "--debug" in ended.err
    assert "Traceback" not in ended.err
    with pytest.raises(RuntimeError):
        command("--debug", "gpus")


@pytest.mark.parametrize("name", ["none.py", "empty.py", "prose.md", "two.md", "broken.py"])
def test_bad_candidates(command: Command, folder: Path, name: str) -> None:
    (folder / "empty.py").write_text("")
    (folder / "prose.md").write_text("I would use shared memory.")
    (folder / "two.md").write_text("```python\nx = 1\n```\nor\n```python\nx = 2\n```\n")
    (folder / "broken.py").write_text("class ModelNew(")
    check(command("verify", "model.py", name, "--gpu", "4090"), name)
