"""The calls of the verbs that make a run, foresee one, or look after its stores."""

import dataclasses
from collections.abc import Callable

from monosem import pipeline, progress, ranks
from monosem.cli.arguments.stages import EstimateArguments, ExplainArguments, StageArguments, SweepArguments
from monosem.cli.arguments.store import StoreArguments, StoreList, StoreMerge, StorePack, StoreStats, StoreVerify
from monosem.cli.targets import recipe_of, run_path
from monosem.run import Run


def stages(*verbs: str) -> Callable[[StageArguments], None]:
    """The call that makes these stages."""

    def call(arguments: StageArguments) -> None:
        with ranks.joined() as together:
            if not together.first:
                progress.silence()
            wanted = arguments.recipe
            if arguments.dry_run:
                from monosem import dry_run

                wanted = together.once("the rehearsal", lambda: dry_run.rehearse(wanted, arguments.runs))
                path = arguments.runs / wanted.name
            else:
                path = run_path(arguments.target, arguments.runs, wanted.name)
            of_recipe = Run(path, wanted, together)
            made = pipeline.make(of_recipe, verbs, arguments.redo)
        if together.first:
            from monosem.app import summary

            summary.show(of_recipe, made, as_json=arguments.json)

    return call


def estimate(arguments: EstimateArguments) -> None:
    from monosem.app import estimates

    estimates.show(
        arguments.recipe,
        arguments.gpu,
        arguments.gpus,
        arguments.runs,
        measure=arguments.measure,
        as_json=arguments.json,
    )


def explain(arguments: ExplainArguments) -> None:
    if arguments.dry_run:
        stages("explain")(arguments)
        return
    of_recipe = Run(run_path(arguments.target, arguments.runs, arguments.recipe.name), arguments.recipe)
    pipeline.make(of_recipe, (), arguments.redo)
    from monosem.app import explaining

    budget = arguments.recipe.explain.max_usd if arguments.max_usd is None else arguments.max_usd
    consent = explaining.Consent(arguments.yes or arguments.recipe.explain.send, budget)
    explaining.STEPS[arguments.step](of_recipe, consent, arguments)
    if arguments.step == "run":
        stages("explain")(dataclasses.replace(arguments, redo=None))


def sweep(arguments: SweepArguments) -> None:
    from monosem.app import sweeps
    from monosem.sweep import axes, stage

    wanted = axes.read(recipe_of(arguments.target, arguments.runs), arguments.keys)
    path = run_path(arguments.target, arguments.runs, wanted.recipe.name)
    with ranks.joined() as together:
        if not together.first:
            progress.silence()
        rows = stage.make(path, wanted, together)
    if together.first:
        sweeps.show(path, rows, as_json=arguments.json)


def store(arguments: StoreArguments) -> None:
    from monosem.app import store as stores

    match arguments.action:
        case StoreVerify(path, json):
            stores.verify(path, as_json=json)
        case StoreList(path, json):
            stores.list_shards(path, as_json=json)
        case StoreStats(path, json):
            stores.stats(path, as_json=json)
        case StoreMerge(target, sources, json):
            stores.merge(target, sources, as_json=json)
        case StorePack(path, url, gb, json):
            stores.pack(path, url, gb, as_json=json)
