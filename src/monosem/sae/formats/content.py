"""What lies in a folder that somebody else wrote: JSON and tensors, every flaw named in one line.

Tensors are checked for shape and finite values when they are taken, and are float32 from there on. Nothing that a file
holds is ever run: pickles are read as weights only.
"""

import json
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from monosem.errors import SaeError


class Settings:
    """A JSON object with the name of its file, for errors."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Raises SaeError: the file is missing, or holds no JSON object."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SaeError(f"{path}: no such file; copy the whole folder") from None
        except ValueError as error:
            raise SaeError(f"{path}: not JSON ({error}); copy the folder again") from None
        if not isinstance(values, dict):
            raise SaeError(f"{path}: expected a JSON object; copy the folder again")
        return cls(path, values)

    def part(self, key: str) -> "Settings":
        """The object below a key; an empty one if there is none."""
        found = self.values.get(key)
        return Settings(self.path, found if isinstance(found, dict) else {})

    def text(self, key: str) -> str:
        """A string; "" where there is none."""
        found = self.values.get(key)
        return found if isinstance(found, str) else ""

    def whole(self, key: str) -> int | None:
        """A whole number. Raises SaeError if the key holds something else."""
        found = self.number(key)
        if found is not None and found != int(found):
            raise SaeError(f"{self.path}: key {key!r} is {found!r}, expected a whole number")
        return None if found is None else int(found)

    def number(self, key: str) -> float | None:
        """A finite number. Raises SaeError if the key holds something else."""
        found = self.values.get(key)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise SaeError(f"{self.path}: key {key!r} is {found!r}, expected a number")
        return float(found)

    def refusal(self, key: str, why: str) -> SaeError:
        """The error for a setting that our model has no counterpart of."""
        return SaeError(f"{self.path}: {key} is {self.values.get(key)!r}: {why}")


class Tensors:
    """The named tensors of one file."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path, self._content = path, dict(content)

    def __contains__(self, name: str) -> bool:
        return name in self._content

    def other(self, name: str) -> Any:
        """What a pickle holds besides tensors; None where it is not there."""
        return self._content.get(name)

    def take(self, name: str, *shape: int | None) -> Tensor:
        """A tensor in float32, once: it is let go of here, because large ones hardly fit twice.

        Args:
            shape: as expected; None: any size.

        Raises:
            SaeError: it is missing, has another shape, or holds values that are not finite.
        """
        expected = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        tensor = self._content.get(name)
        if not isinstance(tensor, Tensor):
            there = ", ".join(sorted(map(str, self._content))[:12])
            raise SaeError(f"{self.path}: key {name!r} is missing, expected shape {expected}; there are: {there}")
        fits = [size is None or size == found for size, found in zip(shape, tensor.shape, strict=False)]
        if tensor.dim() != len(shape) or not all(fits):
            raise SaeError(f"{self.path}: key {name!r} has shape {list(tensor.shape)}, expected {expected}")
        if not bool(tensor.isfinite().all()):
            raise SaeError(f"{self.path}: key {name!r} holds values that are not finite; copy the file again")
        del self._content[name]
        return tensor.detach().float().contiguous()

    def only_ones(self, names: Sequence[str]) -> None:
        """Raises SaeError if there is a tensor of one of these names that is not all ones."""
        for name in names:
            tensor = self._content.get(name)
            if isinstance(tensor, Tensor) and not bool((tensor.float() == 1).all()):
                raise SaeError(f"{self.path}: key {name!r} is not all ones: codes and decoder would be scaled apart")


def read_safetensors(path: Path) -> Tensors:
    """Raises SaeError: the file is missing or damaged."""
    try:
        return Tensors(path, load_file(path))
    except FileNotFoundError:
        raise SaeError(f"{path}: no such file; copy the whole folder") from None
    except SafetensorError as error:
        raise SaeError(f"{path}: damaged ({error}); copy the folder again") from None


def read_pickle(path: Path) -> Tensors:
    """Raises SaeError: the file is missing, damaged, or would run code when it is read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SaeError(f"{path}: no such file; copy the whole folder") from None
    except pickle.UnpicklingError:
        raise SaeError(
            f"{path}: damaged, or holds more than tensors, which could run code when read; save its state_dict() anew"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        first, *_ = str(error).split("\n")
        raise SaeError(f"{path}: damaged ({first}); copy it again") from None
    if not isinstance(content, dict):
        raise SaeError(f"{path}: holds a {type(content).__name__}, expected tensors by name; save its state_dict()")
    return Tensors(path, content)


def read_npz(path: Path) -> Tensors:
    """Raises SaeError: the file is missing, damaged, or holds objects."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Tensors(path, {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files})
    except FileNotFoundError:
        raise SaeError(f"{path}: no such file; copy the whole folder") from None
    except (ValueError, TypeError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise SaeError(f"{path}: damaged, or no archive of numbers ({error}); copy it again") from None
