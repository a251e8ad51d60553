import pytest
import torch

from monosem.errors import ModelError
from monosem.lm.generate import Sampler, Sampling, collect, first_largest
from monosem.lm.llama import Llama
from monosem.lm.packed import Packed

PROMPTS = [[5, 6, 7], [100], list(range(40, 80)), [9, 8, 7, 6, 5, 4], [5, 6, 7, 200]]


def complete(
    model: Llama, prompts: list[list[int]], seeds: list[int] | None = None, **sampling: float
) -> list[list[int]]:
    settings = Sampling(**({"max_new_tokens": 20} | sampling))  # pyright: ignore[reportArgumentType]
    return collect(model.generate(prompts, settings, seeds), len(prompts))


def without_cache(model: Llama, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model.logits(Packed.pack([ids]))[-1].argmax()))
        if ids[-1] in model.tokenizer.eos_ids:
            break
    return ids[len(prompt) :]


def test_greedy_equals_the_model_without_cache_in_every_batch(small: Llama) -> None:
    expected = [without_cache(small, prompt, 20) for prompt in PROMPTS]
    assert len({tuple(text) for text in expected}) == len(PROMPTS)
    assert complete(small, PROMPTS) == expected
    assert complete(small, PROMPTS[::-1]) == expected[::-1]
    assert [complete(small, [prompt])[0] for prompt in PROMPTS] == expected


def test_an_edit_acts_in_every_step_with_the_cache(small: Llama) -> None:
    with small.hooks({"1.resid_post": lambda x: x + 0.5, "2.z": lambda x: x * 0.5}):
        expected = [without_cache(small, prompt, 20) for prompt in PROMPTS]
        assert complete(small, PROMPTS) == expected
        begun = small.generate(PROMPTS, Sampling(max_new_tokens=20))
    assert collect(begun, len(PROMPTS)) == expected, "the hooks active at the call hold to the end"
    assert complete(small, PROMPTS) != expected


def test_hooks_see_the_prompts_then_one_token_of_each_row(small: Llama) -> None:
    seen: list[int] = []
    with small.hooks({"1.resid_post": lambda x: seen.append(len(x))}):
        complete(small, PROMPTS[:2], max_new_tokens=3)
    assert seen == [4, 2, 2]


def test_a_seed_fixes_a_row_whatever_its_neighbours(small: Llama) -> None:
    seeds = [3, 1, 4, 1, 5]
    together = complete(small, PROMPTS, seeds, temperature=1.5, top_p=0.9)
    alone = [complete(small, [p], [s], temperature=1.5, top_p=0.9)[0] for p, s in zip(PROMPTS, seeds, strict=True)]
    assert together == alone
    assert complete(small, [PROMPTS[0]] * 2, [1, 2], temperature=1.5) != complete(
        small, [PROMPTS[0]] * 2, [1, 1], temperature=1.5
    )
    assert complete(small, PROMPTS, temperature=1.5, seed=1) == complete(small, PROMPTS, [1] * 5, temperature=1.5)


def test_a_row_ends_with_the_token_that_closes_a_text(small: Llama) -> None:
    plain = complete(small, PROMPTS)
    small.tokenizer.eos_ids = (plain[0][4], plain[2][7])
    steps = list(small.generate(PROMPTS, Sampling(max_new_tokens=20)))
    texts = collect(iter(steps), len(PROMPTS))
    for text, unbroken in zip(texts, plain, strict=True):
        ends = [place for place, token in enumerate(unbroken) if token in small.tokenizer.eos_ids]
        assert text == unbroken[: ends[0] + 1 if ends else None]
    assert len(texts[0]) <= 5
    ended = [row for step in steps for row, end in zip(step.rows, step.ended, strict=True) if end]
    assert sorted(ended) == list(range(len(PROMPTS)))


def test_top_p_draws_from_the_fewest_tokens_that_are_enough() -> None:
    probability = torch.tensor([[0.05, 0.5, 0.15, 0.3]])

    def drawn(top_p: float, temperature: float = 1.0) -> torch.Tensor:
        sampler = Sampler(Sampling(temperature=temperature, top_p=top_p), [7])
        return (
            torch.tensor([int(sampler.choose(probability.log(), [0])) for _ in range(2000)]).bincount(minlength=4)
            / 2000
        )

    torch.testing.assert_close(drawn(1.0), probability[0], atol=0.04, rtol=0)
    torch.testing.assert_close(drawn(0.7), torch.tensor([0, 0.625, 0, 0.375]), atol=0.04, rtol=0)
    torch.testing.assert_close(drawn(1e-9), torch.tensor([0.0, 1, 0, 0]))
    squared = probability[0] ** 2 / (probability[0] ** 2).sum()
    torch.testing.assert_close(drawn(1.0, temperature=0.5), squared, atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -0.1}, "temperature is -0.1, expected 0 "),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0, expected more than 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, expected at least 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Sampling(**settings)  # pyright: ignore[reportArgumentType]


def test_prompts_that_do_not_fit_are_refused_at_the_call(small: Llama) -> None:
    with pytest.raises(ModelError, match="prompt 1 is empty"):
        small.generate([[1], []], Sampling())
    with pytest.raises(ModelError, match="the prompt has 65 tokens; with 64 new ones at most 64 fit"):
        small.generate([[1] * 65], Sampling())
    with pytest.raises(ModelError, match="1 seeds for 2 prompts"):
        small.generate([[1], [2]], Sampling(), seeds=[1])
    assert len(complete(small, [[1] * 64], max_new_tokens=64)[0]) <= 64
    assert list(small.generate([], Sampling())) == []


@pytest.mark.parametrize("vocab", [64, 4096, 1000])
def test_the_first_of_the_largest_is_chosen(vocab: int) -> None:
    draw = torch.Generator().manual_seed(vocab)
    logits = torch.randint(0, 7, (50, vocab), generator=draw).float()  # many ties
    logits[0] = -torch.inf
    logits[1] = 0.0
    assert torch.equal(first_largest(logits), logits.argmax(-1))
    distinct = torch.randn(50, vocab, generator=draw)
    assert torch.equal(first_largest(distinct), distinct.argmax(-1))
