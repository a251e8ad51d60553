"""A small random model, and the embedded one, each in both implementations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import random_llama, small_config, write_folder
from transformers import AutoConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from monosem.lm.checkpoint import load_model
from monosem.lm.llama import Llama


@pytest.fixture(scope="session")
def reference() -> LlamaForCausalLM:
    """The small model in transformers."""
    return random_llama(small_config())


@pytest.fixture(scope="session")
def small_folder(reference: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's files."""
    return write_folder(tmp_path_factory.mktemp("small"), reference)


@pytest.fixture
def small(small_folder: Path) -> Llama:
    """The small model, ours."""
    return load_model(small_folder, device="cpu")


@pytest.fixture
def edited_folder(small_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the small model's folder with other values in its config.json."""

    def copy(**changes: object) -> Path:
        for file in small_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((small_folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        return tmp_path

    return copy


@pytest.fixture(scope="session")
def embedded(embedded_model_path: Path) -> Llama:
    """The embedded model, ours, fp32."""
    return load_model(embedded_model_path, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def embedded_reference(embedded_model_path: Path) -> LlamaForCausalLM:
    """The embedded model as transformers reads the same GGUF file."""
    config: Any = AutoConfig.from_pretrained(embedded_model_path.parent, gguf_file=embedded_model_path.name)
    model = LlamaForCausalLM(config).eval()
    tensors = load_gguf_checkpoint(embedded_model_path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing in ([], ["lm_head.weight"]), missing
    assert not unexpected
    model.tie_weights()
    return model
