"""The calls of the verbs that exchange SAEs with other libraries."""

from pathlib import Path

from monosem import run
from monosem.cli.arguments.formats import ExportArguments, ImportArguments
from monosem.run import Run


def export(arguments: ExportArguments) -> None:
    from monosem.app import exchange

    folder = run.resolve(arguments.target, arguments.runs)
    source = Path(arguments.target) if folder is None else Run.open(folder).sae_folder
    exchange.export(source, arguments.format, arguments.out, unit_rows=arguments.unit_rows, as_json=arguments.json)


def bring(arguments: ImportArguments) -> None:
    from monosem.app import exchange

    place = exchange.Place(arguments.model, arguments.hook_point, arguments.target_hook_point)
    exchange.bring(arguments.folder, arguments.out, arguments.k, place, as_json=arguments.json)
