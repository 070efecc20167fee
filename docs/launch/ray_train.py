"""Train under Ray: python docs/launch/ray_train.py RUN.toml OUT --workers 8

Ray places the processes and starts them again when a machine fails; the run then resumes from its
last saved state. OUT has to be a folder that all machines see.
"""

import argparse
from pathlib import Path

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def train(config: dict) -> None:
    """One process; Ray has set RANK, WORLD_SIZE and LOCAL_RANK, and joined the processes."""
    from editmgt_lib.training.commands import run_training

    device = "cuda" if torch.cuda.is_available() else "cpu"
    run_training(config["run"], Path(config["out"]), device=device)


def main() -> None:
    """Start the processes and wait."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="train without GPUs")
    args = parser.parse_args()
    run = str(Path(args.run).absolute()) if args.run.endswith(".toml") else args.run
    out = Path(args.out).absolute()
    ray.init()
    TorchTrainer(
        train,
        train_loop_config={"run": run, "out": str(out)},
        scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=not args.cpu),
        run_config=RunConfig(
            name="ray", storage_path=str(out), failure_config=FailureConfig(max_failures=3)
        ),
    ).fit()


if __name__ == "__main__":
    main()
