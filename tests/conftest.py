"""A tiny model and text for fast tests of whole stages; the embedded ones for tests marked `model`."""

import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from monosem import assets

# a shell without job control lets what runs in the background ignore Ctrl-C, and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

CORES = torch.get_num_threads()
torch.set_num_threads(1)  # threads that wait for each other cost small models more than they compute


@pytest.fixture(autouse=True)
def _all_cores_for_the_embedded_model(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("model"):
        torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(1)


TOPICS = {
    "sea": ["ship", "harbour", "sailor", "wave", "storm", "anchor", "island", "tide", "captain", "rope"],
    "music": ["violin", "melody", "singer", "rhythm", "concert", "piano", "song", "chord", "orchestra", "drum"],
    "number": ["prime", "sum", "proof", "integer", "theorem", "square", "root", "algebra", "function", "limit"],
}


@pytest.fixture(scope="session")
def tiny_documents() -> list[dict[str, str]]:
    """1,500 short documents of three topics: `text`, `topic`."""
    draw = random.Random(5)
    documents = []
    for index in range(1500):
        topic = list(TOPICS)[index % len(TOPICS)]
        lengths = [draw.randint(2, 14) for _ in range(draw.randint(1, 6))]
        sentences = ["The " + " ".join(draw.choices(TOPICS[topic], k=length)) + "." for length in lengths]
        documents.append({"text": " ".join(sentences), "topic": topic})
    return documents


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_documents: list[dict[str, str]]) -> Path:
    """Folder of a Llama with random weights in Hugging Face's layout: 3 layers, width 32, its own tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([document["text"] for document in tiny_documents], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    d, heads, kv, ff, vocab, layers = 32, 4, 2, 64, tokenizer.get_vocab_size(), 3
    config = {
        "model_type": "llama",
        "hidden_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ff,
        "vocab_size": vocab,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(11)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    tensors = {"model.embed_tokens.weight": weight(vocab, d), "model.norm.weight": torch.ones(d)}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        tensors |= {
            block + "self_attn.q_proj.weight": weight(d, d),
            block + "self_attn.k_proj.weight": weight(d // heads * kv, d),
            block + "self_attn.v_proj.weight": weight(d // heads * kv, d),
            block + "self_attn.o_proj.weight": weight(d, d),
            block + "mlp.gate_proj.weight": weight(ff, d),
            block + "mlp.up_proj.weight": weight(ff, d),
            block + "mlp.down_proj.weight": weight(d, ff),
            block + "input_layernorm.weight": torch.ones(d),
            block + "post_attention_layernorm.weight": torch.ones(d),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_documents: list[dict[str, str]]
) -> Path:
    """A recipe that takes the tiny model through every stage in seconds, with several small shards."""
    folder = tmp_path_factory.mktemp("tiny-recipe")
    text = folder / "documents.jsonl"
    text.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents))
    recipe = folder / "tiny.toml"
    recipe.write_text(
        f"""
        name = "tiny"
        [model]
        source = {str(tiny_model)!r}
        dtype = "float32"
        [corpus]
        sources = [{str(text)!r}]
        label_field = "topic"
        [capture]
        hook_points = ["1.resid_post"]
        batch_tokens = 256
        shard_mb = 1
        [prepare]
        validation_fraction = 0.2
        shard_mb = 1
        [sae]
        n = 64
        k = 4
        normalisation = "dataset"
        [train]
        batch = 512
        epochs = 3
        lr = 3e-3
        k_aux = 16
        dead_tokens = 2_000
        log_points = 10
        validations = 2
        checkpoint_minutes = 0.02
        [evaluate]
        sentences = 20
        steering_latents = 3
        steering_controls = 4
        [score]
        sentences = 600
        shuffles = 20
        random_latents = 10
        sample = 2
        [report]
        latents = 20
        """
    )
    return recipe


@pytest.fixture(scope="session")
def embedded_model_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    return assets.resolve("smollm2-135m-instruct").path


@pytest.fixture(scope="session")
def embedded_articles() -> list[dict[str, str]]:
    """Wikipedia summaries: `title`, `extract`, `topic`."""
    return list(json.loads(assets.resolve("wikipedia-en").path.read_text(encoding="utf-8")).values())


@pytest.fixture(scope="session")
def embedded_texts(embedded_articles: list[dict[str, str]]) -> list[str]:
    """All English sentences of the embedded text, in order."""
    import punkt

    tokenizer = punkt.tokenizer_for("english")
    return [sentence for article in embedded_articles for sentence in tokenizer.tokenize(article["extract"])]


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line, expect exit code 2 and one line on standard error; gives that line."""
    from monosem.cli import main

    def run(*argv: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(argv)
        captured = capsys.readouterr()
        assert exit_.value.code == 2
        assert captured.out == ""
        last = captured.err.strip().splitlines()[-1]
        assert last.startswith("error: "), captured.err
        assert "Traceback" not in captured.err
        return last

    return run
