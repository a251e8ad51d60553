"""`python -m monosem`, and what `torchrun -m monosem` starts on every rank."""

from monosem.cli import main

main()
