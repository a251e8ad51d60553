"""Fine-tuning of a trained SAE against the language model: the stage `finetune`, which a recipe may leave out.

Karvonen (2025), "Revisiting end-to-end sparse autoencoder training: a short finetune is all you need" (arXiv
2503.17272): squared error and KL divergence together, on a few last tokens. Stages that read the run's SAE ask here
which stage leaves it.
"""

from monosem.finetune.stage import make, open_stage
from monosem.run import Run, Stage
from monosem.train import loop

__all__ = ["make", "open_stage", "sae_stage"]


def sae_stage(run: Run) -> Stage:
    """The stage that leaves the run's SAE in its `final/`, which is `run.sae_folder`.

    Raises:
        RunError: its files were made with another recipe.
    """
    return open_stage(run) if run.recipe.finetune.wanted else loop.open_stage(run)
