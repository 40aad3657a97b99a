#!/bin/bash
# Trains over several machines with GPUs under Slurm: sbatch docs/slurm.sh CONFIG FOLDER [key.path=value ...]
# FOLDER is on a disk that all machines share. Submitted again, or requeued, the job goes on from FOLDER/last.pt.
#SBATCH --job-name=lifting
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

config=${1:?a configuration, such as configs/single_stage/resnet50_rle.yaml}
folder=${2:?the folder of the run}
if [ -e "$folder/last.pt" ]; then run=(--resume "$folder"); else run=(--config "$config" --output "$folder"); fi

# 120 seconds before the time is up, Slurm sends SIGTERM: each process finishes its step, the first saves, all exit.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 .venv/bin/torchrun \
  --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" --max-restarts=1 \
  --rdzv-backend=c10d --rdzv-endpoint="$head:29500" --rdzv-id="$SLURM_JOB_ID" \
  run_single_stage.py train "${run[@]}" data.workers=6 "${@:3}"
