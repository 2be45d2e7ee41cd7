"""Whether value checkpoints fit a base model.

    python -m valuemodels.models.check FOLDER... --base MODEL [--base-revision REVISION] [--scoring fast]...

says in one sentence why one does not, and exits with 2. Runs in a process of its own before the server starts.
"""

import argparse
import sys
from typing import get_args

import torch

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import load_probe, load_value_model


def main(argv: list[str] | None = None) -> int:
    """Returns 0 where every checkpoint fits, else 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m valuemodels.models.check")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--base", required=True)
    parser.add_argument("--base-revision")
    parser.add_argument("--scoring", action="append", choices=get_args(Scoring), help="only what this one needs")
    arguments = parser.parse_args(argv)
    wanted = set(arguments.scoring or get_args(Scoring))
    try:
        for folder in arguments.folders:
            where = {"device": "cpu", "base_revision": arguments.base_revision}
            offered = read_value_config(folder).scorings
            if "exact" in offered and wanted & {"exact", "hybrid"}:
                load_value_model(folder, arguments.base, dtype=torch.float32, **where)
            if "fast" in offered and wanted & {"fast", "hybrid"}:
                load_probe(folder, arguments.base, **where)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
