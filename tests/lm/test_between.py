"""A compiled Llama says what the plain one says, for any number of tokens; without a compiler one line says so."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from test_huggingface import write_model

from monosem.errors import ModelError
from monosem.lm import between, source
from monosem.lm.packed import Packed
from monosem.recipe import ModelRecipe


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of PyTorch's own modules
def test_compiled_and_plain_agree(small_folder: Path) -> None:
    plain = source.open_model(ModelRecipe(source=str(small_folder), dtype="float32", device="cpu"))
    fused = source.open_model(ModelRecipe(source=str(small_folder), dtype="float32", device="cpu", compile=True))
    for sentences in ([[1, 2, 3], [7, 5], [9]], [[4]], [list(range(90)), [8, 8]]):
        packed = Packed.pack(sentences)
        expected, found = plain.logits(packed), fused.logits(packed)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
        points = ["1.resid_mid.norm", "2.mlp_out"]
        ours, theirs = fused.activations(packed, points), plain.activations(packed, points)
        for point in points:
            torch.testing.assert_close(ours[point], theirs[point], rtol=1e-5, atol=2e-5)
    x = torch.randn(5, 12).bfloat16()
    torch.testing.assert_close(between.compiled().gate(x), between.swiglu(x.clone()))


def test_only_a_llama_is_compiled(tmp_path: Path) -> None:
    write_model(tmp_path, "gpt2")
    with pytest.raises(ModelError, match=r"model\.compile: only Llama models are compiled, not .*; set it to false"):
        source.open_model(ModelRecipe(source=str(tmp_path), device="cpu", compile=True))


@pytest.mark.slow
def test_a_missing_compiler_is_one_line(small_folder: Path, tmp_path: Path) -> None:
    code = f"""
    from monosem.errors import ModelError
    from monosem.lm import source
    from monosem.recipe import ModelRecipe
    try:
        source.open_model(ModelRecipe(source={str(small_folder)!r}, device="cpu", compile=True))
    except ModelError as error:
        print(error)
    """
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("model.compile: torch.compile does not work here (")
    assert line.endswith("install a C++ compiler, or set it to false")
