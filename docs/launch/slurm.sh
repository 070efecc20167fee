#!/usr/bin/env bash
# Train on several machines under Slurm: sbatch docs/launch/slurm.sh RUN.toml OUT
#SBATCH --job-name=editmgt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# One task per GPU, without torchrun: Slurm's SIGTERM, five minutes before the time limit or on
# preemption, then reaches the program itself, which has that long to finish the step and save;
# torchrun gives it 30 seconds. The requeued job resumes.
srun bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
    exec editmgt train "$1" --out "$2" --device cuda
' editmgt-train "$1" "$2"
