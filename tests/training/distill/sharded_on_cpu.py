"""`mavis` in a process that takes two processors for what shards: accelerate's FSDP, which it starts on GPUs alone.

FSDP itself works on any device; accelerate asks for it only where the processes have GPUs. This names the processes'
kind again once accelerate has, and lets the fit pass its own check, so that all else is what runs on GPUs.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.training.distill.sharded_on_cpu stage ...
"""

from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from training.cli import app
from training.fit import stage

_made = AcceleratorState.__init__


def _sharding(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
    _made(self, *args, **kwargs)
    if (plugin := kwargs.get("fsdp_plugin")) is not None:
        self.fsdp_plugin = plugin
    if "fsdp_plugin" in AcceleratorState._shared_state:
        self.distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = _sharding
    stage.can_shard = lambda: True
    app()
