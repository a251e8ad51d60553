"""Of the verb `store` and its actions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from monosem.cli.arguments.fields import AsJson

StorePath = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(help="A finished `activations/HOOK` or `batches/HOOK`: its folder, or an fsspec URL."),
]


@dataclass(frozen=True)
class StoreVerify:
    """Compare every shard with its checksum, over all cores; exit code 2 if any is damaged or missing."""

    path: StorePath
    json: AsJson = False


@dataclass(frozen=True)
class StoreList:
    """List the shards."""

    path: StorePath
    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class StoreStats:
    """Show count, norms, variance, format, what was dropped, model and hook point."""

    path: StorePath
    json: bool = False
    """Print the figures as one JSON object."""


@dataclass(frozen=True)
class StoreMerge:
    """Join parts of one capture that were made in different places; shards are linked where the disk allows it."""

    target: tyro.conf.Positional[Path]
    """The new folder."""
    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Finished `activations/HOOK` folders of the same model, hook point and sentences."""
    json: AsJson = False


@dataclass(frozen=True)
class StorePack:
    """Copy a store into a few large archives, to be uploaded. A packed store is read as it is: nothing unpacks it."""

    path: StorePath
    target: tyro.conf.Positional[str]
    """A folder or fsspec URL for the archives; what an interrupted packing wrote there is kept."""
    gb: float = 8.0
    """Size of an archive, in 10^9 bytes."""
    json: AsJson = False


@dataclass(frozen=True)
class StoreArguments:
    """Check, list, measure, merge or pack stores of activations.

    Example: monosem store pack runs/demo/batches/20.resid_post s3://bucket/demo/20.resid_post
    """

    action: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[StoreVerify, tyro.conf.subcommand("verify")]
            | Annotated[StoreList, tyro.conf.subcommand("ls")]
            | Annotated[StoreStats, tyro.conf.subcommand("stats")]
            | Annotated[StoreMerge, tyro.conf.subcommand("merge")]
            | Annotated[StorePack, tyro.conf.subcommand("pack")]
        ]
    ]
