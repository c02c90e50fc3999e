"""Time one training step on BCCD, ours and torchvision's in turns in one process.

    python measurements/bccd_steps.py --data FOLDER --weights FILE [--recipe RECIPE] [--rounds 12] [OVERRIDE ...]

Both take the same batches of `small_dataset` (FCOS), `small_dataset_retinanet` or `small_dataset_faster_rcnn`; a step
is forward, loss, backward, clipping and AdamW. Prints the median of each, and the median and quartiles of the ratios
of consecutive pairs, in bf16 and in float32.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torchvision_peer import TorchvisionPeer

from boxwright.config.resolvers import register_resolvers
from datamodules.batch import Batch
from lit_modules.detection_module import DetectionModule

CONF = Path(__file__).resolve().parents[1] / "conf"


def stepper(module: DetectionModule, cfg: DictConfig, bf16: bool):
    module.network.to(memory_format=torch.channels_last)
    module.train()
    optimizer = module.make_optimizer(module.network, cfg.model.lr)

    def step(batch: Batch) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            total = torch.stack(list(module.losses(module.forward_batch(batch), batch).values())).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), cfg.trainer.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--recipe", default="small_dataset")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [
            f"experiment={options.recipe}", f"data.root={options.data}", "data.classes=[RBC,WBC,Platelets]",
            f"model.backbone.weights={options.weights}", *options.overrides,
        ])  # fmt: skip
    data = instantiate(cfg.data)
    data.setup("fit")
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(options.rounds + 2), strict=False)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(batches[0].images)} images a step")
    for bf16 in (True, False):
        ours = stepper(instantiate(cfg.model), cfg, bf16)
        theirs = stepper(TorchvisionPeer(cfg.model, cfg.data.resize), cfg, bf16)
        for batch in batches[:2]:
            ours(batch), theirs(batch)
        pairs = [(ours(batch), theirs(batch)) for batch in batches[2:]]
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
        least = [min(column) for column in zip(*pairs, strict=True)]
        print(
            f"{'bf16' if bf16 else 'float32'}: ours {mine:.3f} s (least {least[0]:.3f}), torchvision {other:.3f} s "
            f"(least {least[1]:.3f}), ratio {middle:.2f} (quartiles {low:.2f}, {high:.2f})"
        )


if __name__ == "__main__":
    main()
